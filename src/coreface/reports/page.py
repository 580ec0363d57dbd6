"""What was measured, as one HTML file: error rates, curves, the hardest pairs and how the encoder was trained.

The page needs no network and no script. It holds no date, so the same input gives the same bytes.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.evaluation.verification import Verification
from coreface.files import write_atomically
from coreface.reports.curve_plots import det_panel
from coreface.reports.plots import Panel, line_styles, roc_panel, score_panel, training_panels
from coreface.reports.sections import error_rates, hardest_pairs
from coreface.reports.threshold_table import threshold_table


@dataclass(frozen=True)
class Measured:
    """One encoder, or baseline, on one set of faces.

    Attributes:
        name: what it is called on the page, such as "CoReFace" or "raw pixels".
        verification: what was measured.
    """

    name: str
    verification: Verification


@dataclass(frozen=True)
class Page:
    """What a report says. All text is plain text.

    Attributes:
        title: of the page.
        summary: paragraphs at the top.
        measured: all of different names. The last is the subject: its scores and hardest pairs are shown. None where
            there is a history only, of a run that still goes on.
        image: index of an image of the subject's test set -> uint8 RGB (H, W, 3); None shows no faces.
        label: index of such an image -> what stands under it, such as "s3 / 7.pgm"; None writes "image 7".
        history: rows of metrics.jsonl by name of the run. The run that is named as the subject, or else the last, is
            drawn in the subject's colour.
        recipe: of the training, YAML.
        environment: versions, hardware and the like, by name.
        notes: protocol, warnings, credits.

    Raises:
        InputError: nothing is measured, or two have the same name.
    """

    title: str
    summary: tuple[str, ...]
    measured: tuple[Measured, ...]
    image: Callable[[int], NDArray[np.uint8]] | None = None
    label: Callable[[int], str] | None = None
    history: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [measured.name for measured in self.measured]
        if len(set(names)) < len(names) or not (names or self.history):
            raise InputError(f"measured has the names {names}; expected one or more, all different, or a history alone")


def write_report(page: Page, path: Path) -> None:
    """Write the report as one self-contained HTML file.

    Args:
        page: what it says.
        path: the file; one that is there is replaced.

    Raises:
        InputError: ``page.image`` returned something else than a uint8 RGB image.
        MissingExtraError: matplotlib is not installed.
    """
    sections: dict[str, Iterable[str]] = {}
    if page.measured:
        sections = {
            "Error rates": error_rates({measured.name: measured.verification for measured in page.measured}),
            "Curves": _curves(page.measured),
            "Thresholds": threshold_table(page.measured[-1].verification),
            "Hardest pairs": hardest_pairs(page.measured[-1].verification, page.image, page.label),
        }
    sections |= {
        "Training": _training(page),
        "Recipe": _recipe(page.recipe),
        "Environment": environment_table(page.environment),
        "Notes": (f"<p>{escape(note)}</p>" for note in page.notes),
    }
    write_page(page.title, page.summary, sections, path)


def write_page(title: str, summary: Iterable[str], sections: Mapping[str, Iterable[str]], path: Path) -> None:
    """Write sections, heading -> HTML, as one page; title, summary and headings are plain text."""
    body = "".join(f'<p class="lead">{escape(paragraph)}</p>\n' for paragraph in summary)
    for heading, parts in sections.items():
        content = "\n".join(parts)
        body += f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>\n" if content else ""
    document = _DOCUMENT.format(title=escape(title), style=_STYLE, body=body)
    # File names may hold bytes that are no text (lone surrogates): a question mark is better than no report.
    write_atomically(path, document.encode("utf-8", errors="backslashreplace"))


def _curves(measured: Sequence[Measured]) -> Iterator[str]:
    subject = measured[-1]
    styles = line_styles([each.name for each in measured], subject.name)
    result = subject.verification
    curves = {each.name: (each.verification.roc, each.verification.eer) for each in measured}
    yield figures(
        [
            roc_panel(curves, styles),
            det_panel(curves, styles),
            score_panel(subject.name, result.genuine_scores, result.impostor_scores, result.eer),
        ]
    )


def _training(page: Page) -> Iterator[str]:
    runs = list(page.history)
    names = [measured.name for measured in page.measured]
    # The same name keeps its line all over the page.
    styles = line_styles([*names, *runs], names[-1] if names and (names[-1] in runs or not runs) else runs[-1])
    panels = training_panels(page.history, styles)
    if panels:
        yield figures(panels)
    if any(row.get("contrastive") is not None for rows in page.history.values() for row in rows):
        yield (
            '<p class="quiet">The contrastive loss itself is not drawn: an adaptive margin follows the gap that it '
            "would measure, so it is nearly constant by construction and says nothing. The three cosines do.</p>"
        )
    for name, rows in page.history.items():
        failed = [row for row in rows if row.get("kind") == "evaluation" and row.get("error") is not None]
        for row in failed:
            where = f"{name}, epoch {row.get('epoch', 'unknown')}: not measured: {row['error']}"
            yield f'<p class="quiet">{escape(where)}</p>'


def _recipe(recipe: str) -> Iterator[str]:
    if recipe.strip():
        yield f"<pre>{escape(recipe.rstrip())}</pre>"


def environment_table(environment: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of names and values."""
    rows = []
    for name, value in environment.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        rows.append(f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(text)}</td></tr>')
    if rows:
        yield f'<div class="wide"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'


def figures(panels: Iterable[Panel]) -> str:
    """Return panels side by side where the page is wide enough."""
    drawn = []
    for panel in panels:
        legend = "".join(f"<li>{style.swatch()}{escape(name)}</li>" for style, name in panel.legend)
        drawn.append(
            f'<figure class="panel"><h3>{escape(panel.title)}</h3><ul class="legend">{legend}</ul>{panel.svg}'
            + (f"<figcaption>{escape(panel.caption)}</figcaption>" if panel.caption else "")
            + "</figure>"
        )
    return f'<div class="panels">{"".join(drawn)}</div>'


