"""Error rates as tables for a terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from coreface.evaluation.calibration import CalibratedThreshold, Calibrator
from coreface.evaluation.groups import GroupRate, GroupRates
from coreface.evaluation.identification import DistractorRate, Identification
from coreface.evaluation.metrics import TarAtFar
from coreface.evaluation.metrics.uncertainty import Difference, Interval
from coreface.evaluation.verification import Verification


def percent(value: float | None) -> str:
    """Return a share as a percentage with two decimals."""
    return "-" if value is None else f"{100 * value:.2f} %"


def percent_interval(interval: Interval | None) -> str:
    """Return an interval of shares as percentages, or a dash where there is none."""
    if interval is None or interval.low is None or interval.high is None:
        return "-"
    return f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"


def print_verification(verification: Verification, console: Console | None = None, name: str = "") -> None:
    """Print the error rates of one encoder, each with its interval, threshold and achieved FMR."""
    console = console or Console()
    if name:
        console.print(name, markup=False, highlight=False, style="bold")
    table = _table(
        f"{verification.identities} identities, {verification.images} images: "
        f"{verification.genuine} genuine and {verification.impostor} impostor pairs",
        ("", "rate", "95 % interval", "cosine threshold", "achieved FMR"),
    )
    eer = verification.eer
    if verification.accuracy:
        accuracy, interval = verification.accuracy, verification.accuracy_interval
        rate = f"{percent(accuracy.accuracy)} ± {100 * accuracy.standard_error:.2f}"
        low, high = min(accuracy.thresholds), max(accuracy.thresholds)
        wrong = f"{len(accuracy.wrong)} wrong"
        table.add_row(
            f"accuracy, {len(accuracy.folds)} folds",
            rate,
            percent_interval(interval),
            f"{low:.4f} to {high:.4f}",
            wrong,
        )
    table.add_row(
        "EER", percent(eer.eer), percent_interval(verification.eer_interval), f"{eer.threshold:.4f}", percent(eer.fmr)
    )
    for tar, interval in zip(verification.tar, verification.tar_intervals, strict=True):
        table.add_row(*_tar_row(tar, interval))
    console.print(table)
    if verification.failures:
        console.print(
            f"{verification.failures} pairs have an image that could not be embedded; they score -1 and count"
        )
    if verification.interval_note:
        console.print(f"Intervals: {verification.interval_note}.", markup=False)


def print_searches(
    name: str, result: Identification, distractors: Sequence[DistractorRate] = (), console: Console | None = None
) -> None:
    """Print open-set and closed-set rates of each gallery and their mean."""
    console = console or Console()
    console.print(name, markup=False, highlight=False, style="bold")
    sizes = [str(searches.gallery) for searches in result.searches]
    head = [f"gallery of {size}" for size in sizes]
    table = _table("identification", ("", *head, "mean", "cosine thresholds", "achieved FPIR"))
    for fpir in result.fpirs:
        found = result.open_set(fpir)
        first, whole = result.mean_tpir(fpir)
        thresholds = ", ".join("-" if one.threshold is None else f"{one.threshold:.4f}" for one in found)
        achieved = ", ".join(percent(one.fpir) for one in found)
        rates = ((one.tpir for one in found), (one.tpir_any_rank for one in found))
        for text, each, mean in zip(("rank 1", "any rank"), rates, (first, whole), strict=True):
            table.add_row(f"TPIR at FPIR {fpir:g}, {text}", *map(percent, each), percent(mean), thresholds, achieved)
    for rank in (1, 5, 10):
        cells = [percent(curve.at(rank)) for curve in result.cmc(rank)]
        table.add_row(f"closed set, rank {rank}", *cells, percent(result.mean_rate(rank)), "", "")
    console.print(table)
    for one in distractors:
        console.print(f"rank 1 among {one.distractors} distractors: {percent(one.rate)} of {one.searches} searches")


def print_groups(groups: GroupRates, console: Console | None = None) -> None:
    """Print FNMR of each group and FMR of each two at one threshold; nothing where fewer than 30 errors stand."""
    console = console or Console()
    table = _table(
        f"by group, at the cosine threshold {groups.threshold:.4f}; '< 30 errors' where that is all there is",
        ("", "identities", "FNMR", *(f"FMR with {name}" for name in groups.names)),
    )
    for index, name in enumerate(groups.names):
        row = [_group_cell(groups.fnmr[index]), *(_group_cell(rate) for rate in groups.fmr[index])]
        table.add_row(escape(name), str(groups.identities[index]), *row)
    console.print(table)
    ratios = {"FNMR": groups.fnmr_ratio, "FMR inside groups": groups.fmr_ratio}
    said = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio is not None]
    if said:
        console.print(f"largest over smallest: {', '.join(said)}")
    if groups.unlabelled:
        console.print(f"{groups.unlabelled} identities have no label and are counted nowhere in this table")


def print_thresholds(
    rate: str, thresholds: Sequence[CalibratedThreshold], calibrator: Calibrator, console: Console | None = None
) -> None:
    """Print thresholds for wanted rates, with their intervals and what stands behind them."""
    console = console or Console()
    known = f", {calibrator.identities} identities" if calibrator.identities else ""
    table = _table(
        f"{calibrator.genuine.count} genuine and {calibrator.impostor.count} impostor pairs{known}",
        (f"wanted {rate}", "cosine threshold", "95 % interval", "FNMR there", "FMR there", "behind it"),
    )
    for at in thresholds:
        if at.threshold is None or at.fnmr is None or at.fmr is None:
            table.add_row(f"{at.target:g}", "not resolvable", "-", "-", "-", "too few impostor pairs")
            continue
        ends = [f"{end:.4f}" if end is not None else "?" for end in (at.threshold_low, at.threshold_high)]
        between = " to ".join(ends) if ends != ["?", "?"] else "-"
        behind = str(at.badge) if at.method == "fmr" else f"from {at.method}"
        table.add_row(f"{at.target:g}", f"{at.threshold:.4f}", between, percent(at.fnmr), f"{at.fmr:.3g}", behind)
    console.print(table)


def print_comparison(
    name: str,
    found: Mapping[str, tuple[float, float, Difference]],
    names: tuple[str, str],
    console: Console | None = None,
) -> None:
    """Print each rate of two encoders and their difference, in percentage points."""
    console = console or Console()
    console.print(f"{name}: A is {names[0]}, B is {names[1]}", markup=False, highlight=False, style="bold")
    table = _table("paired over the same resamples of people", ("", "A", "B", "A - B", "95 % interval", "p"))
    for rate, (one, other, difference) in found.items():
        p_value = "-" if difference.p_value is None else f"{difference.p_value:.3f}"
        between = percent_interval(difference.interval)
        gap = "-" if difference.difference is None else f"{100 * difference.difference:+.2f}"
        table.add_row(rate, percent(one), percent(other), gap, between, p_value)
    console.print(table)


def _table(title: str, headings: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for heading in headings:
        table.add_column(escape(heading), justify="left" if heading == "" else "right")
    return table


def _group_cell(rate: GroupRate) -> str:
    if rate.rate is None:
        return "no pair" if rate.pairs == 0 else "< 30 errors"
    return f"{percent(rate.rate)} ({rate.errors} of {rate.pairs})"


def _tar_row(rate: TarAtFar, interval: Interval | None) -> Sequence[str]:
    name = f"TAR at FAR {rate.far:g}"
    if rate.threshold is None:
        return name, f"not resolvable with {rate.impostor} impostors", "-", "-", "-"
    return name, percent(rate.tar), percent_interval(interval), f"{rate.threshold:.4f}", percent(rate.fmr)
