"""`coreface evaluate`, `calibrate` and `compare` on the files that people really have."""

import json

import numpy as np
import pytest
import torch

import coreface as cf
from coreface.cli import main


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command in a folder of its own; return (exit code, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def call(*words):
        code = main([*map(str, words)])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.fixture
def sites(tmp_path, paint_faces):
    """Two sites, each with an anna, a bert and more: eight people."""
    for seed, site in enumerate(("site1", "site2")):
        paint_faces(tmp_path / "faces" / site, identities=4, images=3, size=16, seed=seed)
        (tmp_path / "faces" / site / "person00").rename(tmp_path / "faces" / site / "anna")
    return tmp_path / "faces"


def embedded(path, source, names=None):
    """Nearly equal vectors for the images of a person."""
    generator = np.random.default_rng(0)
    people = generator.normal(size=(source.num_identities, 16))
    rows = people[source.identities] + 0.01 * generator.normal(size=(len(source), 16))
    names = [source.relative_path(index) for index in range(len(source))] if names is None else names
    np.savez(path, embeddings=rows.astype(np.float32), names=np.array(names))


def test_two_sites_with_people_of_one_name(run, sites, tmp_path):
    """Was: equal error rate far from 0, because of equal names the last won."""
    embedded(tmp_path / "e.npz", cf.data.open_faces(sites))
    rows = ["path1,path2,same"]
    for site in ("site1", "site2"):
        rows += [f"{site}/anna/{n}.png,{site}/anna/{(n + 1) % 3}.png,1" for n in range(3)]
    rows += [f"site1/anna/{n}.png,site2/anna/{n}.png,0" for n in range(3)]
    (sites / "pairs.csv").write_text("\n".join(rows))
    code, out, err = run(
        "evaluate", "--embeddings", "e.npz", "--faces", sites, "--pairs", sites / "pairs.csv", "--json"
    )
    assert (code, err) == (0, "")
    assert [one["eer"]["eer"] for one in json.loads(out)["sets"]] == [0.0, 0.0]


def test_one_rule_for_who_somebody_is(run, sites, tmp_path):
    """The same labels for a folder and for a list of pairs, whichever part of the path they have."""
    embedded(tmp_path / "e.npz", cf.data.open_faces(sites))
    people = sorted(str(path.relative_to(sites)) for path in sites.glob("*/*"))
    (tmp_path / "groups.csv").write_text("identity,site\n" + "".join(f"{one},{one[:5]}\n" for one in people))
    rows = ["path1,path2,same"]
    for one, other in zip(people, [*people[1:], people[0]], strict=True):
        rows += [f"faces/{one}/{n}.png,faces/{one}/{(n + 1) % 3}.png,1" for n in range(3)]
        rows += [f"faces/{one}/{n}.png,faces/{other}/{n}.png,0" for n in range(3)]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    words = ("evaluate", "--embeddings", "e.npz", "--groups", "groups.csv", "--json", "--replicates", 0)
    for what in (("--faces", sites), ("--pairs", "pairs.csv")):
        code, out, err = run(*words, *what)
        assert (code, err) == (0, "")
        groups = json.loads(out)["sets"][0]["groups"]
        assert dict(zip(groups["names"], groups["identities"], strict=True)) == {"site1": 4, "site2": 4}
    (tmp_path / "groups.csv").write_text("identity,site\nanna,site1\n")
    for what in (("--faces", sites), ("--pairs", "pairs.csv")):
        code, _, err = run(*words, *what)
        assert code == 2
        assert "anna may be" in err
        assert "site2/anna" in err


def test_sessions_of_people(run, tmp_path, paint_faces):
    for seed, person in enumerate(("anna", "bert")):
        paint_faces(tmp_path / "s" / person, identities=2, images=2, size=16, seed=seed)
    embedded(tmp_path / "e.npz", cf.data.open_faces("s", identity_level=1))
    words = ("evaluate", "--embeddings", "e.npz", "--faces", "s", "--json", "--replicates", 0)
    assert json.loads(run(*words, "--identity-level", 1)[1])["sets"][0]["identities"] == 2
    assert json.loads(run(*words)[1])["sets"][0]["identities"] == 4
    code, _, err = run("evaluate", "--embeddings", "e.npz", "--identity-level", 1)
    assert (code, "--identity-level goes with --faces PATH" in err) == (2, True)


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    encoder = cf.FaceEncoder("mobilefacenet", 8, 16)
    encoder.save_pretrained(tmp_path / "saved")
    torch.save({f"module.{name}": value for name, value in encoder.backbone.state_dict().items()}, tmp_path / "w.pth")
    return tmp_path / "w.pth"


def test_a_file_of_weights(run, sites, weights):
    network = "mobilefacenet"
    code, _, err = run("evaluate", "w.pth", "--faces", sites)
    assert code == 2
    assert "w.pth is a weight file: give its network, for example --backbone iresnet50" in err
    named = run("evaluate", "w.pth", "--backbone", network, "--faces", sites, "--json", "--replicates", 0)
    saved = run("evaluate", "saved", "--faces", sites, "--json", "--replicates", 0)
    assert named[0] == 0, named[2]
    assert json.loads(named[1])["encoder"] == json.loads(saved[1])["encoder"]
    code, _, err = run("evaluate", "saved", "--backbone", network, "--faces", sites)
    assert (code, "--backbone" in err) == (2, True)
    assert run("compare", "saved", "w.pth", "--backbone", network, "--faces", sites, "--replicates", 10)[0] == 0
    code, _, err = run("calibrate", "w.pth", "--backbone", network, "--faces", sites)
    assert (code, "save it first" in err) == (2, True)
    code, _, err = run("calibrate", "w.pth", "--faces", sites)
    assert (code, "w.pth is not an encoder: expected a run folder" in err) == (2, True)


def test_calibrate_on_a_file_of_embeddings(run, sites, tmp_path):
    embedded(tmp_path / "e.npz", cf.data.open_faces(sites))
    code, _, err = run("calibrate", "e.npz", "--faces", sites)
    assert (code, "e.npz is a file of embeddings, expected an encoder" in err) == (2, True)


def test_calibrate_on_two_people_writes_nothing(run, weights, tmp_path, paint_faces):
    paint_faces(tmp_path / "two", identities=2, images=2, size=16)
    code, _, err = run("calibrate", "saved", "--faces", "two")
    assert code == 2
    assert "4 impostor pairs of 2 identities resolve no threshold, not even for an FMR of 0.1" in err
    assert not (tmp_path / "saved" / "calibration.json").exists()


def test_a_cache_that_cannot_be_written(run, sites, weights, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = run("evaluate", "saved", "--faces", sites, "--cache", "file", "--json", "--replicates", 0)
    assert code == 0
    assert json.loads(out)["sets"][0]["identities"] == 8
    assert "warning: embeddings are not kept, file/" in err


def test_notices_of_pairs_and_faces(run, sites, weights, tmp_path):
    rows = [f"site1/anna/{n}.png,site1/anna/{(n + 1) % 3}.png,1" for n in (0, 1, 2, 0)]
    rows += [f"site1/anna/{n}.png,site2/anna/{n}.png,0" for n in range(3)]
    (sites / "pairs.csv").write_text("\n".join(rows))
    code, _, err = run("evaluate", "saved", "--pairs", sites / "pairs.csv")
    assert code == 0
    assert f"coreface: note: {sites / 'pairs.csv'}: 1 pair" in err


def test_numbers_of_recordio_are_no_names_of_people(run, sites, weights, tmp_path):
    run("data", "convert", sites, "packed", "--to", "recordio")
    (tmp_path / "packed" / "identities.json").unlink()
    (tmp_path / "saved" / "identities.json").write_text(json.dumps([str(n) for n in range(8)]))
    assert "have the names" not in run("evaluate", "saved", "--faces", "packed", "--replicates", 0)[2]
    (tmp_path / "saved" / "identities.json").write_text(json.dumps(["site1/anna", "zoe"]))
    assert "1 of the 8 people" in run("evaluate", "saved", "--faces", sites, "--replicates", 0)[2]
