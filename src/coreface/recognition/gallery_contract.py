"""Comparison of the contracts of a pipeline and a gallery."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from coreface.errors import ContractError

_SHOWN = 12  # digits of a digest


def check_contract(place: str, stored: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Compare the contract of a gallery with another one, both as plain JSON values.

    Raises:
        ContractError: they differ; the message lists the differences.
    """
    if stored != given:
        what = "; ".join(differences(stored, given))
        raise ContractError(
            f"{place} belongs to another pipeline ({what}): scores between the two are not comparable; open it with "
            "the pipeline that it was made with, or move it to the new encoder with coreface gallery migrate"
        )


def differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "", of: str = "the gallery"
) -> Iterator[str]:
    """Yield each difference between two contracts as a phrase; ``of`` names what the stored one belongs to."""
    for key in sorted({*stored, *given}):
        old, new = stored.get(key), given.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{prefix}{key}.", of)
        elif old != new:
            yield f"{prefix}{key} is {_shown(new)}, that of {of} is {_shown(old)}"


def _shown(value: Any) -> str:
    return value[:_SHOWN] if isinstance(value, str) and len(value) == 64 else json.dumps(value)[:100]
