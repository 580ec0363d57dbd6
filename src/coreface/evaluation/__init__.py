"""Honest error rates of a face encoder: verification metrics on scores and embeddings, with their uncertainty."""
