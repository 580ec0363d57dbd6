"""The margins by name."""

import inspect
from collections.abc import Callable
from typing import TypeVar

from coreface.errors import InputError
from coreface.losses.adaptive_margins import AdaFace, CurricularFace, MagFace
from coreface.losses.dynamic_margin import DynamicMargin
from coreface.losses.elasticface import ElasticFace
from coreface.losses.margins import ArcFace, CosFace, Margin
from coreface.losses.sphereface import SphereFace, SphereFaceR
from coreface.registry import Registry

MarginClass = TypeVar("MarginClass", bound=type[Margin])

MARGINS: Registry[type[Margin]] = Registry("margin", InputError)
MARGINS.add("arcface", ArcFace, "cos(theta + m)")
MARGINS.add("cosface", CosFace, "cos(theta) - m")
MARGINS.add("curricularface", CurricularFace, "arcface; harder other identities count more as training progresses")
MARGINS.add("magface", MagFace, "arcface with an m that grows with the norm of the embedding")
MARGINS.add("adaface", AdaFace, "an m that depends on the norm of the embedding, by running statistics")
MARGINS.add("sphereface", SphereFace, "psi(theta), the angle of the target times 4; scale is the embedding's norm")
MARGINS.add("sphereface_r", SphereFaceR, "cos(1.5 theta), with a fixed scale")
MARGINS.add("elasticface", ElasticFace, "arcface or cosface with an m drawn at random for every image")
MARGINS.add("dynamic_margin", DynamicMargin, "arcface with an m that decreases with the number of an identity's images")


def register_margin(name: str, help: str) -> Callable[[MarginClass], MarginClass]:
    """Register a margin by name for recipes (``classifier.margin.name``). A decorator.

    The parameters of its constructor become fields of ``classifier.margin`` in a recipe. Their types are checked:
    numbers, text, booleans, null, lists and tuples of these, and ``Literal``.

    Args:
        name: letters, digits, ``_``, ``-`` and ``.``.
        help: one line that says what it is.

    Returns:
        A decorator for a subclass of `Margin` whose constructor has a parameter ``scale``.

    Raises:
        InputError: another margin has the name, or the class is not such a subclass.
    """

    def add(margin: MarginClass) -> MarginClass:
        if not (isinstance(margin, type) and issubclass(margin, Margin)):
            raise InputError(f"margin {name} is {margin!r}, expected a subclass of coreface.Margin")
        if "scale" not in inspect.signature(margin).parameters:
            raise InputError(f"margin {name} has no parameter scale, expected one: recipes set it")
        MARGINS.add(name, margin, help)
        return margin

    return add


def margins() -> dict[str, str]:
    """Return the names of the margins, each with one line of help."""
    return MARGINS.help()
