"""Bodies that no client of good will sends: typed errors, no failure, memory that does not grow."""

import json
import random
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from coreface.serving.problems import CODES
from coreface.serving.settings import Settings
from support.serving import as_json


def resident() -> int:
    """Return the resident memory of this process in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * 4096


def bomb() -> bytes:
    """A PNG of few bytes whose header claims 20000 x 20000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + name + content + zlib.crc32(name + content).to_bytes(4, "big")

    head = (20000).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    pixels = zlib.compress(bytes(10_000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def spoilt(rng: random.Random, good: bytes) -> bytes:
    """Cut, flip, double or replace a part of an image."""
    kind = rng.randrange(5)
    place = rng.randrange(len(good))
    if kind == 0:
        return good[:place]
    if kind == 1:
        return good[:place] + bytes([rng.randrange(256)]) + good[place + 1 :]
    if kind == 2:
        return good[:place] + good
    if kind == 3:
        return rng.randbytes(rng.randrange(3000))
    return good[: rng.randrange(30)] + rng.randbytes(500)


def body(rng: random.Random, goods: list[bytes]) -> tuple[bytes, str]:
    """Return a body and its type: forms and JSON that are wrong in one way or several."""
    image = spoilt(rng, rng.choice(goods))
    kind = rng.randrange(6)
    if kind == 0:
        text = json.dumps({**as_json(image=image), "face": rng.choice(["largest", "all", 1, None])}).encode()
        return text[: rng.randrange(len(text))] if rng.random() < 0.3 else text, "application/json"
    if kind == 1:
        values = [1, None, [], {}, "x", "A" * rng.randrange(50), True, 1e308]
        return json.dumps({rng.choice(["image", "a", "id", "images"]): rng.choice(values)}).encode(), "application/json"
    if kind == 2:
        return b"[" * rng.randrange(5000) + b"1", "application/json"
    boundary = rng.choice(["x", "x" * 300, "", "x y", "\x00"])
    head = rng.choice(
        [b'form-data; name="image"; filename="f"', b'form-data; name="image"', b"form-data", b"\xff" * 50]
    )
    part = b"--" + boundary.encode() + b"\r\nContent-Disposition: " + head + b"\r\n\r\n" + image + b"\r\n"
    end = b"--" + boundary.encode() + rng.choice([b"--\r\n", b"", b"\r\n"])
    return part * rng.choice([1, 2, 30]) + end, f"multipart/form-data; boundary={boundary!r}".replace("'", '"')


@pytest.mark.slow
def test_two_thousand_bodies(client, tmp_path, jpeg):
    service = client(Settings(gallery=str(tmp_path / "people.db"), allow_embeddings=True))
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    goods = [
        jpeg(4),
        bomb(),
        *(cv2.imencode(kind, noise)[1].tobytes() for kind in (".png", ".bmp", ".tiff", ".webp", ".ppm")),
    ]
    paths = ["/v1/detect", "/v1/embed", "/v1/identify", "/v1/verify", "/v1/people", "/v1/people/x/images"]
    rng = random.Random(0)
    before = 0
    codes = set()
    for number in range(2000):
        content, kind = body(rng, goods)
        response = service.post(rng.choice(paths), content=content, headers={"Content-Type": kind})
        if response.status_code >= 400:
            found = response.json()
            assert response.status_code < 500, found
            assert CODES[found["code"]].status == response.status_code
            codes.add(found["code"])
        if number == 500:
            before = resident()
    assert codes >= {"malformed-request", "invalid-request", "unreadable-image", "image-too-large"}
    assert resident() - before < 30 * 2**20
    assert service.post("/v1/detect", files={"image": jpeg(4)}).status_code == 200
