"""The backbones by name."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from coreface.errors import ModelError
from coreface.models.backbone import Backbone
from coreface.models.iresnet import IResNet
from coreface.models.mobilefacenet import MobileFaceNet
from coreface.registry import Registry

Builder = TypeVar("Builder", bound=Callable[..., Backbone])

BACKBONES: Registry[Callable[..., Backbone]] = Registry("backbone", ModelError)
for _name, _build, _help in (
    ("iresnet18", partial(IResNet, (2, 2, 2, 2)), "24.0 M parameters: small and quick, for experiments"),
    ("iresnet34", partial(IResNet, (3, 4, 6, 3)), "34.1 M parameters: between 18 and 50"),
    ("iresnet50", partial(IResNet, (3, 4, 14, 3)), "43.6 M parameters: the usual choice for CASIA-WebFace"),
    ("iresnet100", partial(IResNet, (3, 13, 30, 3)), "65.2 M parameters: the backbone of the published results"),
    ("iresnet200", partial(IResNet, (6, 26, 60, 6)), "118.8 M parameters: for WebFace-sized data"),
    ("mobilefacenet", MobileFaceNet, "2.1 M parameters: for phones and small processors"),
):
    BACKBONES.add(_name, _build, _help)


def register_backbone(name: str, help: str) -> Callable[[Builder], Builder]:
    """Make a backbone known by name, to recipes, `FaceEncoder` and `coreface backbones`. A decorator.

    Args:
        name: letters, digits, ``_``, ``-`` and ``.``.
        help: one line that says what it is, such as its number of parameters.

    Returns:
        A decorator for a `Backbone` class, or for a function that returns one; it is called with the keywords
        ``embedding_size`` and ``image_size``.

    Raises:
        InputError: another backbone has the name.
    """
    return BACKBONES.decorator(name, help)


def backbones() -> dict[str, str]:
    """Return the names of the backbones, each with one line of help."""
    return BACKBONES.help()


def build_backbone(name: str, embedding_size: int = 512, image_size: int = 112) -> Backbone:
    """Build a backbone with fresh weights.

    Raises:
        ModelError: there is no backbone of that name, a size is out of range, or what a program has registered returns
            something else than a backbone of these sizes.
    """
    built = BACKBONES[name](embedding_size=embedding_size, image_size=image_size)
    if not isinstance(built, Backbone):
        raise ModelError(f"backbone {name} is a {type(built).__name__}, expected a Backbone; ModuleBackbone makes one")
    if (built.embedding_size, built.image_size) != (embedding_size, image_size):
        raise ModelError(
            f"backbone {name} was asked for {embedding_size} numbers of {image_size} pixels and has "
            f"{built.embedding_size} of {built.image_size}: it must pass both on"
        )
    return built
