"""The backbones by name."""

import difflib
from collections.abc import Callable
from functools import partial

from coreface.errors import ModelError
from coreface.models.backbone import Backbone
from coreface.models.iresnet import IResNet
from coreface.models.mobilefacenet import MobileFaceNet

_BACKBONES: dict[str, tuple[Callable[..., Backbone], str]] = {
    "iresnet18": (partial(IResNet, (2, 2, 2, 2)), "24.0 M parameters: small and quick, for experiments"),
    "iresnet34": (partial(IResNet, (3, 4, 6, 3)), "34.1 M parameters: between 18 and 50"),
    "iresnet50": (partial(IResNet, (3, 4, 14, 3)), "43.6 M parameters: the usual choice for CASIA-WebFace"),
    "iresnet100": (partial(IResNet, (3, 13, 30, 3)), "65.2 M parameters: the backbone of the published results"),
    "iresnet200": (partial(IResNet, (6, 26, 60, 6)), "118.8 M parameters: for WebFace-sized data"),
    "mobilefacenet": (MobileFaceNet, "2.1 M parameters: for phones and small processors"),
}


def backbones() -> dict[str, str]:
    """Return the names of the backbones, each with one line of help."""
    return {name: text for name, (_, text) in _BACKBONES.items()}


def build_backbone(name: str, embedding_size: int = 512, image_size: int = 112) -> Backbone:
    """Build a backbone with fresh weights.

    Raises:
        ModelError: there is no backbone of that name, or a size is out of range.
    """
    if name not in _BACKBONES:
        near = difflib.get_close_matches(name, _BACKBONES, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(_BACKBONES)}"
        raise ModelError(f"there is no backbone {name!r}: {advice}")
    build, _ = _BACKBONES[name]
    return build(embedding_size=embedding_size, image_size=image_size)
