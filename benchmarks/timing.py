"""What the benchmarks share: alternating measurements, medians, and the machine's own limits."""

import statistics
import time
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from coreface.data import FaceSource
from coreface.runs.folder import environment

Precision = Literal["auto", "float32", "bf16"]  # of the trunk's products, as in a recipe
PRECISIONS = get_args(Precision)


def synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def seconds(run: Callable[[], object]) -> float:
    synchronise()
    start = time.perf_counter()
    run()
    synchronise()
    return time.perf_counter() - start


def alternate(runs: dict[str, Callable[[], object]], rounds: int, warmup: int = 1) -> dict[str, list[float]]:
    """Time the candidates in turn, so that a change of the machine's speed meets all of them."""
    for _ in range(warmup):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            times[name].append(seconds(run))
    return times


def ratio(times: dict[str, list[float]], ours: str, other: str) -> str:
    """The median over the rounds of ours / other, each pair measured side by side, and its range."""
    pairs = ratios(times, ours, other)
    return f"{statistics.median(pairs):.3f} ({min(pairs):.3f} to {max(pairs):.3f})"


def against_bound(times: dict[str, list[float]], ours: str, other: str, bound: float) -> str:
    """The same, and whether its median keeps to a bound."""
    kept = statistics.median(ratios(times, ours, other)) <= bound
    return f"{ratio(times, ours, other)}   bound {bound:.2f}: {'kept' if kept else 'EXCEEDED'}"


def ratios(times: dict[str, list[float]], ours: str, other: str) -> list[float]:
    return [a / b for a, b in zip(times[ours], times[other], strict=True)]


def matrix_peak(dtype: torch.dtype, device: torch.device, size: int = 2048) -> float:
    """The best of some square products, in floating-point operations a second."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(lambda: a @ b) for _ in range(10))


def machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    described = environment()
    return f"{described['processor']}, {described['threads']} threads, torch {described['torch']}"


class Noise(FaceSource):
    """Random images, made in no time: what is measured is the step."""

    def __init__(self, images: int, identities: int, size: int = 112) -> None:
        super().__init__(np.arange(images, dtype=np.int64) % identities, [str(i) for i in range(identities)])
        self._pixels = np.random.default_rng(0).integers(0, 256, (64, size, size, 3), dtype=np.uint8)

    def _decode(self, index: int) -> NDArray[np.uint8]:
        return self._pixels[index % len(self._pixels)]

    def encoded(self, index: int) -> bytes:
        return self._decode(index).tobytes()

    def locate(self, index: int) -> str:
        return f"noise {index}"
