"""The figures of the report: small inline SVG panels in the colours of the page, which follow light and dark.

No user-supplied text is drawn: names appear in the legends, which are part of the page's text.
"""

import html
import io
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from coreface.errors import MissingExtraError
from coreface.evaluation.metrics import Eer, Floats, Roc

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows: TypeAlias = Sequence[Mapping[str, Any]]

_ACCENT, _INK, _MUTED, _GRID = "#1d5fc4", "#1b1c1f", "#6a6e76", "#e2e4e8"
_VARIABLES = {_ACCENT: "var(--accent)", _INK: "var(--ink)", _MUTED: "var(--muted)", _GRID: "var(--line)"}

_SIZE = (4.4, 2.9)  # inches: shown at 440 px or, on a phone, 350 px, its 9 point letters stay readable
_POINTS = 1000  # of one line
_FEW = 40  # points of a line that are worth a dot each
_BINS = 60
_STYLE = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _MUTED,
    "axes.titlelocation": "left",
    "axes.titlesize": 9,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _GRID,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "ytick.major.size": 0,
}


class Style(NamedTuple):
    """How a line is drawn: a CSS-mapped colour, dashes in line widths (none: solid) and a width in points."""

    colour: str
    dashes: tuple[float, ...] = ()
    width: float = 1.3

    def swatch(self) -> str:
        """Return a short piece of the line, for a legend."""
        dashes = f' stroke-dasharray="{" ".join(f"{2 * length:g}" for length in self.dashes)}"' if self.dashes else ""
        line = f'<line x1="0" y1="4" x2="22" y2="4" stroke="{_VARIABLES[self.colour]}" stroke-width="2"{dashes}/>'
        return f'<svg class="swatch" viewBox="0 0 22 8" aria-hidden="true">{line}</svg>'


HIGHLIGHT = Style(_ACCENT, width=1.9)
_DASHES = ((), (4, 2), (1, 1.5), (5, 1.5, 1, 1.5))
_OTHERS = tuple(Style(_MUTED, dashes) for dashes in _DASHES)
#: Of lines of which none stands out.
EQUAL_STYLES = tuple(Style(colour, dashes) for dashes in _DASHES for colour in (_ACCENT, _MUTED))

_COSINES = {"positive": HIGHLIGHT, "hardest negative": Style(_MUTED), "margin": Style(_MUTED, (4, 2))}


@dataclass(frozen=True)
class Panel:
    """A figure.

    Attributes:
        title: what it shows, plain text.
        svg: the drawing, without any text of the user's.
        legend: style and name (plain text) of each line.
        caption: how to read it, plain text; may be empty.
    """

    title: str
    svg: str
    legend: tuple[tuple[Style, str], ...] = ()
    caption: str = ""


def line_styles(names: Sequence[str], highlighted: str) -> dict[str, Style]:
    """Give one name the accent colour and the others grey with different dashes, which also works in print."""
    others = [name for name in dict.fromkeys(names) if name != highlighted]
    return {name: _OTHERS[position % len(_OTHERS)] for position, name in enumerate(others)} | {highlighted: HIGHLIGHT}


def roc_panel(curves: Mapping[str, tuple[Roc, Eer]], styles: Mapping[str, Style]) -> Panel:
    """ROC of each name on a logarithmic FMR axis, from the strictest threshold that accepts an impostor."""
    # At most a half: with a single impostor pair the FMR goes from 0 to 1 in one step.
    left = min(0.5, *(float(curve.fmr[curve.fmr > 0][0]) for curve, _ in curves.values()))

    def paint(ax: "Axes") -> None:
        lowest = 1.0
        for name, (curve, equal) in curves.items():
            start = int(np.searchsorted(curve.fmr, 0.0, side="right")) - 1  # the best TAR without a false match
            fmr, tar = np.maximum(curve.fmr[start:], left), curve.tar[start:]
            # In steps, as no threshold reaches what a sloping line would promise between two points.
            plot_line(ax, fmr, tar, styles[name], drawstyle="steps-post")
            if equal.fmr >= left:
                ax.plot([equal.fmr], [1 - equal.fnmr], "o", color=styles[name].colour, markersize=4.5)
            lowest = min(lowest, float(tar[0]))
        height = max(1 - lowest, 0.01)
        ax.set(xscale="log", xlim=(left, 1), ylim=(1 - 1.05 * height, 1 + 0.03 * height))
        ax.set(xlabel="False match rate (FMR)", title="True accept rate (TAR)")
        percent_ticks(ax)

    return Panel(
        "ROC",
        draw("roc", paint),
        tuple((styles[name], name) for name in curves),
        "Higher and further left is better. Dots: the EER, where its FMR is above 0.",
    )


def score_panel(name: str, genuine: Floats, impostor: Floats, equal: Eer) -> Panel:
    """Distributions of the genuine and the impostor scores of one encoder, with its EER threshold."""
    extremes = [float(extreme) for scores in (genuine, impostor) for extreme in (scores.min(), scores.max())]
    # Wide enough that the bins of an encoder close to collapse still differ.
    edges = np.linspace(min(extremes), max(max(extremes), min(extremes) + 1e-6), _BINS + 1)
    styles = {"impostor pairs": Style(_MUTED), "genuine pairs": HIGHLIGHT}

    def paint(ax: "Axes") -> None:
        for scores, (colour, _, width) in zip((impostor, genuine), styles.values(), strict=True):
            share = np.histogram(scores, edges)[0] / len(scores)
            ax.stairs(share, edges, color=colour, fill=True, alpha=0.2)
            ax.stairs(share, edges, color=colour, linewidth=width)
        ax.axvline(equal.threshold, color=_INK, linewidth=1, linestyle=(0, (4, 2)))
        beyond = equal.threshold > (edges[0] + edges[-1]) / 2
        ax.annotate(
            f"T = {equal.threshold:.4f}",
            (equal.threshold, 1),
            xycoords=("data", "axes fraction"),
            xytext=(-5 if beyond else 5, -9),
            textcoords="offset points",
            ha="right" if beyond else "left",
        )
        ax.margins(x=0.02)
        ax.set_ylim(0, 1.15 * ax.dataLim.ymax)
        ax.set(xlabel="Cosine", title=f"Share of the pairs of its kind, per {edges[1] - edges[0]:.2g} of cosine")
        ax.yaxis.set_major_formatter(percent_label)

    caption = "Dashed: the EER threshold. Genuine pairs to its left and impostor pairs to its right are the errors."
    legend = tuple((style, kind) for kind, style in styles.items())
    return Panel(f"Scores: {name}", draw("scores", paint), legend, caption)


