"""What a source holds and what is wrong with it, against sources whose faults are known."""

import io
import tarfile

import cv2
import numpy as np
import pytest

from coreface.data import check_faces, open_faces, sample_sheet, survey_faces
from coreface.errors import InputError
from support.toy_images import encode, noise


def test_nothing_wrong(faces):
    found = check_faces(faces, least=1)
    assert found.good
    assert (found.images, found.identities, found.size) == (23, 5, "16 x 16")
    assert found.to_dict()["good"] is True


def test_everything_wrong(tmp_path, write_faces):
    write_faces(tmp_path, ["a/1.png", "a/2.png", "b/1.png", "b/2.png", "c/1.png", "d/1.png", "d/2.png"])
    (tmp_path / "a" / "3.png").write_bytes((tmp_path / "a" / "1.png").read_bytes())
    (tmp_path / "a" / "4.bmp").write_bytes(encode(noise("a/1.png"), ".bmp"))  # the same pixels in other bytes
    (tmp_path / "b" / "3.png").write_bytes((tmp_path / "a" / "2.png").read_bytes())
    (tmp_path / "d" / "3.png").write_bytes(b"junk")
    (tmp_path / "d" / "4.png").write_bytes(encode(noise("wide", 16, 20), ".png"))
    told = []
    found = check_faces(open_faces(tmp_path), progress=told.append)
    assert not found.good
    place = {name: str(tmp_path / name) for name in ("a/1.png", "a/2.png", "a/3.png", "a/4.bmp", "b/3.png", "d/4.png")}
    assert len(found.unreadable) == 1
    assert "d/3.png" in found.unreadable[0]
    assert found.duplicates_within == ((place["a/1.png"], place["a/3.png"], place["a/4.bmp"]),)
    assert found.duplicates_across == ((place["a/2.png"], place["b/3.png"]),)
    assert found.small == (("c", 1),)
    assert found.other_sizes == ((place["d/4.png"], "20 x 16"),)
    assert found.notices == ()  # a single image is what `small` is for
    assert check_faces(open_faces(tmp_path), least=4).small == (("b", 3), ("c", 1))
    with pytest.raises(InputError, match="least"):
        check_faces(open_faces(tmp_path), least=0)


def test_what_is_part_of_no_sample_is_wrong(tmp_path):
    image = encode(noise("x"), ".png")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name, content in (("1.png", image), ("1.cls", b"1"), ("2.cls", b"2")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    found = check_faces(open_faces(tmp_path), least=1)
    assert not found.good  # a face may have been lost
    (notice,) = found.notices
    assert notice.items == (f"{tmp_path / 'a.tar'}: 2.cls",)
    assert found.to_dict()["notices"][0] == {"message": notice.message, "items": notice.items, "loses": True}


def test_pixels_of_another_shape_are_no_duplicates(tmp_path):
    for name, shape in (("1", (2, 8, 3)), ("2", (8, 2, 3))):
        (tmp_path / "a").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / "a" / f"{name}.png"), np.full(shape, 9, np.uint8))
    assert check_faces(open_faces(tmp_path)).duplicates_within == ()


def test_a_long_source_tells_how_far_it_is(tmp_path):
    image = encode(noise("x"), ".png")
    (tmp_path / "a").mkdir()
    for number in range(150):
        (tmp_path / "a" / f"{number}.png").write_bytes(image)
    told = []
    found = check_faces(open_faces(tmp_path), progress=told.append)
    assert told == [64, 128]
    assert [len(group) for group in found.duplicates_within] == [150]


def test_survey(faces):
    survey = survey_faces(faces)
    assert (survey.images, survey.identities, survey.images_per_identity) == (23, 5, (1, 5.0, 8))
    assert survey.histogram == ((1, 1, 1), (2, 4, 1), (5, 8, 3))
    assert (survey.looked_at, survey.unreadable, survey.grey) == (23, 0, 0)
    assert survey.sizes == {"16 x 16": 23}
    assert survey.to_dict()["images"] == 23


def test_survey_of_oddities(tmp_path, write_faces):
    write_faces(tmp_path, [f"a/{i}.png" for i in range(3)])
    (tmp_path / "a" / "0.png").write_bytes(b"junk")
    cv2.imwrite(str(tmp_path / "a" / "1.png"), np.arange(48, dtype=np.uint8).reshape(6, 8))
    survey = survey_faces(open_faces(tmp_path))
    assert (survey.unreadable, survey.grey, survey.sizes) == (1, 1, {"8 x 6": 1, "16 x 16": 1})


@pytest.mark.parametrize("count", [1, 8, 9, 40])
def test_sample_sheet(tmp_path, count):
    (tmp_path / "a").mkdir()
    for number in range(count):
        cv2.imwrite(str(tmp_path / "a" / f"{number:02}.png"), np.full((112, 112, 3), number + 1, np.uint8))
    sheet = cv2.imdecode(np.frombuffer(sample_sheet(open_faces(tmp_path)), np.uint8), cv2.IMREAD_COLOR)
    shown = min(count, 32)
    assert sheet.shape == (112 * -(-shown // 8), 896, 3)
    tiles = [sheet[112 * (i // 8) + 50, 112 * (i % 8) + 50, 0] for i in range(shown)]
    assert tiles == [i + 1 for i in range(shown)]