_DOCUMENT = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}</main>
</body>
</html>
"""

_STYLE = """\
:root { --paper: #fff; --ink: #1b1c1f; --muted: #6a6e76; --line: #e2e4e8; --shade: #f6f7f9; --accent: #1d5fc4; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #16181c; --ink: #e6e7ea; --muted: #989da7; --line: #31353d; --shade: #1e2126; --accent: #7db0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: break-word;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", sans-serif;
  font-variant-numeric: tabular-nums; -webkit-text-size-adjust: 100%; }
main { max-width: 62rem; margin: 0 auto; padding: clamp(1.25rem, 5vw, 4rem) clamp(1.1rem, 4vw, 2.5rem); }
h1, h2, h3 { line-height: 1.25; font-weight: 600; text-wrap: balance; }
h1 { font-size: clamp(1.6rem, 5vw, 2.2rem); letter-spacing: -.015em; margin: 0 0 1.25rem; }
h2 { font-size: 1.25rem; margin: 0 0 1rem; }
h3 { font-size: 1rem; margin: 1.75rem 0 .6rem; }
section { margin-top: 2.75rem; border-top: 1px solid var(--line); padding-top: 1.5rem; }
p { max-width: 44rem; margin: 0 0 .8rem; }
.lead { font-size: 1.075rem; }
.quiet, figcaption, small, .rates :is(i, span), .none { color: var(--muted); font-size: .85rem; line-height: 1.45; }
.wide { overflow-x: auto; margin: 0 0 1.25rem; background: no-repeat right / 2rem 100% local
  linear-gradient(to left, var(--paper) 40%, transparent), no-repeat right / .6rem 100% scroll
  linear-gradient(to left, var(--line), transparent); }
table { border-collapse: collapse; }
th { font-weight: 600; }
th, td { vertical-align: top; padding: .7rem 0 .7rem clamp(1rem, 3vw, 1.75rem); border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { padding-left: 0; text-align: left; }
.rates { width: 100%; text-align: right; }
.rates thead > tr > * { padding-block: 0 .5rem; white-space: nowrap; }
.rates :is(th, td):first-child { position: sticky; left: 0; background: var(--paper); }
.rates tbody th { min-width: 6.5rem; max-width: 15rem; }
.rates :is(b, i, small, span) { display: block; font-style: normal; font-weight: 400; white-space: nowrap; }
.rates b { font-size: 1.25rem; line-height: 1.3; }
.rates i { color: var(--ink); margin-bottom: .2rem; }
.rates small { font-size: .8rem; }
.rates.subject tbody tr:last-child :is(th, b) { color: var(--accent); font-weight: 600; }
.rates .none { max-width: 9rem; min-width: 7.5rem; }
.figures { font-size: .9rem; text-align: right; }
.figures :is(th, td) { padding-block: .35rem; }
.figures thead th { font-weight: 400; color: var(--muted); vertical-align: bottom; }
.figures tbody th { font-weight: 400; white-space: nowrap; }
.figures td { white-space: nowrap; }
.figures td.quiet { white-space: normal; min-width: 11rem; }
.figures small { display: block; color: var(--muted); }
.facts { font-size: .9rem; text-align: left; }
.facts :is(th, td) { padding-block: .35rem; overflow-wrap: anywhere; }
.facts th { font-weight: 400; color: var(--muted); white-space: nowrap; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr));
  gap: 0 2.5rem; }
figure { margin: 0; }
.panel { display: grid; grid-template-rows: subgrid; grid-row: span 4; row-gap: 0; margin-bottom: 2rem; }
.panel h3 { margin: 0 0 .3rem; }
.panel > svg { display: block; width: 100%; height: auto; overflow: visible; margin: .4rem 0; stroke-linejoin: round; }
.panel svg text { font-family: inherit !important; }
.legend li { overflow-wrap: anywhere; }
.legend { list-style: none; margin: 0; padding: 0; display: flex; flex-wrap: wrap; gap: 0 1.1rem; font-size: .85rem; }
.swatch { width: 22px; height: 8px; margin-right: .45rem; }
.pairs { list-style: none; margin: 0; padding: 0; display: grid; gap: 1.1rem 1.25rem;
  grid-template-columns: repeat(auto-fill, minmax(10rem, 1fr)); }
.pairs p { margin: 0 0 .3rem; font-size: .85rem; color: var(--muted); }
.pairs b { display: block; color: var(--ink); font-weight: 600; font-size: 1rem; }
.pairs strong { color: var(--accent); font-weight: 600; }
.pairs div { display: grid; grid-template-columns: 1fr 1fr; gap: 3px; }
.pairs img { display: block; width: 100%; height: auto; border-radius: 3px; }
.pairs figcaption { font-size: .75rem; overflow-wrap: anywhere; padding-top: .2rem; }
pre { margin: 0; padding: 1rem 1.1rem; background: var(--shade); border-radius: 6px; overflow-x: auto;
  font: .8rem/1.55 ui-monospace, SFMono-Regular, Menlo, Consolas, "Liberation Mono", monospace; }
@media print {
  html { font-size: 11px; }
  main { padding: 0; max-width: none; }
  section { margin-top: 1.5rem; }
  h2, h3 { break-after: avoid; }
  figure, tr, .pairs li { break-inside: avoid; }
  .wide, pre { overflow: visible; background: none; }
  .rates :is(th, td):first-child { position: static; }
  pre { white-space: pre-wrap; }
  .panels { grid-template-columns: 1fr 1fr; }
}
"""
