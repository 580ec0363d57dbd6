"""The backbones by name."""

from collections.abc import Callable
from functools import partial
from typing import TypeVar

from coreface.errors import ModelError
from coreface.models.backbone import Backbone
from coreface.models.iresnet import IResNet
from coreface.models.mobilefacenet import MobileFaceNet
from coreface.models.vision_transformer import VisionTransformer
from coreface.registry import Registry

Builder = TypeVar("Builder", bound=Callable[..., Backbone])

BACKBONES: Registry[Callable[..., Backbone]] = Registry("backbone", ModelError)
_18, _50 = (2, 2, 2, 2), (3, 4, 14, 3)
for _name, _build, _help in (
    ("iresnet18", partial(IResNet, _18), "24.0 M parameters: small and fast, for experiments"),
    ("iresnet34", partial(IResNet, (3, 4, 6, 3)), "34.1 M parameters: between 18 and 50"),
    ("iresnet50", partial(IResNet, _50), "43.6 M parameters: the usual choice for CASIA-WebFace"),
    ("iresnet100", partial(IResNet, (3, 13, 30, 3)), "65.2 M parameters: the backbone of the published results"),
    ("iresnet200", partial(IResNet, (6, 26, 60, 6)), "118.8 M parameters: for WebFace-sized data"),
    ("iresnet18_w25", partial(IResNet, _18, 0.25), "3.9 M parameters: iresnet18 with a quarter of the channels"),
    ("iresnet18_w50", partial(IResNet, _18, 0.5), "9.2 M parameters: iresnet18 with half of the channels"),
    (
        "iresnet50_w25",
        partial(IResNet, _50, 0.25),
        "5.1 M parameters: iresnet50, a quarter of the channels",
    ),
    ("iresnet50_w50", partial(IResNet, _50, 0.5), "14.1 M parameters: iresnet50 with half of the channels"),
    ("mobilefacenet", MobileFaceNet, "2.1 M parameters: for phones and small CPUs"),
    ("mobilefacenet_large", partial(MobileFaceNet, (2, 8, 12, 4), 256), "6.3 M parameters: more accurate, slower"),
    ("vit_t", partial(VisionTransformer, 256, 12, 0.05, 0.0), "19.1 M parameters: the smallest vision transformer"),
    ("vit_s", partial(VisionTransformer, 512, 12, 0.1, 0.1), "76.0 M parameters: a vision transformer"),
    ("vit_b", partial(VisionTransformer, 512, 24, 0.1, 0.1), "113.8 M parameters: a deep vision transformer"),
):
    BACKBONES.add(_name, _build, _help)


def register_backbone(name: str, help: str) -> Callable[[Builder], Builder]:
    """Register a backbone by name for recipes, `FaceEncoder` and `coreface backbones`. A decorator.

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
        ModelError: there is no backbone of that name, a size is out of range, or the registered function does not
            return a backbone of these sizes.
    """
    built = BACKBONES[name](embedding_size=embedding_size, image_size=image_size)
    if not isinstance(built, Backbone):
        raise ModelError(f"backbone {name} is a {type(built).__name__}, expected a Backbone; ModuleBackbone makes one")
    if (built.embedding_size, built.image_size) != (embedding_size, image_size):
        raise ModelError(
            f"backbone {name} was asked for embedding size {embedding_size} and image size {image_size}, and has "
            f"{built.embedding_size} and {built.image_size}: it must pass both on"
        )
    return built
