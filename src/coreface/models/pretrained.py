"""Encoders on disk: safetensors and JSON, checked strictly. Nothing that is read is executed.

The content digest is stored with the weights and covers the configuration and the preprocessing as well, so that files
of two encoders mixed in one folder are detected.
"""

import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import nn

from coreface.errors import CoreFaceError, InputError, ModelError
from coreface.files import write_atomically
from coreface.images.alignment import Alignment
from coreface.images.preprocessing import Preprocessing
from coreface.models.backbone import Backbone
from coreface.models.registry import BACKBONES, build_backbone
from coreface.models.weights_file import known_layout, read_state_dict, without_prefix
from coreface.numerics.finite import first_not_finite

CONFIG, PREPROCESS, WEIGHTS, README = "config.json", "preprocess.json", "model.safetensors", "README.md"
_FORMAT = 1
_REGISTERED_BY = "registered_by"
MODULE = "module:"  #: prefix of the name of a backbone made of the caller's module


class Encoder(Protocol):
    """The interface that is saved and loaded, implemented by `coreface.models.encoder.FaceEncoder`."""

    backbone: Backbone
    backbone_name: str
    dropout: float
    alignment: Alignment

    @property
    def preprocessing(self) -> Preprocessing: ...

    @property
    def embedding_size(self) -> int: ...

    @property
    def image_size(self) -> int: ...


EncoderT = TypeVar("EncoderT", bound=Encoder)


def content_digest(encoder: Encoder) -> str:
    """Return the SHA-256 of everything that determines the embeddings: configuration, preprocessing and all weights."""
    return _digest(_config(encoder), encoder.preprocessing, encoder.backbone.state_dict())


def saved_digest(folder: Path) -> str:
    """Return the content digest that is stored with a saved encoder; `load` verifies it."""
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        return str((file.metadata() or {}).get("coreface_digest", ""))


def save(encoder: Encoder, folder: str | os.PathLike[str]) -> None:
    """Write an encoder to a folder, each file atomically, the weights last.

    Raises `ModelError` if a file is in the way of the folder, or the weights are not float32.
    """
    root = Path(folder)
    config, preprocessing = _config(encoder), encoder.preprocessing
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.backbone.state_dict().items()}
    for name, tensor in state.items():
        # Loaded into a float32 encoder it would have a different digest, and the folder could not be opened.
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise ModelError(f"{name} is {tensor.dtype}, expected torch.float32: call encoder.float() before saving")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ModelError(f"{root}: a file is in the way, expected a folder, or no file of that name") from error
    digest = _digest(config, preprocessing, state)
    registered = _registered_by(encoder.backbone_name)
    write_atomically(root / CONFIG, _json({**config, **registered}))
    write_atomically(root / PREPROCESS, _json(preprocessing.to_dict()))
    write_atomically(root / README, _readme({**config, **registered}).encode())
    write_atomically(root / WEIGHTS, to_safetensors(state, {"format": "pt", "coreface_digest": digest}))


def load(encoder_type: type[EncoderT], folder: str | os.PathLike[str], backbone: nn.Module | None = None) -> EncoderT:
    """Read an encoder that `save` wrote. Raises `ModelError` if anything about it is unexpected."""
    root = Path(folder)
    if not root.is_dir():
        kind = "a file" if root.exists() else "no such folder"
        raise ModelError(f"{root}: {kind}; expected a folder that save_pretrained wrote")
    config, preprocessing = _read_json(root / CONFIG), _read_preprocessing(root / PREPROCESS)
    module = config.pop(_REGISTERED_BY, None)
    expected = {"format", "backbone", "embedding_size", "image_size", "dropout"}
    if config.keys() != expected or config["format"] != _FORMAT:
        raise ModelError(f"{root / CONFIG}: has {sorted(config)}, expected {sorted(expected)} and format {_FORMAT}")
    arguments = {key: value for key, value in config.items() if key != "format"}
    if backbone is None:
        _require_known(config["backbone"], module, root / CONFIG)
        # Compare names and shapes before allocating anything of the size that the configuration claims.
        with torch.device("meta"):
            skeleton = _built(encoder_type, root / CONFIG, **arguments)
    else:
        skeleton = _built_of(encoder_type, root, arguments, backbone)
    skeleton.alignment = preprocessing.alignment
    if preprocessing != skeleton.preprocessing:
        raise ModelError(
            f"{root / PREPROCESS}: has {preprocessing.to_dict()}, expected {skeleton.preprocessing.to_dict()}: these "
            "weights need a preprocessing that this version does not have"
        )
    state, digest = _read_safetensors(root / WEIGHTS)
    _require_fit(skeleton, state, root / WEIGHTS)
    encoder = skeleton if backbone is not None else _built(encoder_type, root / CONFIG, **arguments)
    _fill(encoder, state, root / WEIGHTS)
    encoder.alignment = preprocessing.alignment
    if digest != content_digest(encoder):
        raise ModelError(f"{root}: the content digest differs: a file was damaged, edited or swapped; save it again")
    return encoder


