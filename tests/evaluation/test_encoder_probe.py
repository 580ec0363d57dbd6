"""Faces tell of a foreign encoder whether red and blue are exchanged, and whether it has collapsed."""

import json

import cv2
import numpy as np
import pytest

import coreface as cf
from coreface.cli import main
from coreface.data.pairs.pair_set import PairSet
from coreface.evaluation.encoder_probe import probe_encoder
from coreface.images.preprocessing import Preprocessing
from coreface.models.onnx import OnnxEncoder
from support.foreign_onnx import SIZE, colour_sensitive

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    """People whose red pixels tell who they are and whose blue pixels are noise."""
    folder = tmp_path_factory.mktemp("people") / "faces"
    rng = np.random.default_rng(0)
    for person in range(12):
        own = rng.integers(0, 256, (SIZE, SIZE))
        (folder / f"p{person:02d}").mkdir(parents=True)
        for image in range(3):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3))  # BGR on disk
            pixels[..., 2] = np.clip(own + rng.normal(0, 60, own.shape), 0, 255)
            cv2.imwrite(str(folder / f"p{person:02d}" / f"{image}.png"), pixels.astype(np.uint8))
    return folder


def separation_by_hand(rows, identities):
    genuine, impostor = [], []
    for i in range(len(rows)):
        for j in range(i):
            cosine = float(rows[i] @ rows[j]) / float(np.linalg.norm(rows[i]) * np.linalg.norm(rows[j]))
            (genuine if identities[i] == identities[j] else impostor).append(cosine)
    return np.mean(impostor), (np.mean(genuine) - np.mean(impostor)) / np.std(impostor)


@pytest.mark.parametrize("trained_on", ["RGB", "BGR"])
@pytest.mark.parametrize("described", ["RGB", "BGR"])
def test_exchanged_colours_are_found_out(people, tmp_path, trained_on, described):
    path = colour_sensitive(tmp_path / "m.onnx", trained_on)
    encoder = OnnxEncoder(path, preprocessing=Preprocessing(SIZE, described))
    assert encoder.foreign
    faces = cf.data.open_faces(people)
    probe = probe_encoder(encoder, faces)
    assert (probe.images, probe.people, probe.colour_order) == (36, 12, described)
    images = [image for image, _ in faces]
    rows = encoder.embed(images, flip=False, unit=False).astype(np.float64)
    swapped = encoder.embed([image[..., ::-1] for image in images], flip=False, unit=False).astype(np.float64)
    stranger, separation = separation_by_hand(rows, faces.identities)
    assert probe.stranger_cosine == pytest.approx(stranger)
    assert probe.separation == pytest.approx(separation)
    assert probe.exchanged_separation == pytest.approx(separation_by_hand(swapped, faces.identities)[1])
    lengths = np.linalg.norm(rows, axis=1)
    assert probe.norms == pytest.approx((lengths.min(), lengths.max()))
    if trained_on == described:
        assert probe.warnings == []
    else:
        (warning,) = probe.warnings
        assert f"its preprocessing says {described}, and {trained_on} is probably right" in warning


def test_a_collapse_is_found_out(people, tmp_path):
    path = colour_sensitive(tmp_path / "m.onnx", "RGB", shift=3000.0)
    probe = probe_encoder(OnnxEncoder(path, preprocessing=Preprocessing(SIZE)), cf.data.open_faces(people))
    (warning,) = [text for text in probe.warnings if "mean or scale" in text]
    assert f"{probe.stranger_cosine:.3f}" in warning


def test_faces_that_cannot_tell(people, paint_faces, tmp_path):
    encoder = OnnxEncoder(colour_sensitive(tmp_path / "m.onnx", "RGB"), preprocessing=Preprocessing(SIZE))
    faces = cf.data.open_faces(people)
    one_person = probe_encoder(encoder, faces.select(np.arange(3)))
    assert (one_person.stranger_cosine, one_person.separation, one_person.exchange_evidence) == (None, None, None)
    strangers = probe_encoder(encoder, faces.select(np.arange(0, 36, 3)))
    assert strangers.stranger_cosine is not None
    assert strangers.separation is None
    grey = tmp_path / "grey"
    for source in sorted(people.rglob("*.png")):
        (grey / source.parent.name).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(grey / source.parent.name / source.name), cv2.imread(str(source), cv2.IMREAD_GRAYSCALE))
    colourless = probe_encoder(encoder, cf.data.open_faces(grey))
    assert colourless.exchange_evidence is None
    assert colourless.warnings == []
    for path in grey.rglob("*.png"):
        path.write_bytes(b"damaged")
    assert probe_encoder(encoder, cf.data.open_faces(grey)) is None


def test_pairs_tell_as_well(people, tmp_path):
    encoder = OnnxEncoder(colour_sensitive(tmp_path / "m.onnx", "BGR"), preprocessing=Preprocessing(SIZE))
    lines = ["path1,path2,same"]
    for person in range(12):
        lines += [f"p{person:02d}/{i}.png,p{person:02d}/{j}.png,1" for i, j in ((0, 1), (0, 2), (1, 2))]
        lines.append(f"p{person:02d}/0.png,p{(person + 1) % 12:02d}/1.png,0")
    (tmp_path / "pairs.csv").write_text("\n".join(lines))
    from coreface.evaluation.protocols.pairs import open_named_pairs

    pairs = open_named_pairs(f"{tmp_path / 'pairs.csv'}:{people}")
    assert isinstance(pairs, PairSet)
    probe = probe_encoder(encoder, pairs)
    assert (probe.images, probe.people) == (36, 12)
    assert len(probe.warnings) == 1


def test_evaluate_and_calibrate_say_it(people, tmp_path, capsys):
    path = colour_sensitive(tmp_path / "m.onnx", "BGR")
    assert main(["evaluate", str(path), "--faces", str(people)]) == 2
    assert "give a file with --preprocessing, or write m.json beside it" in capsys.readouterr().err
    said = tmp_path / "said.json"
    said.write_text(json.dumps(Preprocessing(SIZE, "RGB").to_dict()))
    options = ["--faces", str(people), "--preprocessing", str(said)]
    assert main(["evaluate", str(path), *options, "--replicates", "0", "--runtime", "auto", "--batch-size", "5"]) == 0
    error = capsys.readouterr().err
    assert "m.onnx is run by onnxruntime" in error
    assert "64 numbers, run by onnxruntime; on" in error
    assert "BGR is probably right" in error
    said.write_text(json.dumps(Preprocessing(SIZE, "BGR").to_dict()))
    assert main(["calibrate", str(path), *options, "--threads", "1"]) == 0
    shown = capsys.readouterr()
    assert "is probably right" not in shown.err
    assert f"calibration: {tmp_path / 'm.calibration.json'}" in shown.out
    assert main(["calibrate", str(path), "--show", "--preprocessing", str(said), "--json"]) == 0
    assert (
        json.loads(capsys.readouterr().out)["encoder"]
        == OnnxEncoder(path, preprocessing=Preprocessing(SIZE, "BGR")).digest
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read"),
        ("{", "the preprocessing cannot be read"),
        ('{"mean": 1}', "expected for example"),
        ("[]", "the preprocessing cannot be read"),
    ],
)
def test_a_bad_description_is_one_line(people, tmp_path, capsys, content, message):
    path = colour_sensitive(tmp_path / "m.onnx", "BGR")
    said = tmp_path / "said.json"
    if content is not None:
        said.write_text(content)
    assert main(["evaluate", str(path), "--faces", str(people), "--preprocessing", str(said)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "said.json" in error
    assert error.count("\n") == 1
