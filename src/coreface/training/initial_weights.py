"""Initial weights of an encoder: from a run, a saved encoder, a checkpoint or a public file."""

from pathlib import Path

import torch

from coreface.errors import ModelError
from coreface.models.encoder import FaceEncoder
from coreface.models.pretrained import CONFIG, WEIGHTS
from coreface.training.checkpoint import open_checkpoint
from coreface.training.checkpoint_manifest import MANIFEST
from coreface.training.checkpoint_state import load_modules
from coreface.training.checkpoint_writer import CHECKPOINTS, newest_checkpoint

ENCODER = "encoder"  #: folder of the encoder inside a run
_EXPECTED = (
    "expected a run, the folder of a saved encoder, a checkpoint (step_<N>), or a public InsightFace backbone .pth"
)


def load_initial_weights(encoder: FaceEncoder, path: Path) -> None:
    """Copy the weights of another encoder, and nothing else. Nothing in the files is executed.

    Args:
        encoder: of the same backbone and sizes.
        path: a run (its saved encoder, or else its newest checkpoint), the folder of a saved encoder, a checkpoint, or
            a public InsightFace ``backbone.pth``.

    Raises:
        ModelError: it is of another kind, named in the message, or another network.
        CheckpointError: the checkpoint is damaged, or of another network.
    """
    if path.is_file():
        _copy(_from_file(path, encoder.backbone_name), encoder, path)
        return
    if not path.is_dir():
        raise ModelError(f"init_from is {path}, which does not exist: {_EXPECTED}")
    for folder in (path, path / ENCODER):
        if (folder / CONFIG).is_file():
            _copy(FaceEncoder.from_pretrained(folder), encoder, path)
            return
    checkpoint = open_checkpoint(path) if (path / MANIFEST).is_file() else None
    if checkpoint is None and (path / CHECKPOINTS).is_dir():
        checkpoint = newest_checkpoint(path)[0]
    if checkpoint is None:
        raise ModelError(f"init_from is {path}, a folder without an encoder or a checkpoint: {_EXPECTED}")
    load_modules(checkpoint, {"encoder": encoder})


def _from_file(path: Path, backbone: str) -> FaceEncoder:
    if path.name == WEIGHTS or path.suffix == ".safetensors":
        raise ModelError(f"init_from is {path}, weights without their config.json: give the folder they are in")
    with path.open("rb") as file:
        start = file.read(8)
    # A zip file with a pickle, or a plain pickle from older versions of torch.
    if not start.startswith((b"PK\x03\x04", b"\x80")):
        kinds = {
            b"\x89PNG": "a PNG image",
            b"\xff\xd8": "a JPEG image",
            b"{": "a JSON file",
            b"GIF8": "a GIF image",
        }
        kind = next((name for magic, name in kinds.items() if start.startswith(magic)), None)
        kind = kind or ("a recipe or other YAML" if path.suffix in (".yaml", ".yml") else "not a weight file")
        raise ModelError(f"init_from is {path}, {kind}: {_EXPECTED}")
    return FaceEncoder.from_insightface(path, backbone)


def _copy(other: FaceEncoder, encoder: FaceEncoder, path: Path) -> None:
    def described(one: FaceEncoder) -> str:
        return f"{one.backbone_name}, {one.embedding_size} numbers, {one.image_size} pixels"

    if described(other) != described(encoder):
        raise ModelError(f"init_from is {path}, an encoder of {described(other)}; the recipe has {described(encoder)}")
    with torch.no_grad():
        encoder.load_state_dict(other.state_dict())
