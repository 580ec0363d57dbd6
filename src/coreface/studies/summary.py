"""The results of a study so far: all runs, and each contrast in every measure of every set."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import EvaluationError
from coreface.studies.plan import Measure, Study, digest, measure_names
from coreface.studies.results import FINISHED, Place, standing
from coreface.studies.scores import SetScores, read_scores
from coreface.studies.statistics import Effect, holm, paired_effect, smallest_detectable


@dataclass(frozen=True)
class Contrast:
    """The difference of two arms in one measure of one set.

    Attributes:
        first: the arm.
        second: the arm that is subtracted.
        set_name: the set.
        measure: the measure.
        primary: whether it is the study's primary outcome; all others are exploratory.
        effect: the difference with its interval.
        by_seed: seed -> the difference of its two runs.
        holm: p-value adjusted over the contrasts of the primary measure; None for an exploratory one.
        detectable: smallest difference that the study would detect with power 0.8, by an uncorrected test.
        detectable_holm: likewise, in the first step of Holm's procedure; None for an exploratory one.
        approximate: whether people are only partly known, so that the interval over them is approximate.
    """

    first: str
    second: str
    set_name: str
    measure: str
    primary: bool
    effect: Effect
    by_seed: Mapping[int, float]
    holm: float | None
    detectable: float | None
    detectable_holm: float | None
    approximate: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        values = {name: value for name, value in vars(self).items() if name not in ("effect", "by_seed", "set_name")}
        by_seed = {str(seed): value for seed, value in self.by_seed.items()}
        return {**values, "set": self.set_name, "effect": self.effect.to_dict(), "by_seed": by_seed}


@dataclass(frozen=True)
class Summary:
    """The current results of a study.

    Attributes:
        study: its plan.
        rows: (seed, arm) -> the row of a run that finished or diverged.
        measures: (seed, arm) -> set -> measure -> value, for finished runs.
        contrasts: the primary ones first.
    """

    study: Study
    rows: Mapping[tuple[int, str], Mapping[str, Any]]
    measures: Mapping[tuple[int, str], Mapping[str, Mapping[str, float | None]]]
    contrasts: tuple[Contrast, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain Python values; times are under ``times``."""
        study = self.study
        runs = []
        for (seed, arm), row in self.rows.items():
            kept = {name: value for name, value in row.items() if name not in ("recipe", "sets")}
            runs.append({**kept, "measures": self.measures.get((seed, arm))})
        return {
            "study": study.name,
            "shared_until": study.shared_until,
            "seeds": list(study.seeds),
            "arms": list(study.arms),
            "differences": {name: dict(zip(study.arms, row, strict=True)) for name, row in study.differences()},
            "primary": {"set": study.primary[0], "measure": study.primary[1]},
            "planned": len(study.seeds) * len(study.arms),
            "finished": sum(row["state"] == FINISHED for row in self.rows.values()),
            "contrasts": [contrast.to_dict() for contrast in self.contrasts],
            "runs": runs,
        }


def summarise(study: Study, place: Place) -> Summary:
    """Read the results of all finished runs, and compute the contrasts.

    Raises:
        EvaluationError: scores are damaged, or runs were measured on different pairs or trained on different faces.
    """
    rows: dict[tuple[int, str], Mapping[str, Any]] = {}
    paths: dict[tuple[int, str], Path] = {}
    for seed in study.seeds:
        for arm in study.arms:
            found = standing(study, place, seed, arm)
            if found.state == "done" and found.row is not None and found.path is not None:
                rows[seed, arm], paths[seed, arm] = found.row, found.path
    finished = {key: row for key, row in rows.items() if row["state"] == FINISHED}
    _require_same_faces(finished)
    scores = {key: read_scores(place.scores(paths[key])) for key in finished}
    for name in study.measure.sets:
        _require_same_pairs(name, {key: found[name] for key, found in scores.items()})
    measures = {
        key: {name: found[name].measures(study.measure.fars) for name in study.measure.sets}
        for key, found in scores.items()
    }
    resamples = {
        key: {
            name: _resamples(place, str(finished[key]["scores_sha256"]), name, scores[key][name], study.measure)
            for name in study.measure.sets
        }
        for key in finished
    }
    contrasts = []
    for name in sorted(study.measure.sets, key=lambda one: one != study.primary[0]):
        for measure in sorted(measure_names(study.measure), key=lambda one: (name, one) != study.primary):
            if any(values[name][measure] is not None for values in measures.values()) or (
                (name, measure) == study.primary
            ):
                contrasts += _contrasts(study, name, measure, scores, measures, resamples)
    return Summary(study, rows, measures, tuple(contrasts))


