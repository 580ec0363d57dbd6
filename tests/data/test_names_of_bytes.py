"""Names of files that are no UTF-8: shown escaped, written so that the file can be found again, under every locale."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coreface.data import FolderSource
from coreface.errors import CoreFaceError
from coreface.files import escaped, unescaped
from coreface.runs.folder import open_recipe_faces
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe
from support.toy_images import encode, noise

LOCALES = [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"PYTHONIOENCODING": "cp1252:strict"},
    {"PYTHONIOENCODING": "utf-8:strict"},
]


@given(st.binary(max_size=40).map(os.fsdecode))
def test_escaped_names_are_one_line_of_utf8_and_come_back(name):
    line = escaped(name)
    assert "\n" not in line.encode("utf-8").decode("utf-8")
    assert unescaped(line) == name


@pytest.mark.parametrize(
    ("name", "line"),
    [
        (b"Jos\xe9/1.jpg", r"Jos\xe9/1.jpg"),
        ("José".encode(), "José"),
        (rb"a\xe9", r"a\\xe9"),
        (b"a\nb\r", r"a\x0ab\x0d"),
    ],
)
def test_how_names_are_escaped(name, line):
    assert escaped(os.fsdecode(name)) == line


@pytest.fixture
def faces(tmp_path):
    """Three people of four images, two with names in Latin-1, one in UTF-8; a stray file and a broken image."""
    root = os.fsencode(tmp_path / "faces")
    for name in (b"Jos\xe9", b"M\xfcller", "Zoë".encode()):
        Path(os.fsdecode(root + b"/" + name)).mkdir(parents=True)
        for image in range(4):
            Path(os.fsdecode(root + b"/" + name + b"/%d.png" % image)).write_bytes(
                encode(noise(f"{name}{image}"), ".png")
            )
    Path(os.fsdecode(root + b"/M\xfcller/9.jpg")).write_bytes(b"broken")
    Path(os.fsdecode(root + b"/Jos\xe9/notes\xe9.txt")).write_bytes(b"x")
    return tmp_path / "faces"


def test_names_are_the_same_under_every_locale(faces):
    program = "import sys, json, coreface; print(json.dumps(coreface.data.open_faces(sys.argv[1]).identity_names))"
    names = ["Jos\udce9", "M\udcfcller", "Zoë"]
    assert list(FolderSource(faces).identity_names) == names
    done = subprocess.run(
        [sys.executable, "-c", program, str(faces)], capture_output=True, check=True, env={**os.environ, **LOCALES[0]}
    )
    assert json.loads(done.stdout) == names


@pytest.mark.parametrize(
    "locale",
    [LOCALES[0], *(pytest.param(locale, marks=pytest.mark.slow) for locale in LOCALES[1:])],
    ids=["C", "cp1252", "strict UTF-8"],
)
def test_the_commands_show_them_escaped(faces, locale):
    def run(*words):
        return subprocess.run(
            [sys.executable, "-m", "coreface", "data", *words],
            capture_output=True,
            check=False,
            env={**os.environ, **locale},
        )

    checked = run("check", str(faces))
    assert (checked.returncode, checked.stderr) == (1, b"")
    assert rb"notes\udce9.txt" in checked.stdout
    (unreadable,) = json.loads(run("check", str(faces), "--json").stdout)["unreadable"]
    assert os.fsencode(unreadable).startswith(b"'" + os.fsencode(faces) + b"/M\xfcller/9.jpg': ")


def test_a_folder_that_no_recipe_can_name_is_refused_before_the_run_begins(faces, tmp_path):
    odd = faces.rename(Path(os.fsdecode(os.fsencode(tmp_path) + b"/Jos\xe9")))
    with pytest.raises(CoreFaceError, match=r"Jos\\xe9 is no UTF-8, .* make a symbolic link"):
        open_recipe_faces(Recipe(data=DataRecipe(train=str(odd))))
    (tmp_path / "link").symlink_to(odd)
    assert open_recipe_faces(Recipe(data=DataRecipe(train=str(tmp_path / "link"))))[0].num_identities == 3
