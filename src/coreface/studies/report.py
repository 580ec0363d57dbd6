"""What a study prints, and its page."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

import numpy as np
from rich.console import Console

from coreface.plurals import counted
from coreface.reports.page import facts_table, write_sections
from coreface.reports.plots import Panel, line_styles, training_panels
from coreface.reports.sections import figures
from coreface.reports.study_plots import effects_panel, seeds_panel
from coreface.reports.tables import percent
from coreface.reports.terminal_table import Column, print_line, print_table
from coreface.studies.estimate import StepTimes
from coreface.studies.job import SHARED, Job
from coreface.studies.plan import Study
from coreface.studies.results import FINISHED, Place
from coreface.studies.summary import Contrast, Summary
from coreface.training.metrics_file import read_metrics

_MODEL = (
    "A difference is the mean over the seeds, both arms with the same seeds and on the same pairs. Its 95 % interval "
    "accounts for other seeds (Student) and for other people (bootstrap), with Satterthwaite's degrees of freedom."
)
_FOUND = "Found: the smallest true difference that a study with this spread finds with probability 0.8"


def print_differences(study: Study, console: Console) -> None:
    """Print the fields in which the arms differ; all others are equal."""
    rows = []
    for name, values in study.differences():
        by_value: dict[str, list[str]] = {}
        for arm, value in zip(study.arms, values, strict=True):
            by_value.setdefault(value, []).append(arm)
        for number, (value, arms) in enumerate(by_value.items()):
            rows.append([name if number == 0 else "", value, ", ".join(arms)])
    shared = f"equal up to epoch {study.shared_until}, trained once a seed; " if study.shared_until else ""
    if not rows:
        print_line(f"{study.name}: {len(study.arms)} arms, {shared}they differ in no field", console)
        return
    print_table(
        (Column("field", left=True), Column("value", left=True), Column("arms", left=True)),
        rows,
        title=f"{study.name}: {len(study.arms)} arms, {shared}they differ in",
        console=console,
    )


def print_plan(study: Study, planned: Sequence[Job], times: StepTimes, jobs: int, console: Console) -> None:
    """Print the runs that are to be made, with the time they take, and a step of every arm side by side."""
    if not planned:
        print_line("nothing to do: every run is done", console)
        return
    rows, total = [], 0.0
    for job in planned:
        epochs = study.shared_until
        if job.arm != SHARED:
            epochs = study.arms[job.arm].recipe.optimizer.epochs - study.shared_until
        seconds = times.seconds(study, job.arm)
        total += seconds
        rows.append([str(job.seed), job.arm, str(epochs), _duration(seconds)])
    together = "" if jobs == 1 else f", about {_duration(total / jobs)} with {jobs} at once"
    threads = counted(study.base.threads or 1, "thread")
    print_table(
        ("seed", Column("arm", left=True), "epochs", "time"),
        rows,
        title=f"{counted(len(planned), 'run')} to make on {threads} each: {_duration(total)} of work{together}",
        console=console,
    )
    first = times.step[next(iter(study.arms))]
    print_table(
        (Column("arm", left=True), "step", "of the first"),
        [[arm, f"{1000 * times.step[arm]:.0f} ms", f"{times.step[arm] / first:.3f}"] for arm in study.arms],
        title="A step of the last epoch, measured in turn (median)",
        console=console,
    )


def print_summary(summary: Summary, console: Console) -> None:
    """Print the runs and the contrasts."""
    study = summary.study
    name, measure = study.primary
    rows = []
    for arm in study.arms:
        values = [
            value
            for seed in study.seeds
            if (value := summary.measures.get((seed, arm), {}).get(name, {}).get(measure)) is not None
        ]
        steps = [row["times"].get("step") for (_, of), row in summary.rows.items() if of == arm and "times" in row]
        between = f"{100 * min(values):.2f} to {100 * max(values):.2f}" if values else "-"
        step = f"{1000 * float(np.median([one for one in steps if one])):.0f} ms" if any(steps) else "-"
        rows.append([arm, f"{len(values)} of {len(study.seeds)}", percent(_mean(values)), between, step])
    without = [
        f"seed {seed}, {arm}: {row['state']}: {row['reason']}"
        for (seed, arm), row in summary.rows.items()
        if row["state"] != FINISHED
    ]
    print_table(
        (Column("arm", left=True), "runs", "mean", "of the seeds", Column("step", detail=True)),
        rows,
        title=f"{measure} on {name}",
        notes=without,
        console=console,
    )
    for contrasts in _by_measure(summary):
        _print_contrasts(contrasts, console)


def write_study_page(summary: Summary, place: Place, path: Path) -> None:
    """Write the study as one self-contained page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    study = summary.study
    planned = len(study.seeds) * len(study.arms)
    name, measure = study.primary
    lead = f"{len(summary.measures)} of {planned} planned runs are finished. Primary: {measure} on {name}."
    fields = {field: dict(zip(study.arms, values, strict=True)) for field, values in study.differences()}
    sections = (
        ("Differences", _differences(summary)),
        ("Every run", _runs(summary)),
        ("Training", _curves(summary, place)),
        ("What differs between the arms", facts_table(fields)),
        ("Environment", facts_table(_environment(summary))),
    )
    write_sections(study.name, (lead, _MODEL), sections, path)


