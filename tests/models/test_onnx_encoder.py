"""Encoders in ONNX files: equal to what they were made from, whatever runs them; anything else refused in one line."""

import hashlib
import json
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import coreface as cf
from coreface.errors import InputError, ModelError
from coreface.images.alignment import Alignment
from coreface.images.preprocessing import Preprocessing
from coreface.models import known
from coreface.models.onnx import OnnxEncoder
from coreface.models.onnx_file import read_onnx, without_weights_as_inputs
from coreface.models.onnx_properties import DIGEST, FLIP, PREPROCESSING, with_properties

onnx = pytest.importorskip("onnx")
SIZE, NUMBERS = 16, 6
FOREIGN = Preprocessing(SIZE, "BGR", (104.0, 117.0, 123.0), 128.0, Alignment("arcface"))


def linear_model(weights, *, batch="n", domain="", wide=False, inputs_too=False):
    """flatten(pixels) @ weights, as somebody else might export it."""
    from onnx import TensorProto, helper, numpy_helper

    side = [batch, SIZE, SIZE, 3] if wide else [batch, 3, SIZE, SIZE]
    kind = TensorProto.UINT8 if wide else TensorProto.FLOAT
    nodes = [helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT)]
    nodes.append(helper.make_node("Flatten", ["float"], ["flat"], domain=domain))
    nodes.append(helper.make_node("MatMul", ["flat", "w"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", kind, side)]
    if inputs_too:
        inputs.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, list(weights.shape)))
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], producer_name="a test")
    model.ir_version = 9
    return model


@pytest.fixture
def weights():
    return np.random.default_rng(0).normal(size=(3 * SIZE * SIZE, NUMBERS)).astype(np.float32)


@pytest.fixture
def images():
    return list(np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8))


def save(model, path, preprocessing=FOREIGN):
    path.write_bytes(model.SerializeToString())
    if preprocessing:
        path.with_suffix(".json").write_text(json.dumps(preprocessing.to_dict()))
    return path


def by_hand(image, weights, flip, unit):
    total = np.zeros(NUMBERS)
    for view in (image, image[:, ::-1]) if flip else (image,):
        values = np.empty((3, SIZE, SIZE))
        for channel, (source, mean) in enumerate(zip((2, 1, 0), (104, 117, 123), strict=True)):
            values[channel] = (view[..., source].astype(float) - mean) / 128
        total += values.reshape(-1) @ weights.astype(float)
    return total / np.linalg.norm(total) if unit else total


@pytest.mark.parametrize("runtime", ["opencv", "onnxruntime"])
@pytest.mark.parametrize("batch", ["n", 2])
def test_a_foreign_model_is_fed_as_its_description_says(tmp_path, weights, images, runtime, batch):
    encoder = OnnxEncoder(save(linear_model(weights, batch=batch), tmp_path / "m.onnx"), runtime=runtime)
    assert (encoder.embedding_size, encoder.image_size, encoder.runtime) == (NUMBERS, SIZE, runtime)
    for flip, unit in ((True, True), (False, False)):
        expected = [by_hand(image, weights, flip, unit) for image in images]
        found = encoder.embed(images, flip=flip, unit=unit)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    one = encoder.embed(images[3])
    np.testing.assert_allclose(one[0], by_hand(images[3], weights, True, True), atol=1e-4)
    assert encoder.embed([]).shape == (0, NUMBERS)


def test_uint8_pixels_in_another_order(tmp_path, weights, images):
    """A model that takes pixels as OpenCV reads them."""
    path = save(linear_model(weights, wide=True), tmp_path / "m.onnx", Preprocessing(SIZE, "BGR"))
    expected = images[0][..., ::-1].reshape(-1).astype(float) @ weights
    found = OnnxEncoder(path).embed(images[0], flip=False, unit=False)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=0.5)


