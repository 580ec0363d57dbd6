"""The table of protocols, and one of somebody else's: on the command line, in JSON, on a page and in Python."""

import json
import re

import numpy as np
import pytest

import coreface as cf
from coreface.cli import main
from coreface.evaluation.protocols.open_set import OpenSetIdentification
from coreface.evaluation.protocols.pairs import Pairs
from coreface.evaluation.protocols.registry import (
    PROTOCOLS,
    RESERVED,
    ProtocolOption,
    protocol_options,
    protocols,
    register_protocol,
)
from coreface.evaluation.results import Result, TableResult


@pytest.fixture
def nearest():
    """A protocol of somebody else's: the share of images whose nearest other image shows the same person."""

    @register_protocol(
        "nearest", "FOLDER", "the nearest other image", options=(ProtocolOption("rank", "K", "up to rank K", int, 1),)
    )
    class Nearest(cf.EvaluationProtocol):
        def __init__(self, folder, *, rank=1):
            self.name, self.faces, self.rank = f"nearest:{folder}", cf.data.open_faces(folder), rank

        def evaluate(self, source, console=None):
            embedded = source.embed(self.faces, console)
            people = self.faces.identities[embedded.indices]
            scores = embedded.embeddings @ embedded.embeddings.T
            np.fill_diagonal(scores, -np.inf)
            near = people[np.argsort(-scores, axis=1)[:, : self.rank]] == people[:, None]
            return TableResult(
                name=self.name,
                statement="Every image and its nearest others.",
                provenance=source.provenance,
                columns=("found", "images", "missing"),
                rows={f"rank {self.rank}": (float(near.any(axis=1).mean()), len(people), None)},
            )

    yield Nearest
    PROTOCOLS.remove("nearest")


