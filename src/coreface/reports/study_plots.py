"""The figures of a study: differences with their intervals, and every seed as a dot."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from coreface.reports.plots import Panel, Style, draw, percent_label

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ACCENT, _MUTED, _INK = "#1d5fc4", "#6a6e76", "#1b1c1f"


def effects_panel(
    title: str,
    effects: Sequence[tuple[str, float | None, float | None, float | None, Sequence[float]]],
    caption: str,
) -> Panel:
    """Forest plot of rows (label, difference, low, high, differences of the seeds), in percentage points."""

    def paint(ax: "Axes") -> None:
        for row, (_, difference, low, high, seeds) in enumerate(effects):
            ax.plot([100 * one for one in seeds], [row - 0.2] * len(seeds), "o", color=_MUTED, markersize=3)
            if difference is not None:
                if low is not None and high is not None:
                    ax.plot([100 * low, 100 * high], [row, row], color=_ACCENT, linewidth=1.6)
                ax.plot([100 * difference], [row], "o", color=_ACCENT, markersize=5)
        ax.axvline(0, color=_INK, linewidth=0.8, linestyle=(0, (4, 2)))
        ax.set_yticks(range(len(effects)), [label for label, *_ in effects])
        ax.set_ylim(len(effects) - 0.5, -0.5)
        ax.set(xlabel="Difference, percentage points")

    return Panel(title, draw(f"effects {title}", paint), ((Style(_ACCENT, width=1.6), "difference"),), caption)


def seeds_panel(title: str, values: Mapping[str, Sequence[float]]) -> Panel:
    """One dot a seed, a row an arm, the mean as a line; the arms are numbered from the top."""

    def paint(ax: "Axes") -> None:
        for row, seeds in enumerate(values.values()):
            if seeds:
                mean = sum(seeds) / len(seeds)
                ax.plot([mean, mean], [row - 0.3, row + 0.3], color=_ACCENT, linewidth=1.6)
            ax.plot(list(seeds), [row] * len(seeds), "o", color=_MUTED, markersize=4)
        ax.set_yticks(range(len(values)), [str(number) for number in range(1, len(values) + 1)])
        ax.set_ylim(len(values) - 0.5, -0.5)
        ax.xaxis.set_major_formatter(percent_label)

    caption = "; ".join(f"{number}: {name}" for number, name in enumerate(values, 1))
    return Panel(title, draw(f"seeds {title}", paint), ((Style(_ACCENT, width=1.6), "mean"),), f"{caption}.")
