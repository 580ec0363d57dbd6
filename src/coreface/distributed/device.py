"""The device and the precision of a run."""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch

from coreface.errors import RecipeError


def choose_device(name: str) -> torch.device:
    """Return the device of this name; ``auto`` uses a GPU if there is one.

    Raises:
        RecipeError: the device is not available.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda", "mps"):
            raise RuntimeError(f"a {device.type} device is not supported")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(
            f"device {name!r} is not available: expected auto, cpu, cuda or mps ({_first_line(error)})"
        ) from error
    return device


def choose_precision(name: Literal["auto", "float32", "bf16", "float16"], device: torch.device) -> torch.dtype:
    """Return the precision of the trunk's products; ``auto`` uses bf16 if the device supports it in hardware."""
    if name == "auto":
        return torch.bfloat16 if has_bf16_units(device) else torch.float32
    return {"float32": torch.float32, "bf16": torch.bfloat16, "float16": torch.float16}[name]


@contextlib.contextmanager
def matmul_precision(name: Literal["float32", "tf32"], device: torch.device) -> Iterator[None]:
    """Allow or forbid TF32 for float32 matrix products and convolutions within the context.

    torch by default allows it for convolutions.

    Raises:
        RecipeError: TF32 is requested, and the device does not support it.
    """
    if name == "tf32" and not has_tf32_units(device):
        raise RecipeError(f"matmul is 'tf32', expected 'float32': this {device.type} device does not support TF32")
    backends: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = name == "tf32"
        yield
    finally:
        for backend, allowed in zip(backends, before, strict=True):
            backend.allow_tf32 = allowed


def has_tf32_units(device: torch.device) -> bool:
    """Return whether the device supports TF32: NVIDIA GPUs since Ampere."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)


def has_bf16_units(device: torch.device) -> bool:
    """Return whether the device computes bf16 products in hardware. Emulated ones are many times slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
