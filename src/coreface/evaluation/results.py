"""What was measured on a set: the rates, and what a table or a page says of where they come from."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coreface.evaluation.identification import DistractorRate, Identification
from coreface.evaluation.protocols.groups import GroupRates
from coreface.evaluation.verification import Verification


@dataclass(frozen=True, eq=False)
class MeasuredSet:
    """A subject on one set of pairs.

    Attributes:
        name: of the set.
        verification: what was measured.
        statement: the protocol, in words.
        unreadable: messages about images that could not be embedded.
        image: number of an image, as the worst pairs name it -> uint8 RGB (height, width, 3); None shows none.
        label: number of an image -> where it lies; None where nobody knows.
        groups: error rates by group; None where nobody asked.
        notes: what a reader of the rates must know besides.
    """

    name: str
    verification: Verification
    statement: str
    unreadable: tuple[str, ...] = ()
    image: Callable[[int], NDArray[np.uint8]] | None = None
    label: Callable[[int], str] | None = None
    groups: GroupRates | None = None
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return all but scores and images as plain Python values."""
        groups = None if self.groups is None else self.groups.to_dict()
        return {
            "name": self.name,
            "statement": self.statement,
            **self.verification.to_dict(),
            "unreadable": list(self.unreadable),
            "groups": groups,
            "notes": list(self.notes),
        }


@dataclass(frozen=True, eq=False)
class MeasuredSearches:
    """A subject in open-set identification.

    Attributes:
        name: of the set.
        identification: the searches and their rates.
        statement: the protocol, in words.
        unreadable: messages about images that could not be embedded.
        distractors: rank-1 rates among distractors; empty where there were none.
    """

    name: str
    identification: Identification
    statement: str
    unreadable: tuple[str, ...] = ()
    distractors: tuple[DistractorRate, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Return the rates as plain Python values."""
        among = [{"distractors": d.distractors, "rate": d.rate, "searches": d.searches} for d in self.distractors]
        return {
            "name": self.name,
            "statement": self.statement,
            **self.identification.to_dict(),
            "unreadable": list(self.unreadable),
            "distractors": among,
        }