def _contrasts(
    study: Study,
    name: str,
    measure: str,
    scores: Mapping[tuple[int, str], Mapping[str, SetScores]],
    measures: Mapping[tuple[int, str], Mapping[str, Mapping[str, float | None]]],
    resamples: Mapping[tuple[int, str], Mapping[str, NDArray[np.float64]]],
) -> list[Contrast]:
    column = measure_names(study.measure).index(measure)
    primary = (name, measure) == study.primary
    found: list[tuple[tuple[str, str], dict[int, float], Effect]] = []
    for first, second in study.contrasts:
        by_seed: dict[int, float] = {}
        replicates = []
        for seed in study.seeds:
            one, other = (measures.get((seed, arm), {}).get(name, {}).get(measure) for arm in (first, second))
            if one is None or other is None:
                continue
            by_seed[seed] = one - other
            replicates.append(resamples[seed, first][name][:, column] - resamples[seed, second][name][:, column])
        people = next((found[name].pairs.identities for found in scores.values()), 2)
        stacked = np.stack(replicates, axis=1) if replicates else np.empty((0, 0))
        found.append(((first, second), by_seed, paired_effect(list(by_seed.values()), stacked, people)))
    adjusted = holm([effect.p_value for _, _, effect in found])
    approximate = any(not one[name].named for one in scores.values())
    return [
        Contrast(
            first=first,
            second=second,
            set_name=name,
            measure=measure,
            primary=primary,
            effect=effect,
            by_seed=by_seed,
            holm=p_value if primary else None,
            detectable=smallest_detectable(effect),
            detectable_holm=smallest_detectable(effect, len(found)) if primary else None,
            approximate=approximate,
        )
        for ((first, second), by_seed, effect), p_value in zip(found, adjusted, strict=True)
    ]


def _resamples(place: Place, scores_digest: str, name: str, scores: SetScores, measure: Measure) -> NDArray[np.float64]:
    """Return the measures of resampled people, cached next to the results since they take seconds per run."""
    key = digest({"scores": scores_digest, "set": name, "fars": measure.fars, "replicates": measure.replicates})
    path = place.folder / "resamples" / f"{key}.npy"
    try:
        kept: NDArray[np.float64] = np.load(path, allow_pickle=False)
        if kept.shape == (measure.replicates, len(measure_names(measure))):
            return kept
    except (OSError, ValueError, EOFError):
        pass
    values = scores.resampled(measure.fars, measure.replicates)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp.npy")
    np.save(temporary, values)
    temporary.replace(path)
    return values


def _require_same_faces(rows: Mapping[tuple[int, str], Mapping[str, Any]]) -> None:
    seen: dict[str, tuple[int, str]] = {}
    for key, row in rows.items():
        seen.setdefault(str(row["faces"]["sha256"]), key)
    if len(seen) > 1:
        one, other = list(seen.values())[:2]
        raise EvaluationError(
            f"seed {one[0]}, {one[1]} and seed {other[0]}, {other[1]} were trained on different faces: compare "
            "runs of one set of training faces; remove the results of the others"
        )


def _require_same_pairs(name: str, scores: Mapping[tuple[int, str], SetScores]) -> None:
    seen: dict[str, tuple[int, str]] = {}
    for key, one in scores.items():
        seen.setdefault(one.digest(), key)
    if len(seen) > 1:
        one_run, other = list(seen.values())[:2]
        raise EvaluationError(
            f"{name}: seed {one_run[0]}, {one_run[1]} and seed {other[0]}, {other[1]} were measured on different "
            "pairs: the set has changed; remove the scores (.npz) of the older results to measure again"
        )
