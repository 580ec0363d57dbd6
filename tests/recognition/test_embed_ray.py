"""`--engine ray` on a local cluster: the same arrays as one process, although an actor is killed."""

import importlib.util
import os
import signal
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from coreface.errors import InputError, MissingExtraError
from coreface.recognition import embed_folder
from coreface.recognition.embed_folder import embed_paths
from coreface.recognition.embed_parts import EmbedSettings
from support.waiting import WaitingDetector


@pytest.fixture
def crops(tmp_path, orl_face):
    """Crops of eight people; the eleventh is wider than high, one is damaged."""
    folder = tmp_path / "crops"
    for person in range(8):
        (folder / f"p{person}").mkdir(parents=True)
        for image in range(5):
            picture = orl_face(person, image)
            picture = picture[:80] if (person, image) == (2, 1) else picture
            cv2.imwrite(str(folder / f"p{person}" / f"{image}.png"), picture[..., ::-1])
    (folder / "p3" / "2.png").write_bytes(b"\x89PNG cut off")
    return folder


def kill_whoever_waits(folder: Path, killed: list[int]) -> None:
    deadline = time.monotonic() + 300
    while not (folder / "pid").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int((folder / "pid").read_text())
    os.kill(pid, signal.SIGKILL)
    killed.append(pid)
    (folder / "go").touch()


@pytest.mark.slow
def test_an_actor_that_is_killed_changes_nothing(crops, tmp_path, monkeypatch):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("ray is not installed")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's 15 would starve them beside other work
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(embed_folder, "PART", 4)
    settings = EmbedSettings("sface", WaitingDetector(tmp_path))  # type: ignore[arg-type]
    killed: list[int] = []
    killer = threading.Thread(target=kill_whoever_waits, args=(tmp_path, killed), daemon=True)
    killer.start()
    done, addresses = [], set()

    def progress(count):
        import ray

        done.append(count)
        addresses.update(node["NodeManagerAddress"] for node in ray.nodes())

    found = embed_paths([crops], tmp_path / "ray.npz", settings, workers=2, engine="ray", progress=progress)
    killer.join()
    assert addresses == {"127.0.0.1"}
    assert len(killed) == 1
    assert killed[0] != os.getpid()
    assert (found.photographs, found.embedded, done[-1]) == (40, 39, 40)
    assert (tmp_path / "go").exists()  # so that nobody waits now
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # as in an actor: the last bit of a sum depends on it
    embed_paths([crops], tmp_path / "one.npz", settings)
    cv2.setNumThreads(threads)
    with np.load(tmp_path / "ray.npz") as by_ray, np.load(tmp_path / "one.npz") as by_one:
        assert by_ray.files == by_one.files
        for name in by_one.files:
            np.testing.assert_array_equal(by_ray[name], by_one[name])
        (bad,) = np.flatnonzero(by_one["reasons"] != "").tolist()
        assert by_one["names"][bad].endswith("p3/2.png")
        assert by_one["reasons"][bad].startswith("unreadable")
    assert (tmp_path / "ray.npz").read_bytes() == (tmp_path / "one.npz").read_bytes()


def test_without_ray(crops, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with pytest.raises(MissingExtraError, match=r"pip install 'coreface\[ray\]'"):
        embed_paths([crops], tmp_path / "e.npz", EmbedSettings(detector="whole"), engine="ray")


def test_bad_arguments(crops, tmp_path):
    with pytest.raises(InputError, match="engine is 'spark', expected one of processes, ray"):
        embed_paths([crops], tmp_path / "e.npz", EmbedSettings(detector="whole"), engine="spark")
    with pytest.raises(InputError, match="workers is 0"):
        embed_paths([crops], tmp_path / "e.npz", EmbedSettings(detector="whole"), engine="ray", workers=0)
