"""Sets of verification pairs: binary files, lists, and pairs drawn from faces."""