def _print_contrasts(contrasts: Sequence[Contrast], console: Console) -> None:
    first = contrasts[0]
    kind = "primary" if first.primary else "exploratory"
    rows = []
    for one in contrasts:
        effect = one.effect
        rows.append(
            [
                f"{one.first} - {one.second}",
                _points(effect.difference),
                _between(one),
                _p(one.holm if one.primary else effect.p_value),
                _size(one.detectable_holm if one.primary else one.detectable),
            ]
        )
    reasons: dict[str, list[str]] = {}
    for one in contrasts:
        if one.effect.reason:
            reasons.setdefault(one.effect.reason, []).append(f"{one.first} - {one.second}")
    notes = [f"no interval: {reason} ({', '.join(names)})" for reason, names in reasons.items()]
    if first.primary and any(one.detectable for one in contrasts):
        alone = ", ".join(_size(one.detectable) for one in contrasts)
        notes.append(
            f"p after Holm, over {counted(len(contrasts), 'contrast')}. {_FOUND}, there; uncorrected: {alone}."
        )
    if first.approximate:
        notes.append("The set has no names: people are known in part, and the interval over them is approximate.")
    print_table(
        (Column("", left=True), "points", "95 % interval", "p", "found"),
        rows,
        title=f"{first.measure} on {first.set_name} ({kind}), in percentage points",
        notes=notes,
        console=console,
    )


def _differences(summary: Summary) -> Iterator[str]:
    panels: list[Panel] = []
    for contrasts in _by_measure(summary):
        first = contrasts[0]
        kind = "primary" if first.primary else "exploratory"
        labelled = [(f"{number}", one) for number, one in enumerate(contrasts, 1)]
        legend = "; ".join(f"{number}: {one.first} − {one.second}" for number, one in labelled)
        panels.append(
            effects_panel(
                f"{first.measure}, {first.set_name} ({kind})",
                [
                    (number, one.effect.difference, one.effect.low, one.effect.high, list(one.by_seed.values()))
                    for number, one in labelled
                ],
                f"{legend}. Lines: 95 % intervals; small dots: the seeds.",
            )
        )
    yield figures(panels)
    for contrasts in _by_measure(summary):
        first = contrasts[0]
        kind = "primary" if first.primary else "exploratory"
        yield f"<h3>{escape(first.measure)} on {escape(first.set_name)} ({kind}), in percentage points</h3>"
        heads = ("difference", "95 % interval", "p", "p (Holm)", "found, Holm", "found", "seeds", "degrees of freedom")
        yield '<div class="wide"><table class="figures"><thead><tr><td></td>'
        yield "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead><tbody>"
        for one in contrasts:
            cells = (
                _points(one.effect.difference),
                _between(one),
                _p(one.effect.p_value),
                _p(one.holm),
                _size(one.detectable_holm),
                _size(one.detectable),
                str(one.effect.seeds),
                "-" if one.effect.freedom is None else f"{one.effect.freedom:.1f}",
            )
            row = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
            yield f'<tr><th scope="row">{escape(one.first)} − {escape(one.second)}</th>{row}</tr>'
        yield "</tbody></table></div>"
        if first.approximate:
            yield '<p class="quiet">The set has no names: people are known in part; the interval is approximate.</p>'
    yield (
        f'<p class="quiet">{_FOUND}, in the first step of Holm\'s procedure and without correction. Measures that are '
        "not primary are exploratory: their p-values are not corrected.</p>"
    )


