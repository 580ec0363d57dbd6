"""The page of `coreface data clean`: what may be wrong with labels, with the faces side by side."""

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from coreface.errors import ImageError
from coreface.evaluation.cleaning import KINDS, Finding, LabelReport
from coreface.evaluation.protocols.protocol import short_name
from coreface.plurals import counted
from coreface.reports.page import write_sections
from coreface.reports.sections import picture_url

_SHOWN = 60  # findings of a kind; more make a page that opens slowly
_FACES = 6  # of a side
_MEANING = (
    "The score of an image is its cosine with the centre of the other images of its identity, less the cosine with "
    "the most alike other identity, which stands beside it. That of a pair is its cosine; that of two sides of an "
    "identity, or of two identities, is the mean cosine of their images. The share of good ones listed is expected to "
    "be at most what was asked for: it follows from the scores of wrong labels that were made on purpose. A duplicate "
    "has no threshold of this kind; its score is the correlation of the grey values."
)


def write_cleaning_page(report: LabelReport, title: str, summary: Iterable[str], path: Path) -> None:
    """Write the page as one self-contained HTML file, replacing one that is there.

    Args:
        report: what was found.
        title: of the page, plain text.
        summary: paragraphs at the top, plain text.
        path: the file.
    """
    write_sections(title, summary, _sections(report), path)


def _sections(report: LabelReport) -> Iterator[tuple[str, Iterable[str]]]:
    yield "What was found", _table(report)
    for kind, words in KINDS.items():
        findings = report.of_kind(kind)
        if findings:
            yield f"{len(findings)} {words}", _findings(report, findings)
    yield "Images that could not be used", (f"<p>{escape(message)}</p>" for message in report.unreadable[:_SHOWN])


def _table(report: LabelReport) -> Iterator[str]:
    heads = ("compared", "listed below", "listed", "expected to be wrong", "good ones listed", "wrong in all")
    yield '<div class="wide"><table class="figures"><thead><tr><td></td>'
    yield "".join(f'<th scope="col">{head}</th>' for head in heads) + "</tr></thead><tbody>"
    for kind, words in KINDS.items():
        cut = report.cuts.get(kind)
        count = len(report.of_kind(kind))
        if cut is None:
            cells = ["", "", f"{count:,}", "", "", ""]
        elif cut.threshold is None or cut.precision is None:
            cells = [f"{cut.scored:,}", "nothing", "0", "", "", _percent(cut.share_wrong)]
        else:
            limit = f"{cut.threshold:.3f}".replace("-", "−")
            cells = [
                f"{cut.scored:,}",
                f"above {limit}" if kind == "one person" else limit,
                f"{count:,}",
                _percent(cut.precision),
                _percent(cut.good_lost),
                _percent(cut.share_wrong),
            ]
        yield f'<tr><th scope="row">{words}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    yield f'</tbody></table></div><p class="quiet">{_MEANING}</p>'


def _findings(report: LabelReport, findings: list[Finding]) -> Iterator[str]:
    if len(findings) > _SHOWN:
        yield f"<p>The first {_SHOWN} of them; the list has all.</p>"
    yield '<ol class="findings">'
    for finding in findings[:_SHOWN]:
        yield f"<li><p><b>{_score(finding.score)}</b> {escape(_title(report, finding))}</p><div>"
        names = report.source.identity_names
        other = "" if finding.other is None else names[finding.other]
        if finding.kind in ("one person", "duplicate", "near duplicate"):
            yield _side(report, names[finding.identity], finding.images)
            yield _side(report, other, finding.beside)
        else:
            yield _side(report, "in question", finding.images)
            yield _side(report, f"others of {names[finding.identity]}", finding.beside)
            if finding.other_images:
                score = "" if finding.other_score is None else f", {_score(finding.other_score)}"
                yield _side(report, f"most alike: {other}{score}", finding.other_images)
        yield "</div></li>"
    yield "</ol>"


def _title(report: LabelReport, finding: Finding) -> str:
    name = report.source.identity_names[finding.identity]
    if finding.kind == "two people":
        return f"{name}: {counted(len(finding.images), 'image')} unlike the others"
    return short_name(report.source.locate(finding.images[0])) if len(finding.images) == 1 else name


def _side(report: LabelReport, caption: str, images: tuple[int, ...]) -> str:
    shown = []
    for index in images[:_FACES]:
        name = escape(short_name(report.source.locate(index)))
        try:
            shown.append(f'<img src="{picture_url(report.source[index][0], index)}" alt="{name}" title="{name}">')
        except ImageError:
            shown.append(f"<span>{name} cannot be read</span>")
    more = f" and {len(images) - _FACES} more" if len(images) > _FACES else ""
    return f"<figure>{''.join(shown)}<figcaption>{escape(caption)}{more}</figcaption></figure>" if shown else ""


def _score(score: float) -> str:
    return f"{score:.3f}".replace("-", "−")


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
