"""What the tests of several processes share with those of encoders."""

from support.encoders import batch, encoder, original

__all__ = ["batch", "encoder", "original"]
