"""Error rates as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from coreface.evaluation.metrics import TarAtFar
from coreface.evaluation.uncertainty import Interval
from coreface.evaluation.verification import Verification


def percent(value: float | None) -> str:
    """Return a share as a percentage with two decimals."""
    return "-" if value is None else f"{100 * value:.2f} %"


def percent_interval(interval: Interval | None) -> str:
    """Return an interval of shares as percentages, or a dash where there is none."""
    if interval is None or interval.low is None or interval.high is None:
        return "-"
    return f"{100 * interval.low:.2f} to {100 * interval.high:.2f}"


def print_verification(verification: Verification, console: Console | None = None) -> None:
    """Print the error rates of one encoder, each with its interval, threshold and achieved FMR."""
    console = console or Console()
    table = Table(
        title=f"{verification.identities} identities, {verification.images} images: "
        f"{verification.genuine} genuine and {verification.impostor} impostor pairs",
        title_justify="left",
    )
    for heading in ("", "rate", "95 % interval", "cosine threshold", "achieved FMR"):
        table.add_column(heading, justify="left" if heading == "" else "right")
    eer = verification.eer
    table.add_row(
        "EER", percent(eer.eer), percent_interval(verification.eer_interval), f"{eer.threshold:.4f}", percent(eer.fmr)
    )
    for rate, interval in zip(verification.tar, verification.tar_intervals, strict=True):
        table.add_row(*_tar_row(rate, interval))
    console.print(table)
    if verification.interval_note:
        console.print(verification.interval_note, markup=False)


def _tar_row(rate: TarAtFar, interval: Interval | None) -> Sequence[str]:
    name = f"TAR at FAR {rate.far:g}"
    if rate.threshold is None:
        return name, f"not resolvable with {rate.impostor} impostors", "-", "-", "-"
    return name, percent(rate.tar), percent_interval(interval), f"{rate.threshold:.4f}", percent(rate.fmr)
