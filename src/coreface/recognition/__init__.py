"""From photographs to decisions about faces."""
