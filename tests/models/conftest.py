"""What the tests of encoders share."""

import pytest

from support.encoders import batch, encoder, original, stir_weights

__all__ = ["batch", "encoder", "original", "stir"]


@pytest.fixture(scope="session")
def stir():
    return stir_weights