def test_the_digest_is_that_of_file_and_preprocessing(tmp_path, weights):
    path = save(linear_model(weights), tmp_path / "m.onnx")
    one, again = OnnxEncoder(path), cf.open_encoder(path)
    other = OnnxEncoder(path, preprocessing=Preprocessing(SIZE, "RGB"))
    assert one.digest == again.digest != other.digest
    assert one.file_digest == other.file_digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_export_of_ours_says_all_of_itself(tmp_path, weights, images):
    model = linear_model(weights, wide=True)
    own = Preprocessing(SIZE, alignment=Alignment("arcface", "replicate"))
    texts = {PREPROCESSING: json.dumps(own.to_dict()), FLIP: "inside", DIGEST: "d" * 64}
    path = tmp_path / "m.onnx"
    path.write_bytes(with_properties(model.SerializeToString(), texts))
    encoder = OnnxEncoder(path)
    assert (encoder.preprocessing, encoder.digest, encoder.flip_inside) == (own, "d" * 64, True)
    expected = images[0].reshape(-1).astype(float) @ weights  # flipped inside, if at all
    np.testing.assert_allclose(encoder.embed(images[0], unit=False)[0], expected, rtol=1e-4, atol=0.5)
    with pytest.raises(InputError, match="adds the mirrored image itself"):
        encoder.embed(images, flip=False)


@pytest.mark.slow
def test_torch_exported_by_others_habits(tmp_path, images):
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.PReLU(), torch.nn.Flatten(), torch.nn.Linear(196, NUMBERS)
    ).eval()
    path = tmp_path / "m.onnx"
    torch.onnx.export(network, (torch.zeros(2, 3, SIZE, SIZE),), path, dynamo=True, external_data=False, verbose=False)
    path.with_suffix(".json").write_text(json.dumps(FOREIGN.to_dict()))
    batch = torch.tensor(np.stack(images)[..., ::-1].copy()).permute(0, 3, 1, 2).float()
    batch = (batch - torch.tensor([104.0, 117, 123]).reshape(3, 1, 1)) / 128
    with torch.inference_mode():
        expected = network(batch).numpy()
    for runtime in ("opencv", "onnxruntime"):
        found = OnnxEncoder(path, runtime=runtime).embed(images, flip=False, unit=False)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_model_whose_weights_are_among_its_inputs(tmp_path, weights, images):
    model = linear_model(weights, inputs_too=True)
    content = model.SerializeToString()
    described = read_onnx(content)
    assert [str(tensor) for tensor in described.inputs] == ["x float32 (any, 3, 16, 16)"]
    cleaned = onnx.load_from_string(without_weights_as_inputs(content))
    assert [entry.name for entry in cleaned.graph.input] == ["x"]
    del model.graph.input[1]
    assert cleaned == model
    OnnxEncoder(save(linear_model(weights, inputs_too=True), tmp_path / "m.onnx"), runtime="onnxruntime")


def test_threads_share_an_encoder(tmp_path, weights, images):
    encoder = OnnxEncoder(save(linear_model(weights), tmp_path / "m.onnx"), runtime="opencv")
    expected = [encoder.embed(image)[0] for image in images]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda k: encoder.embed(images[k % 5])[0], range(200)))
    np.testing.assert_allclose(found, [expected[k % 5] for k in range(200)], atol=1e-6)


def test_sface_is_there_and_knows_how_it_is_fed():
    encoder = cf.open_encoder("sface")
    assert (encoder.embedding_size, encoder.image_size, encoder.runtime) == (128, 112, "opencv")
    assert encoder.preprocessing.alignment == Alignment("arcface", "black")
    assert encoder.file_digest == known.KNOWN["sface"].sha256
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    alone = encoder.embed([image], flip=False)
    np.testing.assert_allclose(alone, encoder.embed([image, image[::-1]], flip=False)[:1], atol=1e-5)
    with pytest.raises(ModelError, match="yunet is a detector"):
        cf.open_encoder("yunet")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda content: b"", "not an ONNX model"),
        (lambda content: b"hello, this is text", "not an ONNX model"),
        (lambda content: content[: len(content) // 2], "not an ONNX model"),
        (lambda content: content.replace(b"MatMul", b"MatMuh"), "failed"),
    ],
)
def test_a_damaged_file_is_one_line(tmp_path, weights, spoil, message):
    path = save(linear_model(weights), tmp_path / "m.onnx")
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(ModelError, match=message) as caught:
        OnnxEncoder(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda m: m.graph.node[1].MergeFromString(b""),
            "does not contain its preprocessing: give .* or write m.json",
        ),
        (lambda m: setattr(m.graph.node[1], "domain", "evil.ops"), r"custom operators \(evil.ops\)"),
        (lambda m: m.graph.input[0].type.tensor_type.shape.dim.pop(), "its input is x float32"),
        (lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", 8), "its input is x type 8"),
        (lambda m: m.graph.node[0].input.__setitem__(0, "w"), "its inputs are none"),
    ],
)
def test_a_model_that_is_no_encoder_is_refused_before_it_runs(tmp_path, weights, change, message):
    model = linear_model(weights)
    change(model)
    with pytest.raises(ModelError, match=message):
        OnnxEncoder(save(model, tmp_path / "m.onnx", None))