def training_panels(history: Mapping[str, Rows], styles: Mapping[str, Style]) -> list[Panel]:
    """Curves of the runs in ``history``, rows of metrics.jsonl by run name; a panel without data is left out."""

    def of_runs(title: str, value: str, kind: str = "step", x: str = "step") -> Panel | None:
        lines = {name: series(rows, kind, x, value) for name, rows in history.items()}
        return lines_panel(title, lines, styles, x)

    panels = [of_runs("Classification loss", "classification")]
    for name, rows in history.items():
        lines = {label: series(rows, "step", "step", label.replace(" ", "_")) for label in _COSINES}
        panels.append(lines_panel(f"Cosines of the contrastive term: {name}", lines, _COSINES, "step"))
    panels.append(of_runs("Equal error rate", "eer", "evaluation"))
    panels.append(of_runs("Learning rate", "lr"))
    return [panel for panel in panels if panel]


def lines_panel(
    title: str, lines: Mapping[str, NDArray[np.float64]], styles: Mapping[str, Style], x: str
) -> Panel | None:
    """Return a panel of the lines, (n, 2) each, that have a finite value; None if there is none."""
    drawn = {name: line for name, line in lines.items() if np.isfinite(line[:, 1]).any()}
    if not drawn:
        return None

    def paint(ax: "Axes") -> None:
        for name, line in drawn.items():
            kept = np.linspace(0, len(line) - 1, min(len(line), _POINTS)).round().astype(int)
            # Dots, because a line through one point, or between two that are not finite, cannot be seen.
            dots = 3 if len(line) <= _FEW else 0
            plot_line(ax, line[kept, 0], line[kept, 1], styles[name], marker="o", markersize=dots)
        values = np.concatenate([line[:, 1] for line in drawn.values()])
        values = values[np.isfinite(values)]
        if title == "Learning rate" and 0 < 50 * values.min() < values.max():
            ax.set_yscale("log")
            ax.minorticks_off()
            ax.yaxis.set_major_formatter(lambda rate, _: f"{rate:g}")
        if title.startswith("Equal error rate"):
            ax.set_ylim(bottom=0)
        if title.startswith(("Equal error rate", "Accuracy")):
            ax.yaxis.set_major_formatter(percent_label)
        ax.set_xlabel(x.capitalize())
        ax.margins(x=0.02)
        ax.locator_params(axis="x", integer=True, nbins=6)

    thinned = max(len(line) for line in drawn.values()) > _POINTS
    caption = f"At most {_POINTS} evenly spaced rows are drawn." if thinned else ""
    return Panel(title, draw(title, paint), tuple((styles[name], name) for name in drawn), caption)


def series(rows: Rows, kind: str, x: str, y: str) -> NDArray[np.float64]:
    """Return (n, 2): x and y of the rows that have both keys, NaN where y is null."""
    # A run that was resumed wrote some steps twice: the later row is the one that counts.
    points = {_number(row[x]): _number(row[y]) for row in rows if row.get("kind") == kind and x in row and y in row}
    return np.array(sorted((at, value) for at, value in points.items() if math.isfinite(at))).reshape(-1, 2)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan


def plot_line(ax: "Axes", x: Any, y: Any, style: Style, **options: Any) -> None:
    """Draw a line in a style; ``options`` are further ones of matplotlib's plot."""
    dashes: Any = (0, style.dashes) if style.dashes else "-"
    ax.plot(x, y, color=style.colour, linestyle=dashes, linewidth=style.width, **options)


def percent_ticks(ax: "Axes") -> None:
    """Label both axes in percent, at major ticks only."""
    ax.minorticks_off()
    ax.xaxis.set_major_formatter(percent_label)
    ax.yaxis.set_major_formatter(percent_label)


def percent_label(share: float, _: float = 0) -> str:
    """Return the label of a tick."""
    return f"{100 * share:.6g} %"


def _two_decimals(number: re.Match[str]) -> str:
    return f"{float(number[0]):.2f}"


def draw(title: str, paint: Callable[["Axes"], None]) -> str:
    """Return what ``paint`` draws as a part of the page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.style
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError(
            "the figures of a report need matplotlib, which is not installed; run: pip install 'coreface[report]'"
        ) from None
    # The salt makes ids the same every time, and different in every panel of the page.
    with matplotlib.style.context(["default", _STYLE | {"svg.hashsalt": title}]):
        figure = Figure(figsize=_SIZE, layout="constrained")
        paint(figure.add_subplot())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    return _inline(file.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """Make a part of the page of a file of matplotlib's: no prologue, metadata, unused ids, own style or colours."""
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r"#([\w-]+)", body))
    body = re.sub(r' id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r'="[^"]*"', lambda match: re.sub(r"\d+\.\d{3,}", _two_decimals, match[0]), body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    width, height = (72 * inches for inches in _SIZE)
    return f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{html.escape(title)}">{body.strip()}\n'