def _runs(summary: Summary) -> Iterator[str]:
    study = summary.study
    name, measure = study.primary
    points = {
        arm: [
            value
            for seed in study.seeds
            if (value := summary.measures.get((seed, arm), {}).get(name, {}).get(measure)) is not None
        ]
        for arm in study.arms
    }
    if any(points.values()):
        yield figures([seeds_panel(f"{measure} on {name}", points)])
    columns = [(one, other) for one in study.measure.sets for other in _measures_of(summary, one)]
    heads = "".join(f'<th scope="col">{escape(other)}<small>{escape(one)}</small></th>' for one, other in columns)
    yield f'<div class="wide"><table class="figures"><thead><tr><td></td>{heads}<th scope="col">step</th>'
    yield "</tr></thead><tbody>"
    for (seed, arm), row in summary.rows.items():
        found = summary.measures.get((seed, arm), {})
        cells = "".join(f"<td>{percent(found.get(one, {}).get(other))}</td>" for one, other in columns)
        step = row.get("times", {}).get("step")
        last = f"{1000 * step:.0f} ms" if step else "-"
        if row["state"] != FINISHED:
            text = escape(f"{row['state']}: {row['reason']}")
            cells, last = f'<td class="quiet" colspan="{len(columns)}">{text}</td>', "-"
        yield f'<tr><th scope="row">seed {seed}, {escape(arm)}</th>{cells}<td>{last}</td></tr>'
    yield "</tbody></table></div>"


def _curves(summary: Summary, place: Place) -> Iterator[str]:
    """Yield the curves of the first seed that has runs here: those of committed results are not kept."""
    study = summary.study
    for seed in study.seeds:
        history = {arm: rows for arm in study.arms if (rows := read_metrics(place.run(seed, arm)))}
        if history:
            styles = line_styles(list(history), list(history)[-1])
            yield f"<p>Seed {seed}.</p>"
            yield figures(training_panels(history, styles))
            return


def _environment(summary: Summary) -> dict[str, object]:
    rows = list(summary.rows.values())
    return {
        name: sorted({str(row.get(name)) for row in rows})
        for name in ("processor", "threads", "precision", "versions")
        if rows
    }


def _by_measure(summary: Summary) -> list[list[Contrast]]:
    found: dict[tuple[str, str], list[Contrast]] = {}
    for contrast in summary.contrasts:
        found.setdefault((contrast.set_name, contrast.measure), []).append(contrast)
    return list(found.values())


def _measures_of(summary: Summary, name: str) -> list[str]:
    known = [values[name] for values in summary.measures.values()]
    return [measure for measure in (known[0] if known else {}) if any(one[measure] is not None for one in known)]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def _points(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.2f}"


def _size(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def _between(contrast: Contrast) -> str:
    low, high = contrast.effect.low, contrast.effect.high
    return "-" if low is None or high is None else f"{100 * low:+.2f} to {100 * high:+.2f}"


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min" if minutes else f"{seconds:.0f} s"
