"""From scores to decisions: the threshold for a requested error rate, and the error rate at a score.

A calibration belongs to one encoder, or to one pipeline that detects, aligns and embeds faces: it contains the digest
and cannot be used with another. Its rates hold only for people similar to those it was fitted on.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coreface.errors import InputError, ModelError
from coreface.evaluation.calibrated_threshold import CalibratedThreshold, Method
from coreface.evaluation.effective_pairs import FMRS, checked_effective, effective_pairs, trials_at
from coreface.evaluation.metrics.pair_scores import PairSample
from coreface.evaluation.metrics.proportions import badge, wilson
from coreface.evaluation.metrics.scores import allowed_false_matches, checked_floats, checked_kinds
from coreface.evaluation.metrics.tail import Tail
from coreface.evaluation.template_scores import POOLINGS, Pooling, TemplateScores
from coreface.files import write_atomically

CALIBRATION = "calibration.json"
ENOUGH_ALARMS = 30  # false alarms that non-mated searches need to be used: the rule of 30
COMPARABLE = 2.0  # searches are used for galleries up to this factor smaller or larger than theirs

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Calibrator:
    """Score distributions of an encoder, small enough to be stored next to it.

    Attributes:
        genuine: the genuine scores.
        impostor: the impostor scores.
        searches: best scores of non-mated searches, or None.
        gallery: entries of the gallery of those searches.
        effective: effective number of impostor pairs at each rate of `FMRS` (used by Wilson's interval), from resampled
            identities; empty without identities.
        identities: number of identities; 0 if they were not given.
        templates: scores of templates of several images, by the rule that pools them; empty where there are none.
    """

    genuine: Tail
    impostor: Tail
    searches: Tail | None = None
    gallery: int = 0
    effective: tuple[float | None, ...] = ()
    identities: int = 0
    templates: Mapping[Pooling, tuple[TemplateScores, ...]] = field(default_factory=dict)

    @classmethod
    def fit(
        cls,
        genuine: ArrayLike,
        impostor: ArrayLike,
        *,
        pairs: PairSample | None = None,
        non_mated: ArrayLike | None = None,
        gallery: int = 0,
        seed: int = 0,
        templates: Mapping[Pooling, tuple[TemplateScores, ...]] | None = None,
    ) -> "Calibrator":
        """Learn the distributions of scores.

        Args:
            genuine: (G,) scores of pairs of the same identity.
            impostor: (I,) scores of pairs of different identities.
            pairs: the same scores with their identities, for intervals.
            non_mated: (S,) best score of each search of a person who is not in the gallery.
            gallery: number of entries in the gallery of those searches.
            seed: of the bootstrap.
            templates: what `score_templates` has found in the same people.

        Raises:
            InputError: wrong shape or dtype, or searches without the size of their gallery.
            EvaluationError: scores are missing or not finite.
        """
        genuine, impostor = checked_kinds(genuine, impostor)
        searches = None
        if non_mated is not None:
            searches = Tail.of(checked_floats(non_mated, "non-mated search scores", 1).astype(impostor.dtype))
            if gallery < 1:
                raise InputError(f"gallery is {gallery}; expected the number of entries that were searched, 1 or more")
        effective = () if pairs is None else effective_pairs(pairs, seed)
        known = 0 if pairs is None else pairs.identities
        tails = Tail.of(genuine), Tail.of(impostor), searches
        return cls(*tails, gallery if searches else 0, effective, known, templates or {})

    def threshold(self, fmr: float) -> CalibratedThreshold:
        """Return the lowest threshold whose FMR stays at or below a target, with what is known of it.

        Raises:
            InputError: ``fmr`` is not between 0 and 1.
        """
        return self._at(float(fmr), allowed_false_matches(fmr, self.impostor.count), "fmr")

    def gallery_threshold(self, size: int, fpir: float) -> CalibratedThreshold:
        """Return the threshold for a false positive identification rate in a gallery of ``size`` entries.

        The threshold is computed from pairs, as if the entries of a gallery were independent: FPIR = 1 - (1 - FMR)^N.
        If the calibration has searches in a gallery of M entries of comparable size, half to twice N, with 30 or more
        false alarms, it is the quantile of those searches' best scores at 1 - (1 - FPIR)^(M / N). Other sizes are not
        extrapolated: the tail of searches in a large gallery comes from people who resemble many others, and does not
        apply to a small one.

        Raises:
            InputError: ``size`` is below 1, or ``fpir`` is not between 0 and 1.
        """
        if size < 1:
            raise InputError(f"the gallery has {size} entries; expected 1 or more")
        allowed_false_matches(fpir, 0)
        if self.searches is not None and 1 / COMPARABLE <= size / self.gallery <= COMPARABLE:
            share = -np.expm1(np.log1p(-fpir) * self.gallery / size)
            alarms = _allowed(share, self.searches.count)
            if ENOUGH_ALARMS <= alarms < self.searches.count:
                return self._of_searches(float(fpir), alarms, size)
        share = -np.expm1(np.log1p(-fpir) / size)
        found = self._at(float(fpir), _allowed(share, self.impostor.count), "independence")
        expected, low, high = (_in_gallery(rate, size) for rate in (found.fmr, found.fmr_low, found.fmr_high))
        trials = None if found.fmr is None else self.trials(found.fmr)
        if trials is not None and found.fmr and expected is not None:
            # To first order the variance grows by the square of the slope of 1 - (1 - FMR)^N.
            slope = size * (1 - found.fmr) ** (size - 1)
            trials = expected * (1 - expected) * trials / (slope**2 * found.fmr * (1 - found.fmr))
        found = replace(found, fpir=expected, fpir_low=low, fpir_high=high, fpir_trials=trials)
        return replace(found, gallery_variance=self._gallery_variance(found, size))

    def fmr(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return for each score the FMR of a threshold there: the share of impostor pairs that score as high or higher.

        0 means that no impostor pair of the calibration did, so the FMR is below 1 / (number of impostor pairs). If
        only some of many scores were kept, it is rounded up, by less than 2 %.

        Args:
            scores: any shape, float.

        Raises:
            InputError: wrong dtype.
            EvaluationError: scores are not finite.
        """
        values = np.asarray(scores)
        flat = checked_floats(values.reshape(-1), "scores", 1)
        return (self.impostor.reached(flat) / self.impostor.count).reshape(values.shape)

    def save(self, path: Path, digest: str, about: Mapping[str, Any] | None = None) -> Path:
        """Write the calibration of the encoder, or of the pipeline, of this digest.

        Args:
            path: a folder, where it is called ``calibration.json``, or the name of the file.
            digest: digest of the encoder or pipeline.
            about: further information as plain values: the contract, the people, the limits.

        Returns:
            The path of the file.
        """
        searches = None if self.searches is None else self.searches.to_dict()
        content = {
            "format": _FORMAT,
            "encoder": digest,
            "about": dict(about or {}),
            "identities": self.identities,
            "effective_impostor_pairs": list(self.effective),
            "genuine": self.genuine.to_dict(),
            "impostor": self.impostor.to_dict(),
            "non_mated_searches": searches,
            "gallery": self.gallery,
            "templates": {rule: [scores.to_dict() for scores in kept] for rule, kept in self.templates.items()},
            "thresholds": [self.threshold(fmr).to_dict() for fmr in FMRS],
        }
        path = _file(path)
        write_atomically(path, (json.dumps(content, indent=1, allow_nan=False) + "\n").encode())
        return path

    @classmethod
    def load(cls, path: Path, digest: str) -> "Calibrator":
        """Read the calibration of the encoder, or of the pipeline, of this digest.

        Args:
            path: a folder that holds ``calibration.json``, or the file.
            digest: of whose scores they must be.

        Raises:
            ModelError: there is none, it is another's, or the file is damaged.
        """
        path = _file(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ModelError(f"{path} does not exist: make it with coreface calibrate") from None
        except (OSError, ValueError) as error:
            raise ModelError(f"{path} cannot be read ({error}): make it again with coreface calibrate") from error
        return cls.from_text(text, digest, str(path))

    @classmethod
    def from_text(cls, text: str, digest: str, path: str) -> "Calibrator":
        """Read the content of a ``calibration.json``; ``path`` is where it was found, for messages.

        Raises:
            ModelError: it is another's, or damaged.
        """
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ModelError(f"{path} cannot be read ({error}): make it again with coreface calibrate") from error
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ModelError(f"{path} is not a calibration of format {_FORMAT}: make it again with coreface calibrate")
        if content.get("encoder") != digest:
            raise ModelError(
                f"{path} belongs to another encoder or pipeline ({str(content.get('encoder'))[:12]}, expected "
                f"{digest[:12]}): their scores are not comparable; make it again with coreface calibrate"
            )
        try:
            searches = content["non_mated_searches"]
            return cls(
                Tail.from_dict(content["genuine"]),
                Tail.from_dict(content["impostor"]),
                None if searches is None else Tail.from_dict(searches),
                _count("gallery", content["gallery"], least=0 if searches is None else 1),
                checked_effective(content["effective_impostor_pairs"]),
                _count("identities", content["identities"], least=0),
                {
                    rule: tuple(map(TemplateScores.from_dict, content.get("templates", {}).get(rule, ())))
                    for rule in POOLINGS
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise ModelError(f"{path} is damaged ({error!r}): make it again with coreface calibrate") from error

    def _at(self, target: float, allowed: int, method: Literal["fmr", "independence"]) -> CalibratedThreshold:
        if allowed == 0:
            return CalibratedThreshold(target, None, None, None, None, None, None, None, None, method)
        if allowed >= self.impostor.count:
            raise InputError(f"a rate of {target} lets every impostor pair match; ask for less")
        return self.described(target, self.impostor.threshold(allowed), method)

    def _of_searches(self, target: float, alarms: int, size: int) -> CalibratedThreshold:
        """Describe the threshold that so many of the searches in a gallery of about this size reach."""
        assert self.searches is not None
        found = self.described(target, self.searches.threshold(alarms), "searches")
        reached = int(self.searches.reached(np.array([found.threshold]))[0])
        share, factor = reached / self.searches.count, size / self.gallery
        found = replace(found, fpir=_in_gallery(share, factor), alarms=reached)
        if not self.identities:
            return found
        # Searches of one person are no independent trials: people are counted.
        trials = float(min(self.searches.count, self.identities))
        low, high = wilson(share, trials, freedom=self.identities - 1)
        found = replace(
            found, fpir_low=_in_gallery(low, factor), fpir_high=_in_gallery(high, factor), fpir_trials=trials
        )
        return replace(found, gallery_variance=self._gallery_variance(found, size))

    def described(self, target: float, threshold: np.floating[Any], method: Method) -> CalibratedThreshold:
        """Return what is known of a threshold from pairs of single images."""
        at = np.array([threshold])
        errors = int(self.impostor.reached(at)[0])
        fmr = errors / self.impostor.count
        low = high = threshold_low = threshold_high = None
        trials = self.trials(fmr)
        if trials is not None:
            low, high = wilson(fmr, trials, freedom=self.identities - 1)
            few, many = int(low * self.impostor.count), int(high * self.impostor.count)
            threshold_low = float(self.impostor.threshold(many)) if many < self.impostor.count else None
            threshold_high = float(self.impostor.threshold(few)) if few else None
        return CalibratedThreshold(
            target=target,
            threshold=float(threshold),
            fmr=fmr,
            fmr_low=low,
            fmr_high=high,
            threshold_low=threshold_low,
            threshold_high=threshold_high,
            fnmr=1 - int(self.genuine.reached(at)[0]) / self.genuine.count,
            badge=badge(errors, self.impostor.count),
            method=method,
            alarms=errors,
        )

    def _gallery_variance(self, at: CalibratedThreshold, size: int) -> float:
        if at.fmr is None or at.fpir is None:
            return 0.0
        return size * (1 - at.fpir) ** 2 * self.variance_between_people(at.fmr)

    def variance_between_people(self, fmr: float) -> float:
        """Return how much the FMR of single people varies around a rate; 0 where identities were not given.

        The variance of the mean over all pairs of G people is 4 / G times that, and that of the pairs themselves.
        Source: Hoeffding, A class of statistics with asymptotically normal distribution, 1948.
        """
        trials = self.trials(fmr)
        if trials is None:
            return 0.0
        return max(0.0, self.identities / 4 * fmr * (1 - fmr) * (1 / trials - 1 / self.impostor.count))

    def trials(self, fmr: float) -> float | None:
        """Return the effective number of impostor pairs at a rate; None where identities were not given."""
        return trials_at(self.effective, fmr)


def _file(path: Path) -> Path:
    return Path(path) / CALIBRATION if Path(path).is_dir() else Path(path)


def _in_gallery(rate: float | None, size: float) -> float | None:
    """1 - (1 - rate)^size: the share of searches with a false match among ``size`` independent entries."""
    return None if rate is None else 1.0 if rate >= 1 else float(-np.expm1(size * np.log1p(-rate)))


def _allowed(share: float, count: int) -> int:
    # Twelve digits: 1 - (1 - 0.1) is no 0.1, and the last one of ten would be lost.
    return floor(Fraction(f"{share:.12g}") * count)


def _count(name: str, value: object, least: int) -> int:
    if type(value) is not int or value < least:
        raise InputError(f"{name} is {value!r}; expected an integer from {least} on")
    return value
