"""Error rates as tables for a terminal."""

from collections.abc import Mapping, Sequence
from functools import singledispatch

from rich.console import Console

from coreface.errors import InputError
from coreface.evaluation.calibrated_threshold import CalibratedThreshold
from coreface.evaluation.calibration import Calibrator
from coreface.evaluation.identification import DistractorRate, Identification
from coreface.evaluation.metrics import TarAtFar
from coreface.evaluation.metrics.groups import FEWEST_ERRORS, GroupRate, GroupRates
from coreface.evaluation.metrics.uncertainty import Difference, Interval
from coreface.evaluation.quality_curves import QualityCurves
from coreface.evaluation.results import IdentificationResult, QualityResult, Result, TableResult, VerificationResult
from coreface.evaluation.verification import Verification
from coreface.plurals import counted
from coreface.reports.terminal_table import Column, print_line, print_table

NOT_RESOLVABLE = "not resolvable"


def percent(value: float | None) -> str:
    """Return a share as a percentage with two decimals."""
    return "-" if value is None else f"{100 * value:.2f} %"


def percent_interval(interval: Interval | None) -> str:
    """Return an interval of shares as percentages, or a dash where there is none."""
    if interval is None or interval.low is None or interval.high is None:
        return "-"
    return f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"


def no_table(result: Result) -> InputError:
    """Return the error for a result of a class that has no table."""
    return InputError(
        f"{result.name}: the protocol returned a result of class {type(result).__name__}, expected a TableResult, "
        "VerificationResult, IdentificationResult or QualityResult: these have a table and a page"
    )


@singledispatch
def print_result(result: Result, console: Console | None = None) -> None:
    """Print the tables of a result.

    Raises:
        InputError: the result is of a class that has no table.
    """
    raise no_table(result)


@print_result.register
def _print_verification_result(result: VerificationResult, console: Console | None = None) -> None:
    print_verification(result.verification, console, result.name, result.notes)
    if result.groups:
        print_groups(result.groups, console)


@print_result.register
def _print_identification_result(result: IdentificationResult, console: Console | None = None) -> None:
    print_searches(result.name, result.identification, result.distractors, console)


@print_result.register
def _print_table_result(result: TableResult, console: Console | None = None) -> None:
    console = console or Console()
    print_line(result.name, console, "bold")
    rows = [[name, *map(table_cell, values)] for name, values in result.rows.items()]
    print_table((Column("", left=True), *result.columns), rows, notes=result.notes, console=console)


@print_result.register
def _print_quality_result(result: QualityResult, console: Console | None = None) -> None:
    console = console or Console()
    print_line(result.name, console, "bold")
    quality = result.quality
    print_table(
        [Column("discard by", left=True), *(Column(text) for text in QUALITY_COLUMNS)],
        [[name, *cells] for name, cells in quality_rows(quality).items()],
        title=f"{counted(quality.identities, 'identity')}, {counted(quality.images, 'image')}: {quality.genuine} "
        f"genuine pairs, FNMR {percent(quality.fnmr)} at the threshold {quality.threshold:.4f} (FMR "
        f"{100 * quality.target:g} %, {quality.impostor} impostor pairs)",
        notes=(
            "less 5 %: FNMR with that share of the genuine pairs discarded; area: its mean over 0 to 20 %, over that "
            "of all, 1 for discarding at random. A measure helps where its interval lies below 1.",
            *result.notes,
        ),
        console=console,
    )


#: Headings of `quality_rows`.
QUALITY_COLUMNS = ("area", "95 % interval", "less 5 %", "less 10 %", "less 20 %", "helps")


def quality_rows(quality: QualityCurves) -> dict[str, list[str]]:
    """Return the cells of each measure of quality: its area, and the FNMR at some shares discarded."""
    rows = {}
    for name, curve in quality.curves.items():
        interval = curve.interval
        known = interval is not None and interval.low is not None and interval.high is not None
        between = f"{interval.low:.3f} to {interval.high:.3f}" if interval is not None and known else "-"
        area = "-" if curve.area is None else f"{curve.area:.3f}"
        rows[name] = [area, between, *(percent(curve.at(share)) for share in (0.05, 0.1, 0.2))]
        rows[name].append("-" if not known else "yes" if curve.falls else "no")
    return rows


