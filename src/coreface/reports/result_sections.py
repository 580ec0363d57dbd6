"""The page of an evaluation by sets and protocols: what `coreface evaluate --report` writes."""

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from coreface.evaluation.embedding_sources import Subject
from coreface.evaluation.protocols.groups import GroupRate, GroupRates
from coreface.evaluation.results import MeasuredSearches, MeasuredSet
from coreface.reports.curve_plots import cmc_panel, det_panel, fnir_panel
from coreface.reports.page import environment_table, figures, write_page
from coreface.reports.plots import line_styles, roc_panel, score_panel
from coreface.reports.sections import error_rates, hardest_pairs
from coreface.reports.tables import percent
from coreface.reports.threshold_table import threshold_table
from coreface.runs.folder import environment


def write_set_report(
    subject: Subject, sets: Sequence[MeasuredSet], searches: Sequence[MeasuredSearches], path: Path
) -> None:
    """Write what was measured as one self-contained HTML file.

    Args:
        subject: what was measured.
        sets: on which pairs.
        searches: by which identification protocols.
        path: the file; one that is there is replaced.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    sections: dict[str, Iterator[str] | list[str]] = {}
    if sets:
        table = error_rates({measured.name: measured.verification for measured in sets}, subject=False)
        sections["Error rates"] = table
    for measured in sets:
        sections[measured.name] = _set(measured)
    for search in searches:
        sections[search.name] = _searches(search)
    sections["Environment"] = environment_table(environment())
    digest = f" Content digest {subject.digest[:16]}." if subject.digest else ""
    summary = [f"Embeddings: {subject.way}.{digest} A pair matches if and only if its cosine reaches the threshold."]
    write_page(f"{subject.name}: evaluation", summary, sections, path)


def _set(measured: MeasuredSet) -> Iterator[str]:
    result = measured.verification
    yield f"<p>{escape(measured.statement)}</p>"
    styles = line_styles([measured.name], measured.name)
    curves = {measured.name: (result.roc, result.eer)}
    yield figures(
        [
            roc_panel(curves, styles),
            det_panel(curves, styles),
            score_panel(measured.name, result.genuine_scores, result.impostor_scores, result.eer),
        ]
    )
    yield f"<p>Area under the ROC: {result.roc.auc:.6f}.</p><h3>Thresholds</h3>"
    yield from threshold_table(result)
    if measured.groups:
        yield "<h3>By group</h3>"
        yield from _groups(measured.groups)
    yield "<h3>Hardest pairs</h3>"
    yield from hardest_pairs(result, measured.image, measured.label)
    yield from _unreadable(measured.unreadable)


def _searches(measured: MeasuredSearches) -> Iterator[str]:
    result = measured.identification
    yield f"<p>{escape(measured.statement)}</p>"
    names = [f"gallery {number} ({one.gallery} people)" for number, one in enumerate(result.searches, 1)]
    heads = "".join(f'<th scope="col">{text}</th>' for text in ("", *names, "Mean"))
    rows = []
    for fpir in result.fpirs:
        found, means = result.open_set(fpir), result.mean_tpir(fpir)
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
        rates = [percent(curve.at(rank_number)) for curve in result.cmc(rank_number)]
        rows.append(_row(f"Closed set, rank {rank_number}", [*rates, percent(result.mean_rate(rank_number))]))
    yield _table(heads, rows)
    counts = ", ".join(f"{int(one.mated.sum()):,} mated and {int((~one.mated).sum()):,} not" for one in result.searches)
    yield f"<p>Searches in each gallery: {counts}. Closed-set rates are of the mated searches.</p>"
    styles = list(line_styles(names, names[0]).values())[::-1]
    curves = [one.fnir_curve() for one in result.searches]
    yield figures([fnir_panel(curves, styles, names), cmc_panel(result.cmc(), styles, names)])
    if measured.distractors:
        yield "<h3>Among distractors</h3>"
        among = [_row(f"{one.distractors:,}", [percent(one.rate), f"{one.searches:,}"]) for one in measured.distractors]
        yield _table('<th scope="col">Distractors</th><th scope="col">Rank 1</th><th scope="col">Searches</th>', among)
    yield from _unreadable(measured.unreadable)


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
        f'<p class="quiet">All groups at the threshold {groups.threshold:.4f}. No rate is given where fewer than 30 '
        f"errors stand behind it. {'Largest over smallest: ' + ', '.join(said) + '.' if said else ''} "
        f"Identities without a label: {groups.unlabelled}.</p>"
    )


def _group(rate: GroupRate) -> str:
    if rate.rate is None:
        return "no pair" if not rate.pairs else "&lt; 30 errors"
    return f"{percent(rate.rate)} <small>{rate.errors:,} of {rate.pairs:,}</small>"


def _unreadable(messages: Sequence[str]) -> Iterator[str]:
    if messages:
        items = "".join(f"<li>{escape(message)}</li>" for message in messages)
        yield f'<h3>Not embedded</h3><ul class="quiet">{items}</ul>'


def _row(head: str, cells: Sequence[str]) -> str:
    return f'<tr><th scope="row">{escape(head)}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _table(heads: str, rows: Sequence[str]) -> str:
    return (
        f'<div class="wide"><table class="figures"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}'
        "</tbody></table></div>"
    )
