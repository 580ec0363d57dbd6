"""The other curves of the report: DET on probit axes, CMC, FNIR against FPIR, and error versus discard."""

from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from coreface.evaluation.metrics import Cmc, Eer, FnirCurve, Roc
from coreface.evaluation.metrics.discard import DiscardCurve
from coreface.reports.plots import HIGHLIGHT, Panel, Style, draw, percent_label, percent_ticks, plot_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_TICKS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99, 0.999)
_POINTS = 800
_probit = np.vectorize(NormalDist().inv_cdf, otypes=[np.float64])


def det_panel(curves: Mapping[str, tuple[Roc, Eer]], styles: Mapping[str, Style]) -> Panel:
    """FNMR against FMR of each name, both on normal-deviate axes: normal scores make straight lines."""
    spans = {name: _between(curve.fmr, 1 - curve.tar) for name, (curve, _) in curves.items()}

    def paint(ax: "Axes") -> None:
        for name, (x, y) in spans.items():
            marker = "o" if len(x) == 1 else None
            plot_line(ax, _probit(x), _probit(y), styles[name], drawstyle="steps-post", marker=marker, markersize=3)
        for axis, rates in ((ax.xaxis, [x for x, _ in spans.values()]), (ax.yaxis, [y for _, y in spans.values()])):
            low, high = min(float(r.min()) for r in rates), max(float(r.max()) for r in rates)
            inside = [tick for tick in _TICKS if low / 1.5 <= tick <= min(1, high * 1.5)]
            axis.set_ticks(_probit(inside) if inside else [], [percent_label(tick) for tick in inside])
        ax.minorticks_off()
        ax.margins(0.03)
        ax.set(xlabel="False match rate (FMR)", title="False non-match rate (FNMR)")

    return Panel(
        "DET",
        draw("det", paint),
        tuple((styles[name], name) for name in curves),
        "Both axes are normal deviates. Lower and further left is better. Thresholds without any error on one side are "
        "not drawn.",
    )


def cmc_panel(curves: Sequence[Cmc], styles: Sequence[Style], names: Sequence[str]) -> Panel:
    """Closed-set identification rate against rank."""

    def paint(ax: "Axes") -> None:
        for curve, style in zip(curves, styles, strict=True):
            ranks = np.arange(1, len(curve.rates) + 1)
            plot_line(ax, ranks, curve.rates, style, marker="o" if len(ranks) <= 12 else None, markersize=3)
        lowest = min(float(curve.rates[0]) for curve in curves)
        height = max(1 - lowest, 0.01)
        ax.set_ylim(1 - 1.05 * height, 1 + 0.03 * height)
        ax.set(xlabel="Rank", title="Share of mated searches found up to the rank")
        ax.locator_params(axis="x", integer=True, nbins=6)
        ax.yaxis.set_major_formatter(percent_label)

    return Panel("CMC", draw("cmc", paint), tuple(zip(styles, names, strict=True)), "Ties count against the mate.")


def fnir_panel(curves: Sequence[FnirCurve], styles: Sequence[Style], names: Sequence[str]) -> Panel:
    """FNIR at rank 1 against FPIR, on logarithmic axes."""
    left = min(0.5, *(float(curve.fpir[curve.fpir > 0][0]) for curve in curves))

    def paint(ax: "Axes") -> None:
        for curve, style in zip(curves, styles, strict=True):
            kept = np.unique(np.geomspace(1, len(curve.fpir), _POINTS).astype(int)) - 1
            fpir, fnir = np.maximum(curve.fpir[kept], left), curve.fnir[kept]
            plot_line(ax, fpir, fnir, style, drawstyle="steps-post")
        ax.set(xscale="log", xlim=(left, 1))
        ax.set_ylim(bottom=0)
        ax.set(xlabel="False positive identification rate (FPIR)", title="FNIR at rank 1")
        percent_ticks(ax)

    return Panel(
        "FNIR and FPIR",
        draw("fnir", paint),
        tuple(zip(styles, names, strict=True)),
        "A mated search is missed if its person is not at rank 1 or below the threshold; a search of an unknown person "
        "is a false alarm if any entry reaches it. Lower and further left is better.",
    )


def discard_panels(curves: Mapping[str, DiscardCurve]) -> list[Panel]:
    """FNMR over the share of genuine pairs discarded, a panel for each measure, all on the same axes."""
    random = Style(HIGHLIGHT.colour, (4, 2), 0.9)
    highest = 1.05 * max((float(curve.fnmr.max()) for curve in curves.values()), default=0.0) or 0.01

    def panel(number: int, name: str, curve: DiscardCurve) -> Panel:
        def paint(ax: "Axes") -> None:
            plot_line(ax, curve.discarded, np.full(len(curve.discarded), curve.fnmr[0]), random)
            plot_line(ax, curve.discarded, curve.fnmr, HIGHLIGHT)
            ax.set(xlim=(0, curve.discarded[-1]), ylim=(0, highest))
            ax.set(xlabel="Share of genuine pairs discarded", title="False non-match rate (FNMR)")
            ax.xaxis.set_major_formatter(percent_label)
            ax.yaxis.set_major_formatter(percent_label)

        return Panel(name, draw(f"discard{number}", paint), ((HIGHLIGHT, name), (random, "discarded at random")))

    return [panel(number, *item) for number, item in enumerate(curves.items())]


def _between(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The points with both rates above 0 and below 1, which have a place on probit axes; at least one."""
    inside = (x > 0) & (x < 1) & (y > 0) & (y < 1)
    if inside.any():
        return x[inside], y[inside]
    return np.array([0.5]), np.array([0.5])
