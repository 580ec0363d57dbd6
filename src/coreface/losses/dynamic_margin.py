"""A margin that depends on how many images an identity has."""

import math

import torch

from coreface.errors import InputError
from coreface.losses.margins import AngularMargin, Gradient, Targets


class DynamicMargin(AngularMargin):
    """ArcFace with m = a n^-b + c for an identity with n images: rare identities get a larger margin.

    Source: Ha et al., "Google Landmark Recognition 2020 Competition Third Place Solution" (2020).

    Args:
        scale: s.
        a: how much the margin of an identity with one image exceeds c, radians.
        b: how fast it falls with n.
        c: margin of an identity with infinitely many images, radians.
        sizes: (identities,), int64, images per identity; None if they are set later with `see_sizes`, as training does.
        gradient: exact, or straight_through: see `AngularMargin`.
    """

    def __init__(
        self,
        scale: float = 64.0,
        a: float = 0.5,
        b: float = 0.25,
        c: float = 0.05,
        sizes: torch.Tensor | None = None,
        gradient: Gradient = "exact",
    ) -> None:
        super().__init__(scale, gradient)
        if not (a >= 0 and c >= 0 and a + c < math.pi):
            raise InputError(f"a is {a} and c is {c}, expected angles of 0 or more that add up to less than pi")
        if not 0 <= b < math.inf:
            raise InputError(f"b is {b}, expected an exponent of 0 or more such as 0.25")
        self.a, self.b, self.c = a, b, c
        # Not a buffer: it belongs to the data, and is too large to be copied at every step.
        self._sizes: torch.Tensor | None = None
        if sizes is not None:
            self.see_sizes(sizes)

    def see_sizes(self, sizes: torch.Tensor) -> None:
        if sizes.ndim != 1 or sizes.dtype != torch.int64:
            raise InputError(f"sizes are {sizes.dtype} {tuple(sizes.shape)}, expected torch.int64 (identities,)")
        self._sizes = sizes.clamp(min=1)

    def target_of(self, cosines: torch.Tensor, norms: torch.Tensor, targets: Targets) -> torch.Tensor:
        if self._sizes is None:
            raise InputError("sizes are missing: give DynamicMargin(sizes=...), the number of images of each identity")
        self._sizes = self._sizes.to(cosines.device)
        sizes = self._sizes[targets.identities].to(cosines.dtype)
        return self.turned(cosines, self.a * sizes**-self.b + self.c)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, a={self.a}, b={self.b}, c={self.c}"
