"""ElasticFace: margins drawn at random."""

import math
from typing import Literal, get_args

import torch

from coreface.errors import InputError
from coreface.losses.margins import AngularMargin, Gradient, Targets
from coreface.numerics.random_bits import shifted

Kind = Literal["arc", "cos"]


class ElasticFace(AngularMargin):
    """ArcFace or CosFace with a margin drawn from N(m, sigma) for every image.

    Source: Boutros et al., "ElasticFace: Elastic Margin Loss for Deep Face Recognition" (CVPRW 2022). With ``plus`` the
        margins of a batch are sorted, so that images far from their centres get larger ones (ElasticFace+). In eval
        mode
    every margin is m. Angles are clamped to [-pi, pi], which the published deviations never exceed.

    Args:
        scale: s.
        margin: m; None is the published value, 0.5 for arc and 0.35 for cos.
        deviation: sigma; None is the published value, 0.0125, with ``plus`` 0.0175 for arc and 0.025 for cos.
        kind: arc adds the margin to the angle, cos subtracts it from the cosine.
        plus: sort the margins.
        gradient: exact, or straight_through: see `AngularMargin`.
    """

    draws = True

    def __init__(
        self,
        scale: float = 64.0,
        margin: float | None = None,
        deviation: float | None = None,
        kind: Kind = "arc",
        plus: bool = False,
        gradient: Gradient = "exact",
    ) -> None:
        super().__init__(scale, gradient)
        if kind not in get_args(Kind):
            raise InputError(f"kind is {kind!r}, expected one of {get_args(Kind)}")
        published = {("arc", False): 0.0125, ("arc", True): 0.0175, ("cos", False): 0.0125, ("cos", True): 0.025}
        self.margin = margin if margin is not None else 0.5 if kind == "arc" else 0.35
        self.deviation = deviation if deviation is not None else published[kind, plus]
        if not 0 <= self.margin < (math.pi if kind == "arc" else 2):
            raise InputError(f"margin is {margin}, expected 0 <= margin < pi for arc, < 2 for cos")
        if not 0 <= self.deviation < math.inf:
            raise InputError(f"deviation is {deviation}, expected 0 or more such as 0.0125")
        self.kind = kind
        self.plus = plus

    def target_of(self, cosines: torch.Tensor, norms: torch.Tensor, targets: Targets) -> torch.Tensor:
        with torch.no_grad():
            margins = torch.full_like(cosines, self.margin)
            if self.training:
                assert targets.bits is not None  # `draws`
                margins = self.margin + self.deviation * _normal(targets.bits).to(cosines.dtype)
                if self.plus:
                    nearest_first = cosines.argsort(descending=True, stable=True)
                    margins = torch.empty_like(margins).index_copy_(0, nearest_first, margins.sort().values)
        if self.kind == "cos":
            return cosines - margins
        return self.turned(cosines, margins.clamp(-math.pi, math.pi))

    def extra_repr(self) -> str:
        return f"{self.kind}{'+' * self.plus}, scale={self.scale}, margin={self.margin}, deviation={self.deviation}"


def _normal(bits: torch.Tensor) -> torch.Tensor:
    """Return a standard normal number for each 64 random bits, float64 (float32 if the device has no float64)."""
    wide = torch.float32 if bits.device.type == "mps" else torch.float64
    # Box and Muller (1958): two uniform numbers of 24 bits, the first never 0.
    one = (shifted(bits, 40).to(wide) + 1) * 2.0**-24
    other = (shifted(bits, 16) & (2**24 - 1)).to(wide) * 2.0**-24
    return (-2 * one.log()).sqrt() * (2 * math.pi * other).cos()
