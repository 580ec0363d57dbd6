"""Names: what is refused, what is suggested, and what an import from the command line says."""

import sys

import pytest

import coreface as cf
from coreface.cli import main
from coreface.errors import InputError, ModelError
from coreface.registry import Registry, import_module


def one():
    pass


def other():
    pass


@pytest.fixture
def registry():
    made = Registry("colour", ModelError)
    made.add("red", one, "like blood")
    return made


def test_what_is_added_is_found_with_its_help(registry):
    registry.decorator("blue", "like the sky")(other)
    assert (registry["red"], registry["blue"]) == (one, other)
    assert registry.help() == {"red": "like blood", "blue": "like the sky"}
    assert list(registry) == ["red", "blue"]
    assert registry.module("red") == __name__
    assert not registry.is_own("red")


def test_an_unknown_name_suggests_the_nearest_or_lists_all(registry):
    with pytest.raises(ModelError, match=r"no colour 'rde': did you mean 'red'\?.*--import MODULE"):
        registry["rde"]
    with pytest.raises(ModelError, match="no colour 'xyz': expected one of red"):
        registry["xyz"]


def test_a_name_is_given_once_and_the_same_definition_may_come_again(registry):
    with pytest.raises(InputError, match="colour 'red' is already registered"):
        registry.add("red", other, "like wine")
    registry.add("red", one, "like wine")
    assert registry.help() == {"red": "like wine"}


@pytest.mark.parametrize("name", ["", "two words", "a/b", "-x", "a\n"])
def test_a_name_is_a_plain_word(registry, name):
    with pytest.raises(InputError, match="colour name is"):
        registry.add(name, one, "help")


@pytest.mark.parametrize("text", ["", "two\nlines"])
def test_help_is_one_line(registry, text):
    with pytest.raises(InputError, match="expected one line"):
        registry.add("blue", one, text)


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in ("of_the_stranger", "broken_one"):  # and nothing else: torch cannot be imported twice
        sys.modules.pop(name, None)


def test_a_module_of_the_current_folder_is_imported(place):
    (place / "of_the_stranger.py").write_text("import pathlib\npathlib.Path('ran').touch()\n")
    import_module("of_the_stranger")
    assert (place / "ran").exists()


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("nowhere_at_all", None, "no such module"),
        ("broken_one.py", "", "give broken_one, without .py"),
        ("broken_one", "import missing_thing", "imports missing_thing, which is not installed"),
        ("broken_one", "x = 1\nraise ValueError('oops')", r"ValueError: oops \(.*broken_one.py, line 2\)"),
        ("broken_one", "def f(:", "SyntaxError"),
        (
            "broken_one",
            "import coreface as cf\ncf.register_backbone('iresnet50', 'mine')(len)",
            "backbone 'iresnet50' is already registered",
        ),
    ],
)
def test_what_cannot_be_imported_says_why_in_one_line(place, capsys, name, content, said):
    if content is not None:
        (place / "broken_one.py").write_text(content)
    assert main(["backbones", "--import", name]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"coreface: --import {name}: ")
    assert message.count("\n") == 1
    with pytest.raises(InputError, match=said):
        import_module(name)


def test_what_is_registered_must_be_of_its_kind():
    with pytest.raises(InputError, match=r"expected a subclass of coreface\.Margin"):
        cf.register_margin("no_margin", "nothing")(len)

    class Scaleless(cf.Margin):
        def __init__(self):
            super().__init__(64.0)

    with pytest.raises(InputError, match="no parameter scale"):
        cf.register_margin("scaleless", "nothing")(Scaleless)

    class Silent(cf.data.FaceSource):
        pass

    with pytest.raises(InputError, match="no class method claims"):
        cf.data.register_faces("silent", "nothing")(Silent)
    with pytest.raises(InputError, match="expected a subclass of FaceSource"):
        cf.data.register_faces("no_reader", "nothing")(len)
    assert "no_margin" not in cf.margins()
    assert "scaleless" not in cf.margins()
