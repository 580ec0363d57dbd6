"""The test sets of a run over its training: curves, and a table of the last evaluation of each."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

from coreface.reports.plots import EQUAL_STYLES, Panel, Rows, lines_panel, series
from coreface.reports.sections import figures
from coreface.reports.tables import percent


def test_set_section(history: Mapping[str, Rows]) -> Iterator[str]:
    """Yield the curves and the table of every run that has evaluated test sets.

    Args:
        history: rows of metrics.jsonl by the name of the run.
    """
    for run, rows in history.items():
        sets = _rows_by_set(rows)
        if not sets:
            continue
        yield figures(_panels(run, sets))
        yield from _table(sets)
        yield (
            '<p class="quiet">± is the standard error over folds. No encoder is chosen by these sets: the last one is '
            "the result.</p>"
        )
        for name, own in sets.items():
            for row in own:
                if row.get("error") is not None:
                    text = f"{name}, step {row.get('step', 'unknown')}: not measured: {row['error']}"
                    yield f'<p class="quiet">{escape(text)}</p>'


def _rows_by_set(rows: Rows) -> dict[str, list[Mapping[str, Any]]]:
    sets: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if row.get("kind") == "set":
            sets.setdefault(str(row.get("name")), []).append(row)
    return sets


def _panels(run: str, sets: Mapping[str, Rows]) -> list[Panel]:
    styles = {name: EQUAL_STYLES[number % len(EQUAL_STYLES)] for number, name in enumerate(sets)}
    panels = []
    for title, key in (("Accuracy", "accuracy"), ("Equal error rate", "eer")):
        lines = {name: series(rows, "set", "step", key) for name, rows in sets.items()}
        panels.append(lines_panel(f"{title} on test sets: {run}", lines, styles, "step"))
    return [panel for panel in panels if panel]


def _table(sets: Mapping[str, Rows]) -> Iterator[str]:
    measured = {name: row for name, rows in sets.items() for row in rows if row.get("error") is None}  # the last one
    if not measured:
        return
    fars = dict.fromkeys(key for row in measured.values() for key in row if key.startswith("tar_at_far_"))
    heads = ["", "Step", "Accuracy", "EER", *(f"TAR at FAR {100 * float(key[11:]):g} %" for key in fars)]
    yield '<div class="wide"><table class="rates"><thead><tr>'
    yield from (f'<th scope="col">{head}</th>' for head in heads)
    yield "</tr></thead><tbody>"
    for name, row in measured.items():
        accuracy, error = row.get("accuracy"), row.get("accuracy_error")
        spread = "" if error is None else f" ± {100 * error:.2f}"
        cells = [f"{row.get('step')}", percent(accuracy) + spread, percent(row.get("eer"))]
        cells += [percent(row.get(far)) for far in fars]
        yield f'<tr><th scope="row">{escape(name)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in cells)}</tr>'
    yield "</tbody></table></div>"
