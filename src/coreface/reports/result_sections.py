"""The section of a page that shows one result, for each kind of result."""

from collections.abc import Iterator, Sequence
from functools import singledispatch
from html import escape

from coreface.evaluation.metrics.groups import GroupRate, GroupRates
from coreface.evaluation.results import IdentificationResult, QualityResult, Result, TableResult, VerificationResult
from coreface.reports.curve_plots import cmc_panel, det_panel, discard_panels, fnir_panel
from coreface.reports.plots import line_styles, roc_panel, score_panel
from coreface.reports.sections import figures, hardest_pairs
from coreface.reports.tables import QUALITY_COLUMNS, no_table, percent, quality_rows, table_cell
from coreface.reports.threshold_table import threshold_table


def result_section(result: Result) -> Iterator[str]:
    """Yield the section: the protocol in words, the numbers, and what could not be embedded."""
    yield f"<p>{escape(result.statement)}</p>"
    yield from _numbers(result)
    if result.unreadable:
        items = "".join(f"<li>{escape(message)}</li>" for message in result.unreadable)
        yield f'<h3>Not embedded</h3><ul class="quiet">{items}</ul>'
    yield from (f'<p class="quiet">{escape(note)}</p>' for note in result.notes)


def curves(results: Sequence[VerificationResult]) -> Iterator[str]:
    """Yield ROC and DET of all results, and the scores of the last."""
    last = results[-1]
    styles = line_styles([result.name for result in results], last.name)
    drawn = {result.name: (result.verification.roc, result.verification.eer) for result in results}
    scores = last.verification
    yield figures(
        [
            roc_panel(drawn, styles),
            det_panel(drawn, styles),
            score_panel(last.name, scores.genuine_scores, scores.impostor_scores, scores.eer),
        ]
    )


@singledispatch
def _numbers(result: Result) -> Iterator[str]:
    raise no_table(result)


@_numbers.register
def _verification(result: VerificationResult) -> Iterator[str]:
    yield from curves([result])
    yield f"<p>Area under the ROC: {result.verification.roc.auc:.6f}.</p><h3>Thresholds</h3>"
    yield from threshold_table(result.verification)
    if result.groups:
        yield "<h3>By group</h3>"
        yield from _groups(result.groups)
    yield "<h3>Hardest pairs</h3>"
    yield from hardest_pairs(result.verification, result.image, result.label)


@_numbers.register
def _table_result(result: TableResult) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in ("", *result.columns))
    rows = [_row(name, [escape(table_cell(value)) for value in values]) for name, values in result.rows.items()]
    yield _table(heads, rows)


@_numbers.register
def _identification(result: IdentificationResult) -> Iterator[str]:
    identification = result.identification
    names = [f"gallery {number} ({one.gallery} people)" for number, one in enumerate(identification.searches, 1)]
    heads = "".join(f'<th scope="col">{text}</th>' for text in ("", *names, "Mean"))
    rows = []
    for fpir in identification.fpirs:
        found, means = identification.open_set(fpir), identification.mean_tpir(fpir)
        for rank, mean in zip(("rank 1", "any rank"), means, strict=True):
            cells = []
            for one in found:
                rate = one.tpir if rank == "rank 1" else one.tpir_any_rank
                if rate is None:
                    cells.append(f"not resolvable <small>{one.non_mated:,} non-mated searches</small>")
                else:
                    cells.append(f"{percent(rate)} <small>T {one.threshold:.4f}, FPIR {percent(one.fpir)}</small>")
            rows.append(_row(f"TPIR at FPIR {100 * fpir:g} %, {rank}", [*cells, percent(mean)]))
    for rank_number in (1, 5, 10):
        rates = [percent(curve.at(rank_number)) for curve in identification.cmc(rank_number)]
        rows.append(_row(f"Closed set, rank {rank_number}", [*rates, percent(identification.mean_rate(rank_number))]))
    yield _table(heads, rows)
    counts = ", ".join(
        f"{int(one.mated.sum()):,} mated and {int((~one.mated).sum()):,} not" for one in identification.searches
    )
    yield f"<p>Searches in each gallery: {counts}. Closed-set rates are of the mated searches.</p>"
    styles = list(line_styles(names, names[0]).values())[::-1]
    curves = [one.fnir_curve() for one in identification.searches]
    yield figures([fnir_panel(curves, styles, names), cmc_panel(identification.cmc(), styles, names)])
    if result.distractors:
        yield "<h3>Among distractors</h3>"
        among = [_row(f"{one.distractors:,}", [percent(one.rate), f"{one.searches:,}"]) for one in result.distractors]
        yield _table('<th scope="col">Distractors</th><th scope="col">Rank 1</th><th scope="col">Searches</th>', among)


@_numbers.register
def _quality(result: QualityResult) -> Iterator[str]:
    quality = result.quality
    yield (
        f"<p>FNMR {percent(quality.fnmr)} of {quality.genuine:,} genuine pairs at T {quality.threshold:.4f}, FMR "
        f"{percent(quality.fmr)} of {quality.impostor:,} impostor pairs. "
        "Less 5 %: the FNMR with that share of the genuine pairs discarded.</p>"
    )
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in ("", *QUALITY_COLUMNS))
    yield _table(heads, [_row(name, cells) for name, cells in quality_rows(quality).items()])
    yield figures(discard_panels(quality.curves))


def _groups(groups: GroupRates) -> Iterator[str]:
    names = [f"FMR with {name}" for name in groups.names]
    heads = "".join(f'<th scope="col">{escape(text)}</th>' for text in ("", "Identities", "FNMR", *names))
    rows = []
    for index, name in enumerate(groups.names):
        cells = [str(groups.identities[index]), _group(groups.fnmr[index]), *map(_group, groups.fmr[index])]
        rows.append(_row(name, cells))
    yield _table(heads, rows)
    ratios = {"FNMR": groups.fnmr_ratio, "FMR inside groups": groups.fmr_ratio}
    said = [f"{name} {ratio:.2f}" for name, ratio in ratios.items() if ratio is not None]
    yield (
        f'<p class="quiet">All groups at the threshold {groups.threshold:.4f}. Rates based on fewer than 30 errors '
        f"are not given. {'Largest over smallest: ' + ', '.join(said) + '.' if said else ''} "
        f"Identities without a label: {groups.unlabelled}.</p>"
    )


def _group(rate: GroupRate) -> str:
    if rate.rate is None:
        return "no pair" if not rate.pairs else "&lt; 30 errors"
    return f"{percent(rate.rate)} <small>{rate.errors:,} of {rate.pairs:,}</small>"


def _row(head: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{escape(head)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _table(heads: str, rows: Sequence[str]) -> str:
    return (
        f'<div class="wide"><table class="figures"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}'
        "</tbody></table></div>"
    )
