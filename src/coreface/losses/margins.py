"""Margins on the target cosine, which turn a softmax over class centres into a margin-softmax.

A margin has three methods: `target` receives the target cosines and the norms of the embeddings, `others` the cosines
with all other identities, `penalty` the norms. Margins that use the norms (MagFace, AdaFace) or a running state
(CurricularFace) therefore need no change to the classifier. A margin that needs the identities or random numbers
overrides `target_of`.
"""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from coreface.errors import InputError

Gradient = Literal["exact", "straight_through"]


class Targets(NamedTuple):
    """What a margin may use of a batch in addition to cosines and norms.

    Attributes:
        identities: (batch,), int64.
        bits: (batch,), int64, random bits of each image; None unless the margin `draws`.
    """

    identities: torch.Tensor
    bits: torch.Tensor | None = None


class Margin(nn.Module):
    """A margin-softmax loss without its classifier. Subclasses override `target`, and other methods as needed.

    Args:
        scale: s, what the cosines are multiplied by before the softmax.

    Attributes:
        draws: whether `target_of` needs random bits.
    """

    draws: bool = False

    def __init__(self, scale: float) -> None:
        super().__init__()
        if not scale > 0:
            raise InputError(f"scale is {scale}, expected a positive number such as 64")
        self.scale = scale

    @property
    def moves_others(self) -> bool:
        """Whether `others` changes the cosines; if not, it is not called."""
        return type(self).others is not Margin.others

    def target(self, cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        """Return the target cosines with the margin. A running state is updated here and nowhere else.

        Args:
            cosines: (batch,), cosine of each embedding with its own identity's centre.
            norms: (batch,), norm of each embedding, differentiable.
        """
        raise NotImplementedError

    def target_of(self, cosines: torch.Tensor, norms: torch.Tensor, targets: Targets) -> torch.Tensor:
        """Return the target cosines, as `target`, for a margin that uses the identities or random bits."""
        return self.target(cosines, norms)

    def scales(self, norms: torch.Tensor) -> torch.Tensor:
        """Return the scale of each image's cosines, (batch,), positive.

        A margin that overrides this method, so that the scale depends on the norms, must not override `others`.
        """
        return torch.full_like(norms, self.scale, requires_grad=False)

    def see_sizes(self, sizes: torch.Tensor) -> None:
        """Set the number of images of each identity, (identities,), int64. Training calls this before the first
        step."""

    def others(self, cosines: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        """Return the cosines with the other identities as they enter the softmax. Must not modify its arguments.

        Args:
            cosines: (batch, some or all identities); the entries of the targets are ignored.
            target: (batch,), what `target` returned.
        """
        return cosines

    def penalty(self, norms: torch.Tensor) -> torch.Tensor | None:
        """Return a scalar that is added to the loss, or None."""
        return None


class AngularMargin(Margin):
    """Base class of margins on the angle of the target.

    Args:
        scale: s.
        gradient: ``"exact"``; or ``"straight_through"``, which takes the derivative of the target with respect to its
            cosine to be 1, as implementations do that add the angle outside of autograd. Easy targets then have a
            smaller gradient.
    """

    def __init__(self, scale: float, gradient: Gradient = "exact") -> None:
        super().__init__(scale)
        if gradient not in get_args(Gradient):
            raise InputError(f"gradient is {gradient!r}, expected one of {get_args(Gradient)}")
        self.gradient = gradient

    def turned(self, cosines: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
        """Return cos(theta + angle), continued outside of 0 <= theta + angle <= pi.

        Above pi it is cos(theta) - angle sin(angle), which keeps decreasing; below 0 it is 1, with a slope of 0. No
        arccos is computed. The exact slope, sin(theta + angle) / sin(theta), is evaluated at |cos| <= 1 - 1e-7, so that
        it is finite everywhere.

        Args:
            cosines: (batch,), cos(theta).
            angle: (batch,), radians between -pi and pi; may require a gradient.
        """
        with torch.no_grad():
            bounded = cosines.clamp(-1.0, 1.0)
            cos_a, sin_a, sine = angle.cos(), angle.sin(), _sine(bounded)
            within = (bounded >= -cos_a) | (angle <= 0)  # theta + angle <= pi
            below = (bounded > cos_a) & (angle < 0)  # theta + angle < 0
            value = torch.where(within, bounded * cos_a - sine * sin_a, bounded - angle * sin_a)
            value.masked_fill_(below, 1.0)
            if self.gradient == "straight_through":
                slope = torch.ones_like(value)
            else:
                inside = bounded.clamp(-1 + 1e-7, 1 - 1e-7)
                slope = torch.where(within, cos_a + inside / _sine(inside) * sin_a, 1.0).masked_fill_(below, 0.0)
        # The exact value, with the slopes computed above: autograd would divide by sin(theta) = 0 at +-1.
        turned = value + slope * (cosines - cosines.detach())
        if angle.requires_grad:
            with torch.no_grad():
                by_angle = torch.where(within, -(sine * cos_a + bounded * sin_a), -sin_a - angle * cos_a)
                by_angle.masked_fill_(below, 0.0)
            turned = turned + by_angle * (angle - angle.detach())
        return turned


class ArcFace(AngularMargin):
    """cos(theta + m); if theta + m > pi, cos(theta) - m sin(m), which keeps decreasing (docs/method.md, equation 3).

    Source: Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition" (CVPR 2019), equation 3.

    Args:
        scale: s.
        margin: m in radians, 0 <= m < pi.
        gradient: exact, or straight_through: see `AngularMargin`.
    """

    def __init__(self, scale: float = 64.0, margin: float = 0.5, gradient: Gradient = "exact") -> None:
        super().__init__(scale, gradient)
        if not 0 <= margin < math.pi:
            raise InputError(f"margin is {margin}, expected an angle 0 <= margin < pi such as 0.5")
        self.margin = margin

    def target(self, cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        return self.turned(cosines, torch.full_like(cosines, self.margin, requires_grad=False))

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margin={self.margin}"


class CosFace(Margin):
    """cos(theta) - m (docs/method.md, equation 4).

    Source: Wang et al., "CosFace: Large Margin Cosine Loss" (CVPR 2018), equation 4.

    Args:
        scale: s.
        margin: m, 0 <= m < 2.
    """

    def __init__(self, scale: float = 64.0, margin: float = 0.35) -> None:
        super().__init__(scale)
        if not 0 <= margin < 2:
            raise InputError(f"margin is {margin}, expected a difference of cosines 0 <= margin < 2 such as 0.35")
        self.margin = margin

    def target(self, cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        return cosines - self.margin

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margin={self.margin}"


def _sine(cosines: torch.Tensor) -> torch.Tensor:
    return ((1 - cosines) * (1 + cosines)).sqrt()
