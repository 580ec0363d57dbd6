"""How embeddings are evaluated, one file a protocol, and the table of them in `registry`."""
