"""A study that takes a second: three arms and two seeds of the toy network on six toy identities, ten held out."""

import io

import cv2
import numpy as np
import pytest
from rich.console import Console

from coreface.studies.job import SHARED, Job, run_job
from coreface.studies.results import Place, shared_standing, standing
from coreface.studies.study_file import read_study
from support.study_text import BASE, STUDY


@pytest.fixture(scope="session")
def study_faces(paint_faces, tmp_path_factory):
    """Sixteen identities of six toy faces, so noisy that they are not easy to tell apart. Read-only."""
    folder = paint_faces(tmp_path_factory.mktemp("faces") / "faces", identities=16, images=6)
    rng = np.random.default_rng(5)
    for path in sorted(folder.rglob("*.png")):
        image = cv2.imread(str(path))
        cv2.imwrite(str(path), (image + rng.normal(0, 45, image.shape)).clip(0, 255).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def write_study(toy_backbone, study_faces):
    """Return a function (folder, text=STUDY, base={}) that writes a study and its base recipe, and returns its path."""

    def write(folder, text=STUDY, backbone=toy_backbone, more=""):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "base.yaml").write_text(BASE.format(backbone=backbone, faces=study_faces) + more)
        (folder / "study.yaml").write_text(text)
        return folder / "study.yaml"

    return write


@pytest.fixture(scope="session")
def make_runs():
    """Return a function (study, place, arms=None) that makes all runs of a study in this process, one after another."""

    def make(study, place, arms=None):
        for seed in study.seeds:
            if study.shared_until and shared_standing(study, place, seed) is None:
                run_job(Job(study, place, seed, SHARED), Console(file=io.StringIO()))
            for arm in arms or study.arms:
                if standing(study, place, seed, arm).state != "done":
                    run_job(Job(study, place, seed, arm), Console(file=io.StringIO()))

    return make


@pytest.fixture(scope="module")
def made(write_study, make_runs, tmp_path_factory):
    """The study and the folder of its results, all runs made. Read-only."""
    folder = tmp_path_factory.mktemp("study")
    study = read_study(write_study(folder))
    place = Place(folder / "made")
    make_runs(study, place)
    return study, place
