"""What faces say of a foreign encoder: its norms, whether it has collapsed, whether its colours are exchanged."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from coreface.data.pairs.pair_set import PairSet
from coreface.data.source import FaceSource
from coreface.errors import ImageError
from coreface.evaluation.protocols.pairs import image_identities
from coreface.models.onnx import OnnxEncoder

_PEOPLE, _IMAGES_EACH = 40, 4
_FEWEST_PEOPLE = 8  # for a word on colours
_COLLAPSED = 0.9  # mean cosine of different people; of encoders in use it is below 0.3
_SURE: Final = 3.0  # standard errors


@dataclass(frozen=True)
class EncoderProbe:
    """What some faces said.

    Attributes:
        images: how many faces.
        people: of how many people.
        norms: shortest and longest embedding, before the length is taken out.
        stranger_cosine: mean cosine of different people.
        separation: how far genuine lie above impostor cosines: the difference of their means over the standard
            deviation of the latter; None without pairs of both kinds.
        exchanged_separation: the same with red and blue exchanged.
        exchange_evidence: by how many standard errors, over people, the exchange is better; None where there are too
            few people, or no colours.
        colour_order: what the preprocessing says.
    """

    images: int
    people: int
    norms: tuple[float, float]
    stranger_cosine: float | None
    separation: float | None
    exchanged_separation: float | None
    exchange_evidence: float | None
    colour_order: str

    @property
    def finding(self) -> str:
        """One line on what was found."""
        parts = [f"{self.images} faces of {self.people} people", f"norms {self.norms[0]:.3g} to {self.norms[1]:.3g}"]
        if self.stranger_cosine is not None:
            parts.append(f"mean cosine of different people {self.stranger_cosine:.2f}")
        if self.separation is not None and self.exchanged_separation is not None:
            parts.append(
                f"separation of people {self.separation:.2f} in {self.colour_order}, {self.exchanged_separation:.2f} "
                "with red and blue exchanged"
            )
        return "; ".join(parts)

    @property
    def warnings(self) -> list[str]:
        """What is probably wrong, a line each."""
        found = []
        if self.stranger_cosine is not None and self.stranger_cosine > _COLLAPSED:
            found.append(
                f"different people have a mean cosine of {self.stranger_cosine:.3f}: mean or scale of the "
                "preprocessing are probably wrong, or this is not a face encoder"
            )
        if self.exchange_evidence is not None and self.exchange_evidence > _SURE:
            other = "BGR" if self.colour_order == "RGB" else "RGB"
            found.append(
                f"it tells people apart better with red and blue exchanged: its preprocessing says "
                f"{self.colour_order}, and {other} is probably right"
            )
        return found


def probe_encoder(encoder: OnnxEncoder, faces: FaceSource | PairSet) -> EncoderProbe | None:
    """Embed some faces as they are and with red and blue exchanged.

    Args:
        encoder: what is not known.
        faces: people with colours; of a set of pairs, the people that it tells.

    Returns:
        What was found; None where no face can be read.

    Raises:
        ModelError: the encoder cannot be run.
    """
    images, identities = _sample(faces)
    if not images:
        return None
    plain, exchanged = (
        encoder.embed(some, flip=encoder.flip_inside, unit=False)
        for some in (images, [image[..., ::-1] for image in images])
    )
    lengths = np.linalg.norm(plain, axis=1)
    one, other = _contrasts(plain, identities), _contrasts(exchanged, identities)
    evidence = None
    if one.each is not None and other.each is not None and len(one.each) >= _FEWEST_PEOPLE:
        difference = other.each - one.each
        error = difference.std(ddof=1) / np.sqrt(len(difference))
        evidence = float(difference.mean() / error) if error > 0 else None
    return EncoderProbe(
        images=len(images),
        people=len(np.unique(identities)),
        norms=(float(lengths.min()), float(lengths.max())),
        stranger_cosine=one.stranger_cosine,
        separation=one.separation,
        exchanged_separation=other.separation,
        exchange_evidence=evidence,
        colour_order=encoder.preprocessing.colour_order,
    )


def _sample(faces: FaceSource | PairSet) -> tuple[list[NDArray[np.uint8]], NDArray[np.int64]]:
    identities = image_identities(faces)[0] if isinstance(faces, PairSet) else faces.identities
    people, counts = np.unique(identities, return_counts=True)
    several = people[counts > 1] if (counts > 1).any() else people
    chosen = several[np.unique(np.linspace(0, len(several) - 1, _PEOPLE, dtype=np.int64))]
    images, kept = [], []
    for person in chosen.tolist():
        for index in np.flatnonzero(identities == person)[:_IMAGES_EACH].tolist():
            try:
                images.append(faces.image(index) if isinstance(faces, PairSet) else faces[index][0])
                kept.append(person)
            except ImageError:
                continue
    return images, np.array(kept, np.int64)


@dataclass(frozen=True)
class _Contrasts:
    stranger_cosine: float | None
    separation: float | None
    each: NDArray[np.float64] | None  # of every person with a genuine pair: the contrast with everybody else


def _contrasts(embeddings: NDArray[np.float32], identities: NDArray[np.int64]) -> _Contrasts:
    rows = embeddings.astype(np.float64)
    rows /= np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    cosines = rows @ rows.T
    same = identities[:, None] == identities
    genuine = same & ~np.eye(len(rows), dtype=bool)
    if same.all():
        return _Contrasts(None, None, None)
    impostor = cosines[~same]
    mean, spread = float(impostor.mean()), float(impostor.std())
    if not genuine.any() or spread == 0:
        return _Contrasts(mean, None, None)
    each = [
        (cosines[theirs][genuine[theirs]].mean() - cosines[theirs][~same[theirs]].mean()) / spread
        for theirs in (identities == person for person in np.unique(identities[genuine.any(axis=1)]))
    ]
    return _Contrasts(mean, float((cosines[genuine].mean() - mean) / spread), np.array(each))
