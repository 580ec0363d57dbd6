"""Embedding a whole source, and the table that is printed of what was measured."""

import io

import numpy as np
import pytest
from rich.console import Console

import coreface as cf
from coreface.data import FaceSource
from coreface.errors import ImageError
from coreface.evaluation.embedding import embed_images
from coreface.evaluation.embedding_sources import EncoderSource
from coreface.evaluation.metrics.uncertainty import Interval
from coreface.evaluation.verification import verify
from coreface.reports.tables import percent, percent_interval, print_verification


class Grey(FaceSource):
    """Image i is all of value i; some cannot be read."""

    def __init__(self, images, unreadable=(), pixels=None):
        super().__init__(np.arange(images) // 2, [str(i) for i in range((images + 1) // 2)])
        self._unreadable, self._pixels = unreadable, pixels

    def _decode(self, index):
        if index in self._unreadable:
            raise ImageError(f"damaged {index}")
        return np.full((4, 4, 3), index % 256, dtype=np.uint8) if self._pixels is None else self._pixels

    def encoded(self, index):
        return f"{index % 256} {index in self._unreadable}".encode()

    def locate(self, index):
        return f"grey {index}"


class MeanEncoder:
    """Embeds an image as (its value, whether it was to be flipped)."""

    def __init__(self):
        self.batches = []

    def embed(self, images, flip=True):
        self.batches.append(len(images))
        return np.array([[image.mean(), float(flip)] for image in images], dtype=np.float32)


def test_every_image_once_and_in_order():
    encoder, done = MeanEncoder(), []
    embedded = embed_images(encoder.embed, Grey(150), progress=done.append)
    assert embedded.embeddings[:, 0].tolist() == list(range(150))
    assert Grey(150).identities[embedded.indices].tolist() == [i // 2 for i in range(150)]
    assert sum(encoder.batches) == 150
    assert done[-1] == 150
    assert done == sorted(done)


@pytest.mark.parametrize("flip", [True, False])
def test_flip_is_passed_on(toy_backbone, flip):
    encoder, images = cf.FaceEncoder(toy_backbone, 8, 16), [np.full((4, 4, 3), 7, np.uint8)]
    images[0][:, :2] = 200
    embedded = EncoderSource("toy", encoder, flip=flip).embed(Grey(1, pixels=images[0]))
    np.testing.assert_array_equal(embedded.embeddings, encoder.embed(images, flip=flip))
    assert not np.array_equal(embedded.embeddings, encoder.embed(images, flip=not flip))


def test_unreadable_images_are_left_out_and_named():
    embedded = embed_images(MeanEncoder().embed, Grey(6, unreadable=(0, 3)))
    assert embedded.indices.tolist() == [1, 2, 4, 5]
    assert embedded.embeddings[:, 0].tolist() == [1, 2, 4, 5]
    assert Grey(6).identities[embedded.indices].tolist() == [0, 1, 2, 2]
    assert embedded.unreadable == {0: "grey 0: damaged 0", 3: "grey 3: damaged 3"}


def test_a_chunk_of_unreadable_images():
    embedded = embed_images(MeanEncoder().embed, Grey(130, unreadable=range(64)))
    assert embedded.indices.tolist() == list(range(64, 130))


def test_nothing_readable():
    with pytest.raises(cf.EvaluationError, match="none of the 3 images can be read, the first: grey 0: damaged"):
        embed_images(MeanEncoder().embed, Grey(3, unreadable=range(3)))


def test_the_table_has_the_numbers():
    rng = np.random.default_rng(0)
    identities = np.repeat(np.arange(6), 5)
    embeddings = rng.normal(size=(6, 8))[identities] + 0.8 * rng.normal(size=(30, 8))
    result = verify(embeddings, identities, replicates=50)
    console = Console(width=200, record=True, file=io.StringIO())
    print_verification(result, console)
    text = console.export_text()
    assert f"{100 * result.eer.eer:.2f} %" in text
    assert f"{100 * result.eer_interval.low:.2f} to {100 * result.eer_interval.high:.2f}" in text
    assert f"{result.tar[0].threshold:.4f}" in text
    assert f"not resolvable: the rate allows no false match among {result.impostor} impostor pairs" in text
    assert f"{result.genuine} genuine and {result.impostor} impostor pairs" in text


def test_a_missing_number_is_a_dash():
    assert percent(None) == "-"
    assert percent(0.12345) == "12.35 %"
    assert percent_interval(None) == "-"
    assert percent_interval(Interval(None, None, 0.95, 10, 10)) == "-"
    assert percent_interval(Interval(0.1, 0.2, 0.95, 10, 0)) == "10.00 to 20.00"
