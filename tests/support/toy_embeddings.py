"""Embeddings of people, made up."""

import numpy as np


def people(images_per_person, seed=0, size=8, spread=0.7):
    """Return embeddings around one centre a person, in random order, and who is on each."""
    generator = np.random.default_rng(seed)
    identities = generator.permutation(np.repeat(np.arange(len(images_per_person)), images_per_person))
    centres = generator.normal(size=(len(images_per_person), size))
    return centres[identities] + spread * generator.normal(size=(len(identities), size)), identities
