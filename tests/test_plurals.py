"""Numbers with their nouns."""

import pytest

from coreface.cli import main
from coreface.plurals import counted


@pytest.mark.parametrize(
    ("noun", "plural"),
    [
        ("image", "images"),
        ("identity", "identities"),
        ("search", "searches"),
        ("process", "processes"),
        ("person", "people"),
        ("impostor pair", "impostor pairs"),
    ],
)
def test_one_and_many(noun, plural):
    assert [counted(number, noun) for number in (0, 1, 2, 85_742)] == [
        f"0 {plural}",
        f"1 {noun}",
        f"2 {plural}",
        f"85742 {plural}",
    ]


def test_a_folder_of_one_image(paint_faces, tmp_path, capsys):
    paint_faces(tmp_path / "one", identities=1, images=1)
    assert main(["data", "info", str(tmp_path / "one")]) == 0
    assert "1 image of 1 identity\n" in capsys.readouterr().out
    assert main(["data", "check", str(tmp_path / "one"), "--least", "2"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("1 image of 1 identity, most of them")
    assert "1 identity with too few images:" in out
