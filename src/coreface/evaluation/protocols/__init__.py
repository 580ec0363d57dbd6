"""How embeddings are evaluated, one file a protocol."""
