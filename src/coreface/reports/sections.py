"""Sections of a page: the table of error rates, the hardest pairs, and panels side by side."""

import base64
from collections.abc import Callable, Iterable, Iterator, Mapping
from html import escape
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from coreface.errors import InputError
from coreface.evaluation.all_pairs import ScoredPair
from coreface.evaluation.metrics import TarAtFar
from coreface.evaluation.metrics.uncertainty import Interval
from coreface.evaluation.verification import Verification
from coreface.reports.plots import Panel

_FEW_IDENTITIES = 50
_FACE = 224  # pixels of the longer side: twice what is shown, for sharp screens
_JPEG_QUALITY = 90
_DEFINITIONS = (
    "A pair of images matches if and only if its cosine ≥ T. FMR is the share of impostor pairs that match, FNMR the "
    "share of genuine pairs that do not, TAR = 1 − FNMR. EER is the mean of FMR and FNMR at the T where the two are "
    "closest. Accuracy is the mean over folds, each judged at the threshold that is best on all others. "
    "TAR at a FAR takes the conservative T: the next float above the (k+1)&#8209;th largest impostor cosine "
    "with k = floor(FAR × impostor pairs), so that the FMR achieved is never above the FAR. Nothing is interpolated."
)


def error_rates(results: Mapping[str, Verification], *, last_stands_out: bool = True) -> Iterator[str]:
    """Yield the table of error rates by name, and what they were taken on."""
    fars = dict.fromkeys(rate.far for result in results.values() for rate in result.tar)
    heads = "".join(f'<th scope="col">TAR <span>at FAR {100 * far:.6g} %</span></th>' for far in fars)
    folds = any(result.accuracy for result in results.values())
    heads = (
        '<th scope="col">Accuracy <span>over folds</span></th>' if folds else ""
    ) + f'<th scope="col">EER</th>{heads}'
    kind = "rates last" if last_stands_out else "rates"
    yield f'<div class="wide"><table class="{kind}"><thead><tr><td></td>{heads}'
    yield "</tr></thead><tbody>"
    for name, result in results.items():
        rates = {
            rate.far: _tar(rate, interval) for rate, interval in zip(result.tar, result.tar_intervals, strict=True)
        }
        details = [result.eer.threshold, result.eer.fmr, result.eer.fnmr]
        cells = [_accuracy(result)] if folds else []
        cells.append(_cell(result.eer.eer, result.eer_interval, *details))
        cells += [rates.get(far, '<td class="none">not asked for</td>') for far in fars]
        yield f'<tr><th scope="row">{escape(name)}</th>{"".join(cells)}</tr>'
    yield "</tbody></table></div>"
    samples: dict[str, list[str]] = {}
    for name, result in results.items():
        samples.setdefault(" ".join(_sample(result)), []).append(name)
    for sample, names in samples.items():
        yield f"<p>{escape(', '.join(names) + ': ' if len(samples) > 1 else '')}{sample}</p>"
    yield f'<p class="quiet">{_DEFINITIONS}</p>'


def hardest_pairs(
    result: Verification, image: Callable[[int], NDArray[np.uint8]] | None, label: Callable[[int], str] | None
) -> Iterator[str]:
    """Yield the pairs nearest to, or furthest on, the wrong side of the EER threshold, each with its verdict.

    Raises:
        InputError: ``image`` returned something else than a uint8 RGB image.
    """
    threshold = result.eer.threshold
    false_matches = round(result.eer.fmr * result.impostor)
    false_non_matches = round(result.eer.fnmr * result.genuine)
    yield (
        f"<p>At the EER threshold T = {_cosine(threshold)}, {false_matches:,} of {result.impostor:,} impostor pairs "
        f"match and {false_non_matches:,} of {result.genuine:,} genuine pairs do not. Only pairs on the wrong side of "
        "T are mistakes.</p>"
    )
    impostors, genuine = result.worst.impostor, result.worst.genuine
    verdicts = ["false match" if pair.score >= threshold else "" for pair in impostors]
    yield from _pairs("Different people, most alike", impostors, verdicts, image, label)
    verdicts = ["false non-match" if pair.score < threshold else "" for pair in genuine]
    yield from _pairs("One person, least alike", genuine, verdicts, image, label)


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


def _tar(rate: TarAtFar, interval: Interval | None) -> str:
    if rate.tar is None or rate.threshold is None or rate.fmr is None:
        return f'<td class="none">not resolvable with {rate.impostor:,} impostors</td>'
    return _cell(rate.tar, interval, rate.threshold, rate.fmr)


