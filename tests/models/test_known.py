"""Known weights: found, checked, never taken for others."""

import json

import pytest

from coreface.cli import main
from coreface.errors import MissingExtraError, ModelError
from coreface.models import known
from coreface.models.known import KNOWN


def test_installed_weights_are_what_is_written_here():
    for name in ("sface", "yunet"):
        assert len(known.read(name)) == KNOWN[name].size


@pytest.mark.parametrize("name", KNOWN)
def test_a_wrong_file_is_refused(name, tmp_path, monkeypatch):
    monkeypatch.setenv(known.FOLDERS, f"{tmp_path / 'none'}:{tmp_path}")
    path = tmp_path / KNOWN[name].file
    for content in (b"", bytes(KNOWN[name].size)):
        path.write_bytes(content)
        assert known.locate(name) == path  # a folder comes before a package
        with pytest.raises(ModelError, match=f"{path} is not {name}"):
            known.read(name)


def test_what_is_not_there(monkeypatch, tmp_path):
    monkeypatch.delenv(known.FOLDERS, raising=False)
    with pytest.raises(ModelError, match=f"{known.FOLDERS} is not set"):
        known.read("centerface")
    with pytest.raises(ModelError, match="expected one of sface, yunet, centerface"):
        known.read("retinaface")

    def none(package):
        raise known.importlib.metadata.PackageNotFoundError(package)

    monkeypatch.setattr(known.importlib.metadata, "files", none)
    with pytest.raises(MissingExtraError, match=r"pip install 'coreface\[faces\]'"):
        known.read("sface")


def test_the_list_of_models(capsys, monkeypatch):
    monkeypatch.delenv(known.FOLDERS, raising=False)
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert "training data: not stated" in out
    assert "COREFACE_MODELS is not set" in out
    assert main(["models", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows.keys() == KNOWN.keys()
    assert rows["sface"]["preprocessing"]["alignment"] == {"template": "arcface", "border": "black"}
    assert rows["centerface"]["path"] is None
