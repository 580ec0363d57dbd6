"""The section of the report that turns wanted error rates into thresholds."""

from collections.abc import Iterator

from coreface.evaluation.metrics import tar_at_far
from coreface.evaluation.metrics.proportions import badge
from coreface.evaluation.verification import Verification

_FMRS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def threshold_table(result: Verification) -> Iterator[str]:
    """Yield a table: FMR 1e-1 ... 1e-6, its threshold, the FMR achieved, the FNMR, and how far that carries."""
    rows = []
    for far in _FMRS:
        rate = tar_at_far(result.genuine_scores, result.impostor_scores, far)
        head = f'<th scope="row">{100 * far:g} %</th>'
        if rate.threshold is None or rate.tar is None or rate.fmr is None:
            rows.append(
                f'<tr>{head}<td>–</td><td>–</td><td>–</td><td class="quiet">not resolvable with {rate.impostor:,} '
                "impostor pairs</td></tr>"
            )
            continue
        misses = round((1 - rate.tar) * rate.genuine)
        false_matches = badge(round(rate.fmr * rate.impostor), rate.impostor)
        false_non_matches = badge(misses, rate.genuine)
        threshold = f"{rate.threshold:.4f}".replace("-", "−")
        fnmr = f"{100 * misses / rate.genuine:.2f} %" if misses else "0 %"
        behind = f"FMR: {false_matches}.<br>FNMR: {false_non_matches}."
        rows.append(
            f'<tr>{head}<td><data value="{rate.threshold!r}">{threshold}</data></td><td>{100 * rate.fmr:.3g} %</td>'
            f'<td>{fnmr}</td><td class="quiet">{behind}</td></tr>'
        )
    heads = "".join(
        f'<th scope="col">{text}</th>' for text in ("Wanted FMR", "Threshold", "FMR achieved", "FNMR", "Behind it")
    )
    yield f'<div class="wide"><table class="figures"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}'
    yield (
        "</tbody></table></div>"
        '<p class="quiet">Rule of 30: with 30 errors or more the true rate is within 30 % of the rate seen, with 90 % '
        "confidence. Rule of 3: without an error in n comparisons the rate may still be 3 / n. Both assume independent "
        "comparisons; pairs that share people are not, so require more errors.</p>"
    )
