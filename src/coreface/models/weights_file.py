"""Weights as other projects save them: a state_dict, alone or inside a checkpoint, with or without a prefix.

Only what the lists below name is removed; the rest must match exactly. Nothing in a file is run.
"""

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final

import torch

from coreface.errors import ModelError
from coreface.files import found_instead

#: Keys under which checkpoints store the weights: Lightning and MagFace, arcface_torch, and custom training loops.
CONTAINERS: Final = ("state_dict", "state_dict_backbone", "model_state_dict", "backbone", "model", "net")
#: Prefixes that DataParallel, DDP, torch.compile, Lightning, MagFace and AdaFace add to parameter names.
PREFIXES: Final = ("module.", "model.", "backbone.", "encoder.", "features.", "net.", "_orig_mod.")
#: Prefixes of classifiers that are saved together with a network but are not part of it.
HEADS: Final = ("fc.", "head.", "classifier.", "parallel_fc.", "margin_softmax.", "module_partial_fc.")
#: Classes that checkpoints contain besides the weights. They are not imported: an inert stand-in replaces them.
_BESIDE: Final = ("argparse.Namespace", "pytorch_lightning.", "lightning.", "lightning_fabric.", "omegaconf.")
_COUNTER: Final = ".num_batches_tracked"


def read_state_dict(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Read the weights in a file that torch.save wrote: name -> tensor, unchanged.

    Raises:
        ModelError: it cannot be read, or contains something else.
    """
    try:
        with torch.serialization.safe_globals([(_StandIn, name) for name in _beside(path)]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror or error})") from error
    except Exception as error:  # torch.load raises many types of errors on damaged bytes
        with Path(path).open("rb") as file:
            what = found_instead(file.read(64))
        reason = f"it is {what}" if what else type(error).__name__
        raise ModelError(f"{path}: not a plain weight file; nothing else is opened ({reason})") from error
    if _is_state_dict(content):
        return dict(content)
    if isinstance(content, Mapping):
        for name in CONTAINERS:
            if name in content and _is_state_dict(content[name]):
                return dict(content[name])
    held = f" with {', '.join(map(str, list(content)[:8]))}" if isinstance(content, Mapping) and content else ""
    raise ModelError(
        f"{path}: contains {type(content).__name__}{held}, expected a state_dict of name -> tensor, or one under "
        f"{', '.join(CONTAINERS)}"
    )


def known_layout(state: Mapping[str, torch.Tensor]) -> str | None:
    """Name the foreign network family that some weights belong to; None if it is not recognised."""
    if any("input_layer.0.weight" in name for name in state) and any("res_layer" in name for name in state):
        return "IR networks (AdaFace, CurricularFace, face.evoLVe, TFace), which are not IResNets: export them to ONNX"
    return None


def without_prefix(
    state: Mapping[str, torch.Tensor], expected: Collection[str], anchor: str
) -> dict[str, torch.Tensor]:
    """Return the weights of a network under its own names.

    A prefix consists of entries of `PREFIXES`; if there are several, the one with the most matching names is used.
    Names in `HEADS` that are not part of the network are dropped, and batch counters that old versions of torch did not
    save are added. All other names are kept, so that the caller can reject them.

    Args:
        state: the weights as they are in the file.
        expected: the network's names.
        anchor: one of these names that every such file contains.
    """
    prefixes = [name.removesuffix(anchor) for name in state if name.endswith(anchor)]
    prefixes = [prefix for prefix in prefixes if not _unprefixed(prefix)] or [""]
    prefix = max(prefixes, key=lambda one: sum(one + name in state for name in expected))
    found = {name: state[prefix + name] for name in expected if prefix + name in state}
    own_parts = tuple({f"{name.partition('.')[0]}." for name in expected})
    for name, tensor in state.items():
        inside = name.startswith(prefix) and name.removeprefix(prefix).startswith(own_parts)
        if inside or not _unprefixed(name).startswith(HEADS):
            found.setdefault(name.removeprefix(prefix), tensor)
    for name in expected:
        if name.endswith(_COUNTER) and name.removesuffix(_COUNTER) + ".running_mean" in found:
            found.setdefault(name, torch.zeros((), dtype=torch.int64))
    return found


class _StandIn(dict[Any, Any]):
    """Replaces an object stored besides the weights, and ignores its arguments."""

    def __new__(cls, *arguments: object, **options: object) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *arguments: object, **options: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        pass


def _beside(path: str | os.PathLike[str]) -> list[str]:
    try:
        unknown = torch.serialization.get_unsafe_globals_in_checkpoint(Path(path))
    except Exception:  # not a zip file of torch.save, or damaged: torch.load reports it
        return []
    return [name for name in unknown if name.startswith(_BESIDE)]


def _is_state_dict(content: object) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in content.items()
    )


def _unprefixed(name: str) -> str:
    """Return a name without the `PREFIXES` at its start."""
    while (word := next((word for word in PREFIXES if name.startswith(word)), None)) is not None:
        name = name.removeprefix(word)
    return name
