"""Margins that depend on the training progress or on the norm: CurricularFace, MagFace, AdaFace.

Each is implemented from its paper. The docstrings say what was chosen where a paper is ambiguous.
"""

import math

import torch

from coreface.errors import InputError
from coreface.losses.margins import AngularMargin, ArcFace, Gradient


class CurricularFace(ArcFace):
    """ArcFace on the target; a harder other identity, cos(theta_j) > cos(theta + m), enters as cos_j (t + cos_j).

    Source: Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition" (CVPR 2020). t
    starts at 0 and is updated with the mean target cosine r of each batch, t <- a r + (1 - a) t (their equation 9),
    before it is used. Neither t nor the choice of the hard identities has a gradient. The paper prints a = 0.99, which
    its authors corrected: the weight of the new value is 0.01.

    Args:
        scale: s.
        margin: m in radians, 0 <= m < pi.
        ema: a, the weight of the NEW value.
        gradient: exact, or straight_through for the target: see `AngularMargin`. That of the others is always exact.

    Attributes:
        t: a buffer. A call in training mode updates it, unless the new value is not finite.
    """

    t: torch.Tensor

    def __init__(
        self, scale: float = 64.0, margin: float = 0.5, ema: float = 0.01, gradient: Gradient = "exact"
    ) -> None:
        super().__init__(scale, margin, gradient)
        self.ema = _checked_weight(ema)
        self.register_buffer("t", torch.zeros(()))

    def target(self, cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        if self.training and len(cosines):
            self.t = _moved(self.t, cosines.detach().mean(), self.ema)
        return super().target(cosines, norms)

    def others(self, cosines: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        hard = cosines.detach() > target.detach().unsqueeze(1)
        return torch.where(hard, cosines * (self.t.to(cosines.dtype) + cosines), cosines)


class MagFace(AngularMargin):
    """ArcFace with a margin that grows with the norm a of the embedding; a penalty pulls a towards its upper bound.

    m(a) = (u_m - l_m) / (u_a - l_a) (a - l_a) + l_m, and L = mean(L_i) + lambda_g mean(g(a_i)) with
    g(a) = 1 / a + a / u_a^2. Source: Meng et al., "MagFace: A Universal Representation for Face Recognition and Quality
    Assessment" (CVPR 2021). The paper assumes l_a <= a <= u_a. Here a is clamped to these bounds for m(a), and to a >=
    1 for g, so that norms outside are pulled back and a vector of zeros stays finite.

    Args:
        scale: s.
        margins: (l_m, u_m), radians.
        lengths: (l_a, u_a).
        regularisation: lambda_g.
        gradient: exact, or straight_through for the target's cosine: see `AngularMargin`. That of a is always exact.
    """

    def __init__(
        self,
        scale: float = 64.0,
        margins: tuple[float, float] = (0.45, 0.8),
        lengths: tuple[float, float] = (10.0, 110.0),
        regularisation: float = 35.0,
        gradient: Gradient = "exact",
    ) -> None:
        super().__init__(scale, gradient)
        if not 0 <= margins[0] <= margins[1] < math.pi:
            raise InputError(f"margins are {margins}, expected two angles 0 <= l_m <= u_m < pi such as (0.45, 0.8)")
        if not 0 < lengths[0] < lengths[1]:
            raise InputError(f"lengths are {lengths}, expected two lengths 0 < l_a < u_a such as (10, 110)")
        if not 0 <= regularisation < math.inf:
            raise InputError(f"regularisation is {regularisation}, expected a weight of 0 or more such as 35")
        self.margins = margins
        self.lengths = lengths
        self.regularisation = regularisation

    def target(self, cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        (low, high), (shortest, longest) = self.margins, self.lengths
        bounded = norms.clamp(shortest, longest)
        return self.turned(cosines, (high - low) / (longest - shortest) * (bounded - shortest) + low)

    def penalty(self, norms: torch.Tensor) -> torch.Tensor:
        norms = norms.clamp(min=1.0)
        return self.regularisation * (1 / norms + norms / self.lengths[1] ** 2).mean()

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margins={self.margins}, lengths={self.lengths}, lambda_g={self.regularisation}"


class AdaFace(AngularMargin):
    """cos(theta - m z) - (m z + m), where z, the relative norm of the embedding, is a proxy for image quality.

    z = clip((|x| - mu) / (sigma / h), -1, 1), with no gradient. Source: Kim et al., "AdaFace: Quality Adaptive Margin
    for Face Recognition" (CVPR 2022). mu and sigma are running means of the mean and the (unbiased) standard deviation
    of the batches, updated before they are used. The paper calls 0.99 the momentum; the authors' release gives the new
    value a weight of 0.01, which means the same. The initial values, 20 and 100, are the release's.

    Args:
        scale: s.
        margin: m, 0 <= m < pi.
        concentration: h.
        ema: weight of the NEW mean and standard deviation.
        gradient: exact, or straight_through: see `AngularMargin`.

    Attributes:
        mean: mu, a buffer. A call in training mode with two or more embeddings updates it, unless the new value is not
            finite.
        deviation: sigma, likewise.
    """

    mean: torch.Tensor
    deviation: torch.Tensor

    def __init__(
        self,
        scale: float = 64.0,
        margin: float = 0.4,
        concentration: float = 0.33,
        ema: float = 0.01,
        gradient: Gradient = "exact",
    ) -> None:
        super().__init__(scale, gradient)
        if not 0 <= margin < math.pi:
            raise InputError(f"margin is {margin}, expected an angle 0 <= margin < pi such as 0.4")
        if not 0 < concentration < math.inf:
            raise InputError(f"concentration is {concentration}, expected a positive number such as 0.33")
        self.margin = margin
        self.concentration = concentration
        self.ema = _checked_weight(ema)
        self.register_buffer("mean", torch.tensor(20.0))
        self.register_buffer("deviation", torch.tensor(100.0))

    def target(self, cosines: torch.Tensor, norms: torch.Tensor) -> torch.Tensor:
        norms = norms.detach()
        if self.training and len(norms) > 1:
            self.mean = _moved(self.mean, norms.mean(), self.ema)
            self.deviation = _moved(self.deviation, norms.std(), self.ema)
        spread = self.deviation.to(norms.dtype).clamp(min=1e-3)
        quality = ((norms - self.mean.to(norms.dtype)) * self.concentration / spread).clamp(-1, 1)
        return self.turned(cosines, -self.margin * quality) - self.margin * (quality + 1)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, margin={self.margin}, concentration={self.concentration}, ema={self.ema}"


def _moved(state: torch.Tensor, value: torch.Tensor, weight: float) -> torch.Tensor:
    """Return the updated running mean, in float64 once a float64 value was given."""
    if value.dtype == torch.float64:
        state = state.double()
    value = value.to(state.dtype)
    return state.lerp(torch.where(value.isfinite(), value, state), weight)


def _checked_weight(ema: float) -> float:
    if not 0 <= ema <= 1:
        raise InputError(f"ema is {ema}, expected the weight of the new value, 0 to 1")
    return ema
