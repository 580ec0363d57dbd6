"""A threshold for a wanted rate, with what is known of the rate there, and whether a decision can rest on it."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

from coreface.errors import InputError
from coreface.evaluation.metrics.proportions import Badge, wilson

Method: TypeAlias = Literal["fmr", "independence", "searches", "templates"]
Standing: TypeAlias = Literal["solid", "marked", "undecidable"]

ENOUGH_MATCHES, FEWEST_MATCHES = 30, 3  # false matches behind a decision, and behind one that is marked


@dataclass(frozen=True)
class CalibratedThreshold:
    """A threshold for a wanted rate.

    Attributes:
        target: the rate wanted.
        threshold: a pair matches iff its score is not below it; None if the target is not resolvable.
        fmr: share of the impostor pairs of the calibration that match there, never above what was asked for.
        fmr_low: lower end of the 95 % interval of the FMR there; None where the fit knew no identities.
        fmr_high: its upper end.
        threshold_low: the threshold whose FMR is ``fmr_high``: the true threshold for the target may be this low.
        threshold_high: likewise for ``fmr_low``; None where no impostor score tells.
        fnmr: share of the genuine pairs of the calibration that do not match there.
        badge: how reliable the FMR is, by the number of errors it is based on; None if the target is not resolvable.
        method: ``fmr``: from pairs; ``independence``: from pairs, as 1 - (1 - FMR)^N; ``searches``: from the best
            scores of non-mated searches; ``templates``: from templates of several images, as the product of their
            (1 - FMR).
        fpir: for a gallery, the false positive identification rate that is expected there; None for pairs.
        fpir_low: lower end of its 95 % interval; None where the fit knew no identities.
        fpir_high: its upper end.
        fpir_trials: searches that the FPIR rests on in effect; None likewise.
        gallery_variance: variance of the FPIR by who is in the gallery: some people resemble more others than most do.
        alarms: false matches, or with ``searches`` false alarms, that the threshold rests on.
    """

    target: float
    threshold: float | None
    fmr: float | None
    fmr_low: float | None
    fmr_high: float | None
    threshold_low: float | None
    threshold_high: float | None
    fnmr: float | None
    badge: Badge | None
    method: Method = "fmr"
    fpir: float | None = None
    fpir_low: float | None = None
    fpir_high: float | None = None
    fpir_trials: float | None = None
    gallery_variance: float = 0.0
    alarms: int = 0

    @property
    def resolvable(self) -> bool:
        """Whether there is a threshold."""
        return self.threshold is not None

    @property
    def standing(self) -> Standing:
        """Whether decisions can rest on it: ``solid`` from 30 false matches on, ``marked`` from 3, else not at all."""
        if self.threshold is None or self.alarms < FEWEST_MATCHES:
            return "undecidable"
        return "solid" if self.alarms >= ENOUGH_MATCHES else "marked"

    def fpir_of(self, searches: int) -> tuple[float, float] | None:
        """Return the 95 % prediction interval of the FPIR that so many searches of strangers will show.

        It adds the noise of the searches, n, to that of the calibration, n0 trials in effect, and to the chance of who
        is in the gallery, of variance v: Wilson's interval of the FPIR p with 1 / (1 / n0 + 1 / n + v / (p (1 - p)))
        trials. None where the calibration knew no identities.

        Raises:
            InputError: ``searches`` is below 1.
        """
        if searches < 1:
            raise InputError(f"searches is {searches}; expected 1 or more")
        if self.fpir is None or self.fpir_trials is None:
            return None
        single = self.fpir * (1 - self.fpir)
        people = self.gallery_variance / single if single else 0.0
        return wilson(self.fpir, 1 / (1 / self.fpir_trials + 1 / searches + people))

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain Python values."""
        return {**asdict(self), "standing": self.standing}
