"""Crops that do not look like the alignment they are said to have are noticed."""

import cv2
import pytest

from coreface.cli import main
from coreface.data import open_faces
from coreface.data.crop_alignment import write_alignment
from coreface.images.alignment import Alignment
from coreface.recognition.align_folder import align_folder
from coreface.recognition.crop_check import check_crops
from coreface.recognition.detectors import open_detector


@pytest.fixture(scope="module")
def crops(photograph, tmp_path_factory):
    folder = tmp_path_factory.mktemp("crops")
    for person in range(6):
        (folder / "photos" / f"p{person}").mkdir(parents=True)
        (folder / "tight" / f"p{person}").mkdir(parents=True)
        for image in range(2):
            picture = photograph([(person, image, 60, 40, 160)], 320, 240)
            cv2.imwrite(str(folder / "photos" / f"p{person}" / f"{image}.png"), picture[..., ::-1])
            cv2.imwrite(str(folder / "tight" / f"p{person}" / f"{image}.png"), picture[70:190, 80:200, ::-1])
    align_folder(folder / "photos", folder / "aligned")
    return folder


def test_aligned_crops_pass_and_others_do_not(crops, toy_folder):
    detector = open_detector("yunet")
    good = check_crops(open_faces(crops / "aligned"), "arcface", detector)
    assert good.looked_at == good.found == 12
    assert good.distance < 5
    assert good.message is None
    other = check_crops(open_faces(crops / "tight"), "arcface", detector)
    assert other.distance > 6
    assert "aligned differently" in other.message
    none = check_crops(open_faces(toy_folder), "arcface", detector)
    assert none.distance is None
    assert "a face was found in only 0 of 36 crops" in none.message


def test_training_on_crops_that_are_no_such_crops_is_warned_about(toy_folder, toy_recipe, tmp_path, capsys):
    words = ["train", str(toy_recipe), "--run", str(tmp_path / "run"), "--optimizer.epochs", "1"]
    assert main([*words, "--data.alignment", "arcface"]) == 0
    assert "a face was found in only 0 of 36 crops" in capsys.readouterr().err


def test_who_measures_on_such_crops_is_warned(crops, capsys):
    write_alignment(crops / "tight", Alignment())
    for path, warned in (("aligned", False), ("tight", True)):
        main(["data", "check", str(crops / path)])
        assert ("aligned differently" in capsys.readouterr().err) is warned
        assert main(["evaluate", "sface", "--faces", str(crops / path), "--replicates", "0", "--no-cache"]) == 0
        assert ("aligned differently" in capsys.readouterr().err) is warned