@pytest.fixture
def place(paint_faces, tmp_path, toy_backbone, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    paint_faces(tmp_path / "faces", identities=6, images=4, size=16)
    cf.FaceEncoder(toy_backbone, 8, 16).save_pretrained(tmp_path / "saved")
    return tmp_path


def test_the_names_of_the_table_and_what_they_are_built_of():
    assert [entry.name for entry in protocols()] == [
        *("pairs", "people", "open-set"),
        *("ijbb", "ijbc", "ijbb-1n", "ijbc-1n"),
    ]
    with pytest.raises(cf.DataError):  # each entry finds its class, which finds nothing there
        PROTOCOLS["pairs"].build("gone.bin")
    for entry in protocols():
        with pytest.raises(cf.DataError, match="gone"):
            entry.build("gone.bin")


def test_a_protocol_of_somebody_elses_on_the_command_line(nearest, place, capsys):
    assert main(["evaluate", "saved", "--protocol", "nearest:faces", "--rank", "2", "--report", "page.html"]) == 0
    shown = capsys.readouterr().out
    assert main(["evaluate", "saved", "--protocol", "nearest:faces", "--rank", "2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    result = cf.evaluate("saved", protocol=nearest("faces", rank=2))
    assert document["tables"] == [result.to_dict()]
    assert (document["sets"], document["identification"]) == ([], [])
    found, images, _ = result.rows["rank 2"]
    assert images == 24
    assert f"{found:.4g}" in shown
    page = (place / "page.html").read_text()
    for text in ("nearest:faces", "Every image and its nearest others.", f"<td>{found:.4g}</td>", "<td>-</td>"):
        assert text in page


def test_its_options_are_its_own(nearest, place, capsys):
    assert main(["evaluate", "saved", "--faces", "faces", "--rank", "2"]) == 2
    assert "--rank is an option of --protocol nearest:FOLDER" in capsys.readouterr().err
    assert main(["evaluate", "saved", "--protocol", "nearest:faces", "--rank", "0"]) == 2
    assert "--rank is 0, expected 1 or more" in capsys.readouterr().err
    assert main(["evaluate", "saved", "--protocol", "nearest:faces", "--seed", "1"]) == 2
    assert "--seed is an option of --protocol open-set:FOLDER" in capsys.readouterr().err


def test_names_and_options_that_are_taken(nearest):
    with pytest.raises(cf.InputError, match="protocol 'people' is already registered"):
        register_protocol("people", "FOLDER", "others")(OpenSetIdentification)
    with pytest.raises(cf.InputError, match="protocol name is 'a:b'"):
        register_protocol("a:b", "FOLDER", "others")(OpenSetIdentification)
    with pytest.raises(cf.InputError, match="--rank is another protocol's option"):
        register_protocol("other", "FOLDER", "others", options=(ProtocolOption("rank", "N", "another"),))
    assert "other" not in PROTOCOLS


@pytest.mark.parametrize("keyword", ["json", "model", "no_cache", "pairs"])
def test_an_option_cannot_have_the_name_of_one_of_the_command(keyword):
    with pytest.raises(cf.InputError, match="already has an option --" + keyword.replace("_", "-")):
        register_protocol("other", "FOLDER", "others", options=(ProtocolOption(keyword, "N", "another"),))
    with pytest.raises(cf.InputError, match="already has an option --" + keyword.replace("_", "-")):
        register_protocol("other", "FOLDER", "others", flag="--" + keyword.replace("_", "-"))
    assert "other" not in PROTOCOLS


def test_every_option_of_the_command_is_reserved_or_a_protocols(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    shown = {text.replace("-", "_") for text in re.findall(r"--([a-z][a-z-]+)", capsys.readouterr().out)}
    known = {option.keyword for option in protocol_options()}
    assert shown - known - {entry.flag[2:] for entry in protocols() if entry.flag} <= RESERVED


def test_a_result_of_another_class_is_refused_by_name(place, capsys):
    class Odd(cf.EvaluationProtocol):
        def __init__(self, folder):
            self.faces = cf.data.open_faces(folder)

        def evaluate(self, source, console=None):
            source.embed(self.faces, console)
            return OddResult(name="odd", statement="Odd.", provenance=source.provenance)

    class OddResult(Result):
        kind = "odd"

        def _numbers(self):
            return {"number": 1}

    register_protocol("odd", "FOLDER", "a result without a table")(Odd)
    try:
        assert main(["evaluate", "saved", "--protocol", "odd:faces"]) == 2
        assert "odd: the protocol returned a result of class OddResult, expected a T" in capsys.readouterr().err
        assert main(["evaluate", "saved", "--protocol", "odd:faces", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["odd"][0]["number"] == 1
        assert main(["evaluate", "saved", "--protocol", "odd:faces", "--json", "--report", "odd.html"]) == 2
        assert "OddResult" in capsys.readouterr().err
    finally:
        PROTOCOLS.remove("odd")


def test_the_command_and_the_function_give_the_same_results(place, capsys):
    rows = [f"person0{a}/{i}.png,person0{b}/{j}.png,{int(a == b)}" for a, i, b, j in np.ndindex(6, 1, 6, 2)]
    rows = [row for row in rows if row.split(",")[0] != row.split(",")[1]]
    (place / "pairs.csv").write_text("\n".join(["path1,path2,same", *rows]) + "\n")
    words = "evaluate saved --pairs pairs.csv:faces --faces faces --protocol open-set:faces --seed 3"
    assert main([*words.split(), "--replicates", "0", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    pairs = cf.evaluate("saved", protocol=Pairs("pairs.csv:faces", replicates=0))
    people = cf.evaluate("saved", "faces", replicates=0)
    searches = cf.evaluate("saved", protocol=OpenSetIdentification("faces", seed=3))
    assert document["sets"] == [pairs.to_dict(), people.to_dict()]
    assert document["identification"] == [searches.to_dict()]
    assert "eer" not in document  # of which set would it be?
    with pytest.raises(cf.InputError, match="cannot be combined with a protocol"):
        cf.evaluate("saved", "faces", protocol=Pairs("pairs.csv:faces"))


def test_two_results_of_one_name_are_numbered_on_the_page(place):
    words = "evaluate saved --faces faces --faces faces --replicates 0 --report page.html"
    assert main(words.split()) == 0
    page = (place / "page.html").read_text()
    assert "<h2>faces (1)</h2>" in page
    assert "<h2>faces (2)</h2>" in page
