"""From uint8 RGB pixels to the input of an encoder, shared by training and inference."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

from coreface.errors import InputError
from coreface.images.alignment import UNKNOWN, Alignment

if TYPE_CHECKING:
    import torch

_FORMAT: Final = 2
_PIXELS: Final = ("colour_order", "mean", "scale", "image_size")  # the fields of format 1, which had no format number


@dataclass(frozen=True)
class Preprocessing:
    """How a photograph becomes an encoder's input: the schema of ``preprocess.json``.

    Attributes:
        image_size: side of the square input in pixels.
        colour_order: of the channels, ``RGB`` or ``BGR``.
        mean: subtracted from values of 0 to 255; one number, or one per channel in the order of ``colour_order``.
        scale: divisor after that, likewise.
        alignment: how the crops were made; its template is ``unknown`` if it was not recorded.
    """

    image_size: int = 112
    colour_order: Literal["RGB", "BGR"] = "RGB"
    mean: float | tuple[float, float, float] = 127.5
    scale: float | tuple[float, float, float] = 127.5
    alignment: Alignment = field(default_factory=lambda: Alignment(UNKNOWN))

    def __post_init__(self) -> None:
        if type(self.image_size) is not int or self.image_size < 1:
            raise InputError(f"image_size is {self.image_size!r}, expected a number of pixels")
        if self.colour_order not in ("RGB", "BGR"):
            raise InputError(f"colour_order is {self.colour_order!r}, expected RGB or BGR")
        for name in ("mean", "scale"):
            given = getattr(self, name)
            values = given if isinstance(given, list | tuple) else [given]
            number = all(isinstance(v, int | float) and not isinstance(v, bool) and math.isfinite(v) for v in values)
            if not number or len(values) not in (1, 3) or (name == "scale" and min(values) <= 0):
                raise InputError(f"{name} is {given!r}, expected a number or three, a scale above 0")
            if isinstance(given, list):
                object.__setattr__(self, name, tuple(given))

    def decisive(self) -> dict[str, Any]:
        """Return the fields that enter an encoder's digest. An unknown alignment is omitted, as in older digests."""
        found = {name: _plain(getattr(self, name)) for name in _PIXELS}
        return {**found, "alignment": self.alignment.to_dict()} if self.alignment.known else found

    def to_dict(self) -> dict[str, Any]:
        """Return the content of a ``preprocess.json``."""
        pixels = {name: _plain(getattr(self, name)) for name in _PIXELS}
        return {"format": _FORMAT, **pixels, "alignment": self.alignment.to_dict()}

    @classmethod
    def from_dict(cls, content: Any) -> "Preprocessing":
        """Read the content of a ``preprocess.json``, also of format 1, which had no alignment.

        Raises:
            InputError: it is invalid, or of a newer format.
        """
        names = {*_PIXELS} if "format" not in content else {"format", *_PIXELS, "alignment"}
        if content.keys() != names or content.get("format", 1) not in (1, _FORMAT):
            raise InputError(f"has {sorted(content)}, expected {sorted(names)} of format {_FORMAT} or below")
        alignment = content.get("alignment", {"template": UNKNOWN})
        if not isinstance(alignment, dict) or not {"template"} <= alignment.keys() <= {"template", "border"}:
            raise InputError(f"the alignment is {alignment!r}, expected a template and a border")
        return cls(**{name: content[name] for name in _PIXELS}, alignment=Alignment(**alignment))


def to_network_input(images: "torch.Tensor") -> "torch.Tensor":
    """Turn uint8 RGB images into normalised network input, x / 127.5 - 1, as the encoders here are trained on.

    Args:
        images: (batch, height, width, 3), uint8, on any device.

    Returns:
        (batch, 3, height, width), float32 in [-1, 1], same device. The memory format stays channels-last, without a
        copy to reorder it.
    """
    return images.permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
