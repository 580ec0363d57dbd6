"""What was evaluated, as one HTML file: error rates, curves, the hardest pairs and how the encoder was trained.

The page needs no network and no script. It holds no date, so the same input gives the same bytes.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from coreface.errors import InputError
from coreface.evaluation.metrics import Floats, eer
from coreface.evaluation.results import Result, VerificationResult
from coreface.files import write_atomically
from coreface.reports.plots import line_styles, score_panel, training_panels
from coreface.reports.result_sections import curves, result_section
from coreface.reports.sections import error_rates, figures, hardest_pairs
from coreface.reports.style import DOCUMENT, STYLE
from coreface.reports.test_set_curves import test_set_section
from coreface.reports.threshold_table import threshold_table


@dataclass(frozen=True)
class Page:
    """What a page says. All text is plain text.

    Attributes:
        title: of the page.
        summary: paragraphs at the top.
        results: all of different names. None if there is only the history of a run in training.
        compare: whether the results are verifications on the same faces: their rates and curves are drawn together, and
            thresholds and hardest pairs are those of the last one. Otherwise each result has a section of its own.
        opening: genuine and impostor scores by name, drawn side by side before all else.
        history: rows of metrics.jsonl by name of the run. The run that is named as the last result, or else the last,
            is drawn in that result's colour.
        recipe: of the training, YAML.
        environment: versions, hardware and the like, by name.
        notes: protocol, warnings, credits.

    Raises:
        InputError: there is no result and no history, two results have the same name, or results of another kind are
            to be compared.
    """

    title: str
    summary: tuple[str, ...] = ()
    results: tuple[Result, ...] = ()
    compare: bool = False
    opening: Mapping[str, tuple[Floats, Floats]] = field(default_factory=dict)
    history: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    recipe: str = ""
    environment: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = [result.name for result in self.results]
        if len(set(names)) < len(names) or not (names or self.history):
            raise InputError(f"results have the names {names}; expected one or more, all different, or a history alone")
        if self.compare and len(self.verifications) < len(names):
            raise InputError("compare is True; expected verifications alone")

    @property
    def verifications(self) -> tuple[VerificationResult, ...]:
        """The results that are verifications."""
        return tuple(result for result in self.results if isinstance(result, VerificationResult))


def write_page(page: Page, path: Path) -> None:
    """Write the page as one self-contained HTML file.

    Args:
        page: what it says.
        path: the file; one that is there is replaced.

    Raises:
        InputError: the ``image`` of a result returned something else than a uint8 RGB image.
        MissingExtraError: matplotlib is not installed.
    """
    write_sections(page.title, page.summary, _sections(page), path)


def write_sections(
    title: str, summary: Iterable[str], sections: Iterable[tuple[str, Iterable[str]]], path: Path
) -> None:
    """Write sections, each a heading and HTML, as one page; title, summary and headings are plain text."""
    body = "".join(f'<p class="lead">{escape(paragraph)}</p>\n' for paragraph in summary)
    for heading, parts in sections:
        content = "\n".join(parts)
        body += f"<section>\n<h2>{escape(heading)}</h2>\n{content}\n</section>\n" if content else ""
    document = DOCUMENT.format(title=escape(title), style=STYLE, body=body)
    # File names may hold bytes that are no text (lone surrogates): they are escaped.
    write_atomically(path, document.encode("utf-8", errors="backslashreplace"))


def _sections(page: Page) -> Iterator[tuple[str, Iterable[str]]]:
    verifications = page.verifications
    if page.opening:
        yield "Genuine and impostor scores", _opening(page.opening)
    if verifications:
        rates = {result.name: result.verification for result in verifications}
        yield "Error rates", error_rates(rates, last_stands_out=page.compare)
    if page.compare and verifications:
        last = verifications[-1]
        yield "Curves", curves(verifications)
        yield "Thresholds", threshold_table(last.verification)
        yield "Hardest pairs", hardest_pairs(last.verification, last.image, last.label)
    else:
        for result in page.results:
            yield result.name, result_section(result)
    yield "Training", _training(page)
    yield "Test sets", test_set_section(page.history)
    yield "Recipe", _recipe(page.recipe)
    yield "Environment", facts_table(page.environment)
    yield "Notes", (f"<p>{escape(note)}</p>" for note in page.notes)


def _opening(scores: Mapping[str, tuple[Floats, Floats]]) -> Iterator[str]:
    yield figures(
        [score_panel(name, genuine, impostor, eer(genuine, impostor)) for name, (genuine, impostor) in scores.items()]
    )


def _training(page: Page) -> Iterator[str]:
    runs = list(page.history)
    names = [result.name for result in page.results]
    # The same name keeps its line all over the page.
    styles = line_styles([*names, *runs], names[-1] if names and (names[-1] in runs or not runs) else runs[-1])
    panels = training_panels(page.history, styles)
    if panels:
        yield figures(panels)
    if any(row.get("contrastive") is not None for rows in page.history.values() for row in rows):
        yield (
            '<p class="quiet">The contrastive loss itself is not drawn: an adaptive margin follows the gap that it '
            "would measure, so it is nearly constant by construction. The three cosines show the progress.</p>"
        )
    for name, rows in page.history.items():
        failed = [row for row in rows if row.get("kind") == "evaluation" and row.get("error") is not None]
        for row in failed:
            where = f"{name}, epoch {row.get('epoch', 'unknown')}: not measured: {row['error']}"
            yield f'<p class="quiet">{escape(where)}</p>'


def _recipe(recipe: str) -> Iterator[str]:
    if recipe.strip():
        yield f"<pre>{escape(recipe.rstrip())}</pre>"


def facts_table(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield a table of names and values."""
    rows = []
    for name, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        rows.append(f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(text)}</td></tr>')
    if rows:
        yield f'<div class="wide"><table class="facts"><tbody>{"".join(rows)}</tbody></table></div>'