def _accuracy(result: Verification) -> str:
    accuracy = result.accuracy
    if accuracy is None:
        return '<td class="none">not in folds</td>'
    low, high = min(accuracy.thresholds), max(accuracy.thresholds)
    lines = (
        f"± {100 * accuracy.standard_error:.2f} standard error",
        f"{len(accuracy.wrong):,} of {accuracy.pairs:,} wrong",
        f"T {_cosine(low)} to {_cosine(high)}",
    )
    details = "".join(f"<small>{line}</small>" for line in lines)
    interval = result.accuracy_interval
    between = "no interval"
    if interval and interval.low is not None and interval.high is not None:
        between = f"{_percent(interval.low)} – {_percent(interval.high)}"
    return f"<td><b>{_percent(accuracy.accuracy)} %</b><i>{between}</i>{details}</td>"


def _cell(share: float, interval: Interval | None, threshold: float, fmr: float, fnmr: float | None = None) -> str:
    # The exact threshold, for use elsewhere; rounded, it may accept one more impostor.
    lines = [f'T <data value="{threshold!r}">{_cosine(threshold)}</data>', f"FMR {_rounded(fmr)}"]
    lines += [] if fnmr is None else [f"FNMR {_rounded(fnmr)}"]
    between = "no interval"
    if interval and interval.low is not None and interval.high is not None:
        between = f"{_percent(interval.low)} – {_percent(interval.high)}"
    if interval and interval.failed:
        lines.append(f"{interval.failed:,} of {interval.replicates:,} replicates failed")
    details = "".join(f"<small>{line}</small>" for line in lines)
    return f"<td><b>{_percent(share)} %</b><i>{between}</i>{details}</td>"


def _sample(result: Verification) -> Iterator[str]:
    """Say on what the rates were taken, and how far that carries."""
    yield (
        f"{result.images:,} images of {result.identities:,} identities make {result.genuine:,} genuine and "
        f"{result.impostor:,} impostor pairs."
    )
    if result.failures:
        yield f"Pairs with an image that could not be embedded, which score −1 and count: {result.failures:,}."
    if result.single_image_identities:
        yield f"Identities with one image, which make impostor pairs only: {result.single_image_identities:,}."
    interval = result.eer_interval
    if interval:
        yield (
            f"Below each rate is its {100 * interval.confidence:g} % interval: bootstrap over identities, "
            f"{result.replicates:,} replicates, the threshold chosen again in each; Wilson's form with their variance."
        )
        if result.identities < _FEW_IDENTITIES:
            yield (
                f"<strong>With only {result.identities} identities the intervals are wide and approximate</strong>: "
                f"with fewer than about {_FEW_IDENTITIES} identities they are somewhat too narrow."
            )
    elif not result.interval_note:
        yield "No intervals were requested."
    if result.interval_note:
        yield f"Intervals: {escape(result.interval_note)}."


def _pairs(
    title: str,
    pairs: Iterable[ScoredPair],
    mistakes: Iterable[str],
    image: Callable[[int], NDArray[np.uint8]] | None,
    label: Callable[[int], str] | None,
) -> Iterator[str]:
    cards = []
    for pair, mistake in zip(pairs, mistakes, strict=True):
        faces = ""
        for index in (pair.first, pair.second):
            name = escape(label(index) if label else f"image {index}")
            picture = f'<img src="{picture_url(image(index), index)}" alt="{name}">' if image else ""
            faces += f"<figure>{picture}<figcaption>{name}</figcaption></figure>"
        verdict = f"<strong>{mistake}</strong>" if mistake else "no mistake"
        cards.append(f"<li><p><b>{_cosine(pair.score)}</b> {verdict}</p><div>{faces}</div></li>")
    if cards:
        yield f'<h3>{title}</h3><ol class="pairs">{"".join(cards)}</ol>'


def picture_url(pixels: NDArray[np.uint8], index: int) -> str:
    """Return an image, no larger than needed, as a data URL; ``index`` names it in the error.

    Raises:
        InputError: it is no uint8 RGB image.
    """
    pixels = np.asarray(pixels)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise InputError(f"image {index} has shape {pixels.shape} and dtype {pixels.dtype}; expected uint8 (H, W, 3)")
    shown: NDArray[Any] = pixels
    shrink = _FACE / max(pixels.shape)
    if shrink < 1:
        size = [max(1, round(shrink * side)) for side in (pixels.shape[1], pixels.shape[0])]
        shown = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    _, jpeg = cv2.imencode(".jpg", shown[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.tobytes()).decode()


def _percent(share: float) -> str:
    """Return percent with two decimals, or as many as keep a rate that is not 0 or 1 from looking as if it were."""
    decimals = 2
    while 0 < share < 1 and decimals < 12 and float(f"{100 * share:.{decimals}f}") in (0, 100):
        decimals += 1
    return f"{100 * share:.{decimals}f}"


def _cosine(score: float) -> str:
    return f"{score:.4f}".replace("-", "−")


def _rounded(share: float) -> str:
    return f"{100 * share:#.3g}".removesuffix(".") + " %"
