"""Images: loading, checks before decoding, and network input."""