def table_cell(value: float | int | str | None) -> str:
    """Return a value of a `TableResult` as text."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def print_verification(
    verification: Verification, console: Console | None = None, name: str = "", notes: Sequence[str] = ()
) -> None:
    """Print the error rates of one encoder, each with its interval, threshold and achieved FMR; ``notes`` below it."""
    console = console or Console()
    if name:
        print_line(name, console, "bold")
    rows, notes = [], list(notes)
    if accuracy := verification.accuracy:
        rate = f"{percent(accuracy.accuracy)} ± {100 * accuracy.standard_error:.2f}"
        rows.append(["accuracy", rate, percent_interval(verification.accuracy_interval), *[""] * 4])
        notes.append(
            f"accuracy: {len(accuracy.folds)} folds, {len(accuracy.wrong)} of {counted(accuracy.pairs, 'pair')} wrong, "
            f"thresholds {min(accuracy.thresholds):.4f} to {max(accuracy.thresholds):.4f}"
        )
    eer = verification.eer
    errors = str(round(eer.fmr * eer.impostor)), str(round(eer.fnmr * eer.genuine))
    interval = percent_interval(verification.eer_interval)
    rows.append(["EER", percent(eer.eer), interval, f"{eer.threshold:.4f}", _achieved(eer.fmr), *errors])
    for tar, tar_interval in zip(verification.tar, verification.tar_intervals, strict=True):
        rows.append(_tar_row(tar, tar_interval))
    if not all(rate.resolvable for rate in verification.tar):
        notes.append(
            f"{NOT_RESOLVABLE}: the rate allows no false match among {counted(verification.impostor, 'impostor pair')}"
        )
    if verification.failures:
        notes.append(
            f"{counted(verification.failures, 'pair')} with an image that could not be embedded, at a score of -1"
        )
    if verification.interval_note:
        notes.append(f"Intervals: {verification.interval_note}.")
    print_table(
        (
            Column("", left=True),
            *("rate", "95 % interval", "threshold", "FMR"),
            *(Column("false matches", detail=True), Column("false non-matches", detail=True)),
        ),
        rows,
        title=f"{counted(verification.identities, 'identity')}, {counted(verification.images, 'image')}: "
        f"{verification.genuine} genuine and {counted(verification.impostor, 'impostor pair')}",
        notes=notes,
        console=console,
    )


def print_searches(
    name: str, result: Identification, distractors: Sequence[DistractorRate] = (), console: Console | None = None
) -> None:
    """Print open-set and closed-set rates of each gallery and their mean."""
    console = console or Console()
    print_line(name, console, "bold")
    rows: list[list[str]] = []
    for fpir in result.fpirs:
        found = result.open_set(fpir)
        first, whole = result.mean_tpir(fpir)
        at = f"FPIR {fpir:g}"
        rows += [
            [f"TPIR at {at}, rank 1", *(_resolved(one.tpir) for one in found), percent(first)],
            [f"TPIR at {at}, any rank", *(_resolved(one.tpir_any_rank) for one in found), percent(whole)],
            ["threshold", *("-" if one.threshold is None else f"{one.threshold:.4f}" for one in found), ""],
            ["achieved FPIR", *("-" if one.fpir is None else _achieved(one.fpir) for one in found), ""],
            [],
        ]
    for rank in (1, 5, 10):
        cells = [percent(curve.at(rank)) for curve in result.cmc(rank)]
        rows.append([f"closed set, rank {rank}", *cells, percent(result.mean_rate(rank))])
    notes = [
        f"rank 1 among {counted(one.distractors, 'distractor')}: {percent(one.rate)} of "
        f"{counted(one.searches, 'search')}"
        for one in distractors
    ]
    few = {one.non_mated for fpir in result.fpirs for one in result.open_set(fpir) if not one.resolvable}
    if few:
        notes.append(f"{NOT_RESOLVABLE}: the rate allows no false alarm among {counted(min(few), 'non-mated search')}")
    print_table(
        (Column("", left=True), *(f"gallery of {searches.gallery}" for searches in result.searches), "mean"),
        rows,
        notes=notes,
        console=console,
    )


def print_groups(groups: GroupRates, console: Console | None = None) -> None:
    """Print FNMR of each group and FMR of each two at one threshold; rates with fewer than 30 errors stay empty."""
    rows = []
    for index, name in enumerate(groups.names):
        rates = [_group_cell(groups.fnmr[index]), *(_group_cell(rate) for rate in groups.fmr[index])]
        rows.append([name, str(groups.identities[index]), *rates])
    notes = []
    ratios = {"FNMR": groups.fnmr_ratio, "FMR inside groups": groups.fmr_ratio}
    if said := [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio is not None]:
        notes.append(f"largest over smallest: {', '.join(said)}")
    if groups.unlabelled:
        notes.append(f"{counted(groups.unlabelled, 'identity')} without a label, not counted in this table")
    print_table(
        (Column("group", left=True), "identities", "FNMR", *(f"FMR with {name}" for name in groups.names)),
        rows,
        title=f"by group, at the threshold {groups.threshold:.4f}; in brackets the number of errors",
        notes=notes,
        console=console,
    )


def print_thresholds(
    thresholds: Sequence[CalibratedThreshold],
    calibrator: Calibrator,
    gallery: int | None = None,
    console: Console | None = None,
) -> None:
    """Print thresholds for wanted FMRs, or for wanted FPIRs of a gallery of that size, with what they rest on."""
    rate = "FMR" if gallery is None else "FPIR"
    rows, notes = [], []
    for at in thresholds:
        if at.threshold is None or at.fnmr is None or at.fmr is None:
            rows.append([f"{at.target:g}", "-", NOT_RESOLVABLE, "-", "-", "-", "-"])
            continue
        ends = [f"{end:.4f}" if end is not None else "?" for end in (at.threshold_low, at.threshold_high)]
        between = "-" if ends == ["?", "?"] else " to ".join(ends)
        of_fmr = "-" if at.fmr_low is None or at.fmr_high is None else f"{at.fmr_low:.3g} to {at.fmr_high:.3g}"
        source = str(at.badge.errors) if at.method == "fmr" and at.badge else at.method
        rows.append(
            [f"{at.target:g}", f"{at.threshold:.4f}", between, percent(at.fnmr), f"{at.fmr:.3g}", source, of_fmr]
        )
        if at.method == "fmr" and at.badge and at.badge.level != "solid":
            notes.append(f"{rate} {at.target:g}: {at.badge}")
    if any(not at.resolvable for at in thresholds):
        notes.append(f"{NOT_RESOLVABLE}: too few impostor pairs")
    people = f", {counted(calibrator.identities, 'identity')}" if calibrator.identities else ""
    where = f" for a gallery of {gallery}" if gallery is not None else ""
    print_table(
        (
            Column(f"{rate} ≤", left=True),
            *("threshold", "95 % interval", "FNMR", "FMR", "errors" if gallery is None else "method"),
            Column("95 % interval of the FMR", detail=True),
        ),
        rows,
        title=f"thresholds{where} from {calibrator.genuine.count} genuine and {calibrator.impostor.count} impostor "
        f"pairs{people}",
        notes=notes,
        console=console,
    )


def print_comparison(
    name: str,
    found: Mapping[str, tuple[float, float, Difference]],
    names: tuple[str, str],
    notes: Sequence[str] = (),
    console: Console | None = None,
) -> None:
    """Print each rate of two encoders and their difference, in percentage points; ``notes`` below it."""
    console = console or Console()
    print_line(f"{name}: A is {names[0]}, B is {names[1]}", console, "bold")
    rows = []
    for rate, (one, other, difference) in found.items():
        gap = "-" if difference.difference is None else f"{100 * difference.difference:+.2f}"
        p_value = "-" if difference.p_value is None else f"{difference.p_value:.3f}"
        rows.append([rate, percent(one), percent(other), gap, percent_interval(difference.interval), p_value])
    print_table(
        (Column("", left=True), "A", "B", "A - B", "95 % interval", "p"),
        rows,
        title="paired over the same resamples of people",
        notes=notes,
        console=console,
    )


def _achieved(rate: float) -> str:
    # Two decimals would show nothing of small rates.
    return f"{100 * rate:.3g} %" if 0 < rate < 0.01 else percent(rate)


def _resolved(rate: float | None) -> str:
    return NOT_RESOLVABLE if rate is None else percent(rate)


def _group_cell(rate: GroupRate) -> str:
    if rate.rate is None:
        return "no pair" if rate.pairs == 0 else f"< {FEWEST_ERRORS} errors"
    return f"{percent(rate.rate)} ({rate.errors})"


def _tar_row(rate: TarAtFar, interval: Interval | None) -> list[str]:
    name = f"TAR at FAR {rate.far:g}"
    if rate.tar is None or rate.threshold is None or rate.fmr is None:
        return [name, NOT_RESOLVABLE, *["-"] * 5]
    errors = str(round(rate.fmr * rate.impostor)), str(round((1 - rate.tar) * rate.genuine))
    return [name, percent(rate.tar), percent_interval(interval), f"{rate.threshold:.4f}", _achieved(rate.fmr), *errors]
