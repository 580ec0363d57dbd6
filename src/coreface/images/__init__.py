"""Images: loading, checks before decoding, alignment, and network input."""