def test_weights_in_another_file_are_refused(tmp_path, weights):
    model = linear_model(weights)
    onnx.save_model(model, tmp_path / "m.onnx", save_as_external_data=True, location="w.data", size_threshold=0)
    with pytest.raises(ModelError, match=r"another file \(w.data\)"):
        OnnxEncoder(tmp_path / "m.onnx")


def test_a_model_of_another_size_than_described(tmp_path, weights):
    path = save(linear_model(weights), tmp_path / "m.onnx", Preprocessing(32))
    with pytest.raises(ModelError, match="not a face encoder"):
        OnnxEncoder(path)


def test_a_file_that_hangs_or_crashes_ends_its_child_alone(tmp_path, weights, monkeypatch):
    path = save(linear_model(weights), tmp_path / "m.onnx")
    shell = tmp_path / "python"
    for text, message in (("kill -SEGV $$", r"crashed \(signal 11\)"), ("exec sleep 60", "did not finish in")):
        shell.write_text(f"#!/bin/sh\n{text}\n")
        shell.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(shell))
        monkeypatch.setattr("coreface.models.onnx_runtime.PROBE_SECONDS", 1)
        with pytest.raises(ModelError, match=message):
            OnnxEncoder(path)


def test_open_encoder_takes_runs_and_folders(tmp_path, toy_backbone):
    encoder = cf.FaceEncoder(toy_backbone, 8, 16)
    encoder.save_pretrained(tmp_path / "run" / "encoder")
    for path in (tmp_path / "run", tmp_path / "run" / "encoder"):
        assert cf.open_encoder(path).digest == encoder.digest
    for path, message in ((tmp_path / "no", "does not exist"), (tmp_path, "contains no encoder")):
        with pytest.raises(ModelError, match=message):
            cf.open_encoder(path)
    with pytest.raises(ModelError, match="cannot be read"):
        cf.open_encoder(tmp_path / "no.onnx")


def test_it_is_measured_as_any_encoder(tmp_path, weights, paint_faces, capsys):
    from coreface.cli import main

    faces = paint_faces(tmp_path / "faces", identities=3, images=3, size=SIZE)
    path = save(linear_model(weights), tmp_path / "m.onnx")
    encoder = OnnxEncoder(path)
    assert main(["evaluate", str(path), "--faces", str(faces), "--json", "--replicates", "0"]) == 0
    out = json.loads(capsys.readouterr().out)
    assert out["encoder"] == encoder.digest
    rows = encoder.embed([image for image, _ in cf.data.open_faces(faces)])
    scores, same = rows @ rows.T, np.repeat(np.arange(3), 3)
    genuine = [scores[i, j] for i in range(9) for j in range(i) if same[i] == same[j]]
    impostor = [scores[i, j] for i in range(9) for j in range(i) if same[i] != same[j]]
    (found,) = out["sets"]
    assert (found["genuine"], found["impostor"]) == (len(genuine), len(impostor))
    threshold = found["eer"]["threshold"]
    assert found["eer"]["fnmr"] == pytest.approx(np.mean(np.array(genuine) < threshold))


def test_bit_flips_never_end_this_process(tmp_path, weights):
    """The reader of descriptions alone: what it lets pass, the child process meets."""
    content = bytearray(linear_model(weights[:, :1]).SerializeToString())
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(content)
        for place in rng.integers(0, len(content), 3):
            changed[place] ^= 1 << int(rng.integers(8))
        try:
            described = read_onnx(bytes(changed[: rng.integers(1, len(content) + 1)]))
        except ModelError:
            continue
        assert described.outputs is not None
