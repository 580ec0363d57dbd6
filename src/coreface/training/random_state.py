"""The random state of a training (Python, NumPy and torch), kept apart from that of the program."""

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

_TWISTER = 624  # words of the Mersenne Twister behind both random.random and numpy.random


@dataclass(frozen=True)
class RandomState:
    """All global generators at one moment.

    Attributes:
        python: of the module random, (626,) int64: the words, the position, the version.
        numpy: of numpy.random, (625,) int64: the words, the position.
        gauss: (4,) float64: for random and numpy.random, whether each holds a second normal number, and its value.
        torch: of torch's CPU generator, uint8.
        device: of torch's generator on the GPU, uint8; None without one.
    """

    python: Tensor
    numpy: Tensor
    gauss: Tensor
    torch: Tensor
    device: Tensor | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the states by name, for a checkpoint."""
        return {name: value for name, value in vars(self).items() if value is not None}


def seed_randomness(seed: int) -> None:
    """Seed all global generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (the global one is what must be seeded)
    torch.manual_seed(seed)


def drawn_randomness(device: torch.device, *key: int) -> RandomState:
    """Return the state of all global generators after seeding with a number drawn from a key; they stay unchanged."""
    with kept_randomness(device):
        seed_randomness(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]) >> 1)
        return get_randomness(device)


def get_randomness(device: torch.device) -> RandomState:
    """Return the state of all global generators."""
    version, words, python_next = random.getstate()
    numpy: Any = np.random.get_state(legacy=True)  # noqa: NPY002
    return RandomState(
        python=torch.tensor([*words, version], dtype=torch.int64),
        numpy=torch.tensor([*numpy[1].tolist(), numpy[2]], dtype=torch.int64),
        gauss=torch.tensor([python_next is not None, python_next or 0.0, *numpy[3:]], dtype=torch.float64),
        torch=torch.get_rng_state(),
        device=torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    )


def set_randomness(state: RandomState, device: torch.device) -> None:
    """Set the state of all global generators; None leaves one as it is."""
    words, numpy, gauss = state.python.tolist(), state.numpy.tolist(), state.gauss.tolist()
    random.setstate((words[-1], tuple(words[:-1]), gauss[1] if gauss[0] else None))
    numpy_words = np.array(numpy[:_TWISTER], dtype=np.uint32)
    np.random.set_state(("MT19937", numpy_words, numpy[_TWISTER], int(gauss[2]), gauss[3]))  # noqa: NPY002
    torch.set_rng_state(state.torch)
    if state.device is not None and device.type == "cuda":
        torch.cuda.set_rng_state(state.device, device)


class OwnRandomness:
    """The random state of one training. It advances only while the training is active.

    Args:
        device: where the training runs.
        seed: of the state it begins with.

    Attributes:
        state: the state that `active` continues from; None before the first time.
    """

    def __init__(self, device: torch.device, seed: int) -> None:
        self._device, self._seed = device, seed
        self.state: RandomState | None = None

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Set all global generators to this state; at the end keep the new state, and restore the program's."""
        with kept_randomness(self._device):
            if self.state is None:
                seed_randomness(self._seed)
            else:
                set_randomness(self.state, self._device)
            try:
                yield
            finally:
                self.state = get_randomness(self._device)


@contextlib.contextmanager
def kept_randomness(device: torch.device) -> Iterator[None]:
    """Restore the state of all global generators at the end."""
    before = get_randomness(device)
    try:
        yield
    finally:
        set_randomness(before, device)