def _require_known(backbone: object, module: object, path: Path) -> None:
    """Raise `ModelError` if the backbone of a saved encoder is not registered, and explain how to provide it."""
    if not isinstance(backbone, str) or backbone in BACKBONES:
        return
    if backbone.startswith(MODULE):
        raise ModelError(
            f"{path}: the backbone is a module of class {backbone.removeprefix(MODULE)}, which is not registered: "
            "create one and pass it to FaceEncoder.from_pretrained(folder, backbone=...)"
        )
    if isinstance(module, str):
        raise ModelError(
            f"{path}: the backbone {backbone!r} was registered by the module {module}, which coreface does not import "
            f"on its own: give --import {module} or import it first in Python"
        )


def _built_of(encoder_type: type[EncoderT], root: Path, arguments: dict[str, Any], backbone: nn.Module) -> EncoderT:
    """Return an encoder made of the caller's module, under the name that it was saved with."""
    features = None
    if not isinstance(backbone, Backbone):
        state, _ = _read_safetensors(root / WEIGHTS)
        linear = state.get("fc.weight")  # of a ModuleBackbone
        if linear is None or linear.ndim != 2:
            raise ModelError(
                f"{root / WEIGHTS}: has no matrix fc.weight, so it is not an encoder made of a bare module"
            )
        features = linear.shape[1]
    encoder = _built(encoder_type, root / CONFIG, **{**arguments, "backbone": backbone}, features=features)
    encoder.backbone_name = arguments["backbone"]
    return encoder


def load_insightface(encoder_type: type[EncoderT], path: str | os.PathLike[str], backbone: str) -> EncoderT:
    """Read weights of other projects by name and shape. Raises `ModelError` if they belong to another network."""
    skeleton = _skeleton(backbone)
    saved = read_state_dict(path)
    *_, linear = (name for name, part in skeleton.named_modules() if isinstance(part, nn.Linear))
    state = without_prefix(saved, skeleton.state_dict().keys(), f"{linear}.weight")
    weight = state.get(f"{linear}.weight")
    if weight is None or weight.ndim != 2:
        layout = known_layout(saved)
        guess = f"; its names match {layout}" if layout else _guess(state)
        raise ModelError(f"{path}: has no matrix {linear}.weight, so it is not {backbone}{guess}")
    size = skeleton.image_size_of(state)
    encoder = _built(encoder_type, Path(path), backbone=backbone, embedding_size=weight.shape[0], image_size=size)
    _require_fit(encoder, state, Path(path))
    _fill(encoder, state, Path(path))
    return encoder


def _built(encoder_type: type[EncoderT], path: Path, **arguments: Any) -> EncoderT:
    try:
        # The initial weights are drawn and discarded; this must not change the caller's random state.
        with torch.random.fork_rng(devices=[]):
            return encoder_type(**arguments)
    except (CoreFaceError, TypeError, RuntimeError) as error:  # RuntimeError: torch cannot allocate so much memory
        raise ModelError(f"{path}: {error}") from error


