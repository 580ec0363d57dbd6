"""Multiplicative angular margins: SphereFace and SphereFace-R."""

import math

import torch

from coreface.errors import InputError
from coreface.losses.margins import AngularMargin, Gradient, Margin


class SphereFace(Margin):
    """psi(theta) = (-1)^k cos(m theta) - 2 k, where theta is between k pi / m and (k + 1) pi / m: A-Softmax.

    Source: Liu et al., "SphereFace: Deep Hypersphere Embedding for Face Recognition" (CVPR 2017), equation 7. Cosines
        are multiplied by the norm of the embedding, as in the paper, or by a fixed scale. With annealing the target is
    (lambda cos(theta) + psi(theta)) / (1 + lambda), and lambda = max(least, base / (1 + rate * calls)) decreases with
    the calls in training mode; the authors' release uses (1000, 5, 0.12).

    Args:
        scale: None for the norm of the embedding.
        margin: m, a whole number from 1.
        annealing: (base, least, rate); None trains with psi from the start.

    Attributes:
        calls: a buffer, the number of calls in training mode; only with annealing.
    """

    calls: torch.Tensor

    def __init__(
        self, scale: float | None = None, margin: float = 4, annealing: tuple[float, float, float] | None = None
    ) -> None:
        super().__init__(1.0 if scale is None else scale)
        if margin < 1 or margin != int(margin):
            raise InputError(f"margin is {margin}, expected a whole number from 1 such as 4")
        if annealing is not None and not (annealing[0] >= annealing[1] >= 0 and annealing[2] >= 0):
            raise InputError(f"annealing is {annealing}, expected base >= least >= 0 and a rate >= 0: (1000, 5, 0.12)")
        self.by_length = scale is None
        self.margin = int(margin)
        self.annealing = annealing
        if annealing is not None:
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def scales(self, norms: torch.Tensor) -> torch.Tensor:
        # A vector of zeros has no direction; the lower bound keeps its gradient finite.
        return norms.clamp(min=1e-6) if self.by_length else super().scales(norms)

    def target(self, cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        # cos(m theta) is a Chebyshev polynomial in cos(theta): exact derivatives everywhere, and no arccos.
        before, multiple = torch.ones_like(cosines), cosines
        for _ in range(self.margin - 1):
            before, multiple = multiple, 2 * cosines * multiple - before
        with torch.no_grad():
            k = torch.zeros_like(cosines)
            for border in range(1, self.margin):
                k += cosines < math.cos(border * math.pi / self.margin)
        psi = (1 - 2 * (k % 2)) * multiple - 2 * k
        if self.annealing is None:
            return psi
        base, least, rate = self.annealing
        weight = (base / (1 + rate * self.calls)).clamp(min=least).to(cosines.dtype)
        if self.training:
            self.calls = self.calls + 1
        return (weight * cosines + psi) / (1 + weight)

    def extra_repr(self) -> str:
        scale = "length" if self.by_length else self.scale
        return f"scale={scale}, margin={self.margin}, annealing={self.annealing}"


class SphereFaceR(AngularMargin):
    """cos(min(m theta, pi)) with embeddings of unit length times a scale: SphereFace-R with hard feature normalisation.

    Source: Liu et al., "SphereFace Revived: Unifying Hyperspherical Face Recognition" (TPAMI 2022), the first of its
    two margins. The paper takes the derivative of the target to be 1 ("characteristic gradient detachment"), which is
    the default here.

    Args:
        scale: s.
        margin: m, at least 1.
        gradient: straight_through, or exact: see `AngularMargin`.
    """

    def __init__(self, scale: float = 30.0, margin: float = 1.5, gradient: Gradient = "straight_through") -> None:
        super().__init__(scale, gradient)
        if not 1 <= margin < math.inf:
            raise InputError(f"margin is {margin}, expected a factor of the angle of at least 1 such as 1.5")
        self.margin = margin

    def target(self, cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            angle = cosines.clamp(-1.0, 1.0).arccos() * self.margin
            value = angle.clamp(max=math.pi).cos()
            if self.gradient == "straight_through":
                slope = torch.ones_like(value)
            else:
                inside = cosines.clamp(-1 + 1e-7, 1 - 1e-7).arccos()
                slope = self.margin * (self.margin * inside).sin() / inside.sin()
                slope.masked_fill_(angle > math.pi, 0.0)
        return value + slope * (cosines - cosines.detach())

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margin={self.margin}, gradient={self.gradient}"
