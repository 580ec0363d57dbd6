"""Counter-based random bits: each number is a hash of its key, independent of what was drawn before.

Several processes, each with a part of the rows, therefore draw the same numbers as one process with all rows.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014): SplitMix64.
"""

import torch

_WORD = 1 << 64
_GAMMA = 0x9E3779B97F4A7C15


def random_bits(seed: int, *counters: int | torch.Tensor) -> torch.Tensor:
    """Return 64 random bits for every element of the counters.

    Args:
        seed: any integer.
        counters: integers or int64 tensors that broadcast; their order matters.

    Returns:
        int64, of the shape and on the device of the counters.
    """
    key = mixed(torch.tensor(signed(seed)))
    for counter in counters:
        key = mixed(key + (signed(counter) if isinstance(counter, int) else counter))
    return key


def random_bit_rows(keys: torch.Tensor, count: int) -> torch.Tensor:
    """Return the first ``count`` numbers of SplitMix64 from every key.

    Args:
        keys: (n,), int64.
        count: how many numbers.

    Returns:
        (n, count), int64.
    """
    steps = torch.arange(1, count + 1, device=keys.device).mul_(signed(_GAMMA))
    return _finalised(keys[:, None] + steps)


def mixed(x: torch.Tensor) -> torch.Tensor:
    """Mix the bits of int64: the first number of SplitMix64 from each."""
    return _finalised(x + signed(_GAMMA))


def _finalised(x: torch.Tensor) -> torch.Tensor:
    """Mix the bits in place, since the matrix of a large batch leaves little memory for copies."""
    x ^= shifted(x, 30)
    x *= signed(0xBF58476D1CE4E5B9)
    x ^= shifted(x, 27)
    x *= signed(0x94D049BB133111EB)
    x ^= shifted(x, 31)
    return x


def shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Shift int64 to the right as if it were unsigned, filling with zeros."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def signed(word: int) -> int:
    """Return the int64 with the low 64 bits of an integer."""
    word %= _WORD
    return word - _WORD if word >= _WORD // 2 else word