def _guess(state: dict[str, torch.Tensor]) -> str:
    own = [name for name in BACKBONES if BACKBONES.is_own(name)]
    fitting = [name for name in own if _skeleton(name).state_dict().keys() == state.keys()]
    return f"; its names match {fitting[0]}" if fitting else ""


@cache
def _skeleton(backbone: str) -> Backbone:
    """Return the network on the meta device: names and shapes, without memory for the weights."""
    with torch.device("meta"):
        return build_backbone(backbone)


def _require_fit(encoder: Encoder, state: dict[str, torch.Tensor], path: Path) -> None:
    expected = encoder.backbone.state_dict()
    missing, surplus = expected.keys() - state.keys(), state.keys() - expected.keys()
    if missing or surplus:
        example = min(missing or surplus)
        raise ModelError(
            f"{path}: does not fit {encoder.backbone_name}: {len(missing)} weights missing, {len(surplus)} unknown, "
            f"such as {example}{_guess(state)}"
        )
    for name, tensor in expected.items():
        if state[name].shape != tensor.shape:
            raise ModelError(f"{path}: {name} is {tuple(state[name].shape)}, expected {tuple(tensor.shape)}")
        if state[name].is_floating_point() != tensor.is_floating_point():
            raise ModelError(f"{path}: {name} is {state[name].dtype}, expected {tensor.dtype}")


def _fill(encoder: Encoder, state: dict[str, torch.Tensor], path: Path) -> None:
    if bad := first_not_finite(state):
        raise ModelError(f"{path}: {bad}: the training diverged, or the file is damaged; use an earlier one")
    try:
        encoder.backbone.load_state_dict(state, strict=True)
    except RuntimeError as error:  # tensors without plain values, such as sparse ones
        raise ModelError(f"{path}: the weights cannot be copied ({error})") from error


def _config(encoder: Encoder) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "backbone": encoder.backbone_name,
        "embedding_size": encoder.embedding_size,
        "image_size": encoder.image_size,
        "dropout": encoder.dropout,
    }


def _registered_by(backbone: str) -> dict[str, str]:
    """Return which module registered a backbone that is not coreface's. Used in messages, never to import it."""
    if backbone not in BACKBONES or BACKBONES.is_own(backbone):
        return {}
    return {_REGISTERED_BY: BACKBONES.module(backbone)}


def _read_preprocessing(path: Path) -> Preprocessing:
    content = _read_json(path)
    try:
        return Preprocessing.from_dict(content)
    except InputError as error:
        raise ModelError(f"{path}: has {content}: {error}") from error


def _digest(config: dict[str, Any], preprocessing: Preprocessing, state: dict[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(_json(config) + _json(preprocessing.decisive()))
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return digest.hexdigest()


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise ModelError(f"{path}: missing; expected a folder that save_pretrained wrote") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path}: contains a {type(value).__name__}, expected an object")
    return value


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], str]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
            return state, (file.metadata() or {}).get("coreface_digest", "")
    except FileNotFoundError as error:
        raise ModelError(f"{path}: missing; expected a folder that save_pretrained wrote") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: damaged, or not safetensors ({error})") from error


def _readme(config: dict[str, Any]) -> str:
    size = config["image_size"]
    if _REGISTERED_BY in config:
        first, backbone = f"import {config[_REGISTERED_BY]}  # which registers the backbone\n", ""
    else:
        first, backbone = "", ", backbone=module" if config["backbone"].startswith(MODULE) else ""
    return f"""# A face encoder

{config["backbone"]}, {config["embedding_size"]} numbers per embedding, aligned faces of {size} x {size} pixels, RGB.

```python
import coreface as cf
{first}
encoder = cf.FaceEncoder.from_pretrained("."{backbone})
one, other = encoder.embed([cf.load_image("one.jpg"), cf.load_image("other.jpg")])
print(one @ other)  # cosine similarity: higher is more alike
```

The right threshold depends on the acceptable rate of false matches: measure it with `coreface evaluate`.
"""
