"""What a recipe reaches with 30 people to train on, as in the demo, on draws of other faces than the demo's.

    python benchmarks/few_people.py train.rec [--recipe recipes/orl_demo.yaml] [--draws 0 1 2] [--any.field value ...]

A draw takes 30 people with ten images each, in grey, trains on them on one thread, and tests on groups of ten other
people: the equal error rate is the mean over the groups. This is how the demo was tuned, not on its own faces.
"""

import argparse
import dataclasses
import io
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from timing import machine

from coreface.data import FaceSource, open_faces
from coreface.errors import CoreFaceError
from coreface.evaluation.verification import pixel_embeddings, verify
from coreface.images.load import fit_square
from coreface.studies.demo import find_recipe
from coreface.training.recipe import Recipe
from coreface.training.trainer import Trainer

IMAGES, GROUP = 10, 10
TRAINED = 30
LEAST = TRAINED + GROUP


class GreyFaces(FaceSource):
    """Ten grey images of each of some people."""

    def __init__(self, source: FaceSource, people: NDArray[np.int64]) -> None:
        identities = np.repeat(np.arange(len(people), dtype=np.int64), IMAGES)
        super().__init__(identities, [source.identity_names[person] for person in people])
        self._source = source
        self._indices = [int(i) for person in people for i in np.flatnonzero(source.identities == person)[:IMAGES]]

    def _decode(self, index: int) -> NDArray[np.uint8]:
        grey = cv2.cvtColor(self._source[self._indices[index]][0], cv2.COLOR_RGB2GRAY)
        return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)

    def encoded(self, index: int) -> bytes:
        return self._source.encoded(self._indices[index])

    def locate(self, index: int) -> str:
        return self._source.locate(self._indices[index])

    def pixels(self, size: int) -> NDArray[np.uint8]:
        return np.stack([fit_square(self[index][0], size) for index in range(len(self))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="faces: whatever `coreface train` takes")
    parser.add_argument("--recipe", type=Path, default=find_recipe("orl_demo"))
    parser.add_argument("--draws", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--groups", type=int, default=20, help="of ten people that are tested")
    options, fields = parser.parse_known_args()
    recipe = dataclasses.replace(Recipe.load(options.recipe, fields), threads=1)
    torch.set_num_threads(1)
    source = open_faces(options.path)
    people = np.flatnonzero(np.bincount(source.identities) >= IMAGES)
    if len(people) < LEAST:
        raise CoreFaceError(f"{len(people)} people have {IMAGES} images, expected at least {LEAST}: take a larger set")
    print(f"{machine()}; {len(people)} people with {IMAGES} images; {recipe.model.backbone}")
    for draw in options.draws:
        order = np.random.default_rng(1000 + draw).permutation(people)
        trained, others = order[:TRAINED], order[TRAINED:]
        groups = [others[at : at + GROUP] for at in range(0, len(others) - GROUP + 1, GROUP)][: options.groups]
        faces, tests = GreyFaces(source, trained), [GreyFaces(source, group) for group in groups]
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(recipe, faces, Path(folder), console=Console(file=io.StringIO()))
            begun = time.process_time()
            trainer.train()
            seconds = time.process_time() - begun
        print_draw(draw, trainer, faces, tests, seconds)


def print_draw(draw: int, trainer: Trainer, faces: GreyFaces, tests: list[GreyFaces], seconds: float) -> None:
    size = trainer.recipe.data.image_size
    mean = faces.pixels(size).mean(axis=0, dtype=np.float64)
    encoder = trainer.encoder.eval()
    raw, own = [], []
    for test in tests:
        pixels = test.pixels(size)
        for rates, embeddings in ((raw, pixel_embeddings(pixels, mean)), (own, encoder.embed(pixels))):
            rates.append(verify(embeddings, test.identities, replicates=0).eer.eer)
    print(
        f"draw {draw}: EER {100 * np.mean(own):.2f} %, raw pixels {100 * np.mean(raw):.2f} %, "
        f"ratio {np.mean(own) / np.mean(raw):.3f}; {seconds:.1f} s of the processor",
        flush=True,
    )


if __name__ == "__main__":
    main()
