"""What is kept is given back bit for bit, and nothing that is damaged, stale or another encoder's ever is."""

import hashlib

import numpy as np
import pytest

from coreface.evaluation.embedding import embed_images
from coreface.evaluation.embedding_cache import EmbeddingCache, default_folder


def key(text):
    return hashlib.sha256(str(text).encode()).digest()


def filled(folder, digest="a" * 64, description="flip=True", count=3):
    cache = EmbeddingCache(folder, digest, description)
    rows = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    for index, row in enumerate(rows):
        cache.add(key(index), row)
    cache.flush()
    return cache, rows


def test_rows_come_back_as_they_were(tmp_path):
    _, rows = filled(tmp_path)
    again = EmbeddingCache(tmp_path, "a" * 64, "flip=True")
    for index, row in enumerate(rows):
        assert again.get(key(index)).tobytes() == row.tobytes()
    assert again.get(key("other")) is None
    assert again.hits == 3


def test_another_encoder_description_or_version_finds_nothing(tmp_path, monkeypatch):
    filled(tmp_path)
    for digest, description in (("b" * 64, "flip=True"), ("a" * 64, "flip=False")):
        assert EmbeddingCache(tmp_path, digest, description).get(key(0)) is None
    monkeypatch.setattr("coreface.evaluation.embedding_cache.__version__", "0.0.0")
    assert EmbeddingCache(tmp_path, "a" * 64, "flip=True").get(key(0)) is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[:10],
        lambda content: b"",
        lambda content: content[:-3] + bytes([content[-3] ^ 1]) + content[-2:],
        lambda content: b"\xff" * len(content),
    ],
)
def test_damaged_parts_are_passed_over(tmp_path, damage):
    cache, _ = filled(tmp_path)
    (part,) = cache.folder.glob("*.safetensors")
    part.write_bytes(damage(part.read_bytes()))
    assert EmbeddingCache(tmp_path, "a" * 64, "flip=True").get(key(0)) is None
    # What is embedded again is found again, beside the damaged part.
    again, rows = filled(tmp_path)
    assert EmbeddingCache(tmp_path, "a" * 64, "flip=True").get(key(2)).tobytes() == rows[2].tobytes()
    assert len(list(again.folder.iterdir())) <= 2


def test_a_part_of_something_else_under_a_true_name_is_passed_over(tmp_path):
    cache, _ = filled(tmp_path)
    for content in (b"junk", b"\x02\0\0\0\0\0\0\0{}"):
        (cache.folder / f"{hashlib.sha256(content).hexdigest()}.safetensors").write_bytes(content)
    assert EmbeddingCache(tmp_path, "a" * 64, "flip=True").get(key(0)) is not None


def test_parts_are_written_as_it_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("coreface.evaluation.embedding_cache._PART", 2)
    cache = EmbeddingCache(tmp_path, "a" * 64, "w")
    for index in range(5):
        cache.add(key(index), np.full(4, index, np.float32))
    # Killed here, one embedding is lost and four are there.
    found = EmbeddingCache(tmp_path, "a" * 64, "w")
    assert [found.get(key(index)) is not None for index in range(5)] == [True] * 4 + [False]


class Counting:
    """An encoder that counts, and dies at a chosen image."""

    def __init__(self, dies_at=None):
        self.seen, self.dies_at = 0, dies_at

    def embed(self, images, flip=True):
        if self.dies_at is not None and self.seen + len(images) > self.dies_at:
            raise KeyboardInterrupt
        self.seen += len(images)
        return np.array([[image.mean(), image.std(), 1.0] for image in images], np.float32)


def test_an_interrupted_evaluation_goes_on(paint_faces, tmp_path):
    from coreface.data import open_faces

    faces = open_faces(paint_faces(tmp_path / "faces", identities=10, images=20, size=8))
    whole = embed_images(Counting().embed, faces)
    with pytest.raises(KeyboardInterrupt):
        embed_images(Counting(dies_at=130).embed, faces, cache=EmbeddingCache(tmp_path / "kept", "a" * 64, "w"))
    second = Counting()
    embedded = embed_images(second.embed, faces, cache=EmbeddingCache(tmp_path / "kept", "a" * 64, "w"))
    assert second.seen == 200 - 128  # the two batches before are not embedded again
    assert embedded.embeddings.tobytes() == whole.embeddings.tobytes()
    third = Counting()
    embed_images(third.embed, faces, cache=EmbeddingCache(tmp_path / "kept", "a" * 64, "w"))
    assert third.seen == 0


def test_an_image_that_changes_is_embedded_again(paint_faces, tmp_path):
    from coreface.data import open_faces

    folder = paint_faces(tmp_path / "faces", identities=2, images=2, size=8)
    cache = tmp_path / "kept"
    before = embed_images(Counting().embed, open_faces(folder), cache=EmbeddingCache(cache, "a" * 64, "w"))
    (folder / "person00" / "0.png").write_bytes((folder / "person01" / "0.png").read_bytes())
    encoder = Counting()
    after = embed_images(encoder.embed, open_faces(folder), cache=EmbeddingCache(cache, "a" * 64, "w"))
    assert encoder.seen == 0  # that content is known
    assert (after.embeddings[0] == before.embeddings[2]).all()


def test_the_same_content_is_embedded_once(paint_faces, tmp_path):
    from coreface.data import open_faces

    folder = paint_faces(tmp_path / "faces", identities=2, images=3, size=8)
    for image in range(3):
        (folder / "person01" / f"{image}.png").write_bytes((folder / "person00" / "0.png").read_bytes())
    encoder = Counting()
    embedded = embed_images(encoder.embed, open_faces(folder))
    assert encoder.seen == 3
    assert (embedded.embeddings[3:] == embedded.embeddings[0]).all()
    assert len(embedded.embeddings) == 6


def test_a_strip_too_long_to_be_squared_is_named(tmp_path, paint_faces, toy_backbone):
    import cv2

    import coreface as cf

    folder = paint_faces(tmp_path / "faces", identities=2, images=2, size=16)
    cv2.imwrite(str(folder / "person00" / "strip.png"), np.zeros((1, 16_385, 3), np.uint8))
    embedded = embed_images(cf.FaceEncoder(toy_backbone, 8, 16).embed, cf.data.open_faces(folder))
    assert embedded.indices.tolist() == [0, 1, 3, 4]
    (message,) = embedded.unreadable.values()
    assert "strip.png" in message
    assert "cannot pad 16385 x 1 pixels" in message


def test_the_default_folder_is_in_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "coreface" / "embeddings"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "coreface" / "embeddings"
