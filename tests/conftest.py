"""Settings and fixtures of the whole suite: one torch thread each, so that two test processes share two cores."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")


def _paint(folder: Path, identities: int, images: int, size: int, seed: int) -> Path:
    """Write identities a network can tell apart: each a coarse pattern of colours, each image with its own noise."""
    import cv2  # not before the number of threads is set
    import numpy as np

    rng = np.random.default_rng(seed)
    for identity in range(identities):
        pattern = rng.integers(40, 216, (4, 4, 3)).astype(np.float32)
        face = cv2.resize(pattern, (size, size), interpolation=cv2.INTER_LINEAR)
        person = folder / f"person{identity:02d}"
        person.mkdir(parents=True)
        for image in range(images):
            noisy = face + rng.normal(0, 20, face.shape)
            cv2.imwrite(str(person / f"{image}.png"), noisy.clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep embeddings of tests out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def paint_faces() -> Callable[..., Path]:
    """Return a function (folder, identities=6, images=6, size=24, seed=0) that fills a folder with toy faces."""

    def paint(folder: Path, identities: int = 6, images: int = 6, size: int = 24, seed: int = 0) -> Path:
        return _paint(folder, identities, images, size, seed)

    return paint


@pytest.fixture(scope="session")
def toy_folder(paint_faces: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six identities of six toy faces. Read-only: tests that spoil files paint their own."""
    return paint_faces(tmp_path_factory.mktemp("toy") / "faces")


@pytest.fixture(scope="session")
def toy_backbone() -> str:
    """The name of the smallest network that has all a backbone has."""
    import support.toy_network  # noqa: F401 (registers it; not before the number of threads is set)

    return "toy"


@pytest.fixture(scope="session")
def groups(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Processes that talk over gloo, by their number; they are started when they are first asked for."""
    from support.gloo import Groups  # not before the number of threads is set

    groups = Groups(tmp_path_factory.mktemp("gloo"))
    yield groups
    groups.close()


@pytest.fixture(scope="module")
def toy_recipe(toy_backbone: str, toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe file: both stages in no time on four of the toy identities, the two others held out."""
    path = tmp_path_factory.mktemp("recipes") / "toy.yaml"
    path.write_text(
        f"""
model: {{backbone: {toy_backbone}, embedding_size: 16}}
data: {{train: {json.dumps(str(toy_folder))}, image_size: 16, workers: 0, holdout: 2}}
stages:
  - {{from_epoch: 1, views: 1, dropout: 0.1}}
  - {{from_epoch: 2, views: 2, dropout: 0.2, contrastive: {{weight: 0.05}}}}
optimizer: {{lr: 0.02, batch_size: 12, epochs: 2}}
precision: float32
device: cpu
log_every: 1
""",
        encoding="utf-8",
    )
    return path


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of fixtures and data sets that the variable COREFACE_SHARED names; without it the test is skipped."""
    folder = os.environ.get("COREFACE_SHARED")
    if not folder:
        pytest.skip("COREFACE_SHARED is not set")
    return Path(folder)
