"""Sets to evaluate on that are a function of the encoder."""


class Evaluated:
    """What ``measure`` returns of the encoder is a share; the figures are those of the first process."""

    def __init__(self, measure, name=None, held_out=True):
        self._measure, self.name, self.held_out = measure, name, held_out

    def embed(self, encoder, rank, world_size):
        return self._measure(encoder)

    def figures(self, shares):
        return shares[0]
