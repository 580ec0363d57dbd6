"""An exported encoder gives the embeddings of its source; a change of any byte of the file is found out."""

import copy
import json

import numpy as np
import pytest
import torch

import coreface as cf
from coreface.errors import InputError, MissingExtraError, ModelError
from coreface.models.onnx import OnnxEncoder
from coreface.models.onnx_export import onnx_model
from coreface.models.onnx_properties import DIGEST, checked_properties, with_properties
from coreface.models.onnx_quantize import quantized
from support.encoders import stir_weights

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
SIZE, NUMBERS = 16, 8


@pytest.fixture(scope="module")
def source(toy_backbone):
    """In training mode, on purpose: an export is of the encoder in use."""
    return stir_weights(cf.FaceEncoder(toy_backbone, NUMBERS, SIZE)).train()


@pytest.fixture(scope="module")
def exported(source):
    """Models by flip, each made once: the exporter takes seconds."""
    return [onnx_model(source, flip=flip) for flip in (False, True)]


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (5, SIZE, SIZE, 3), dtype=np.uint8)


def by_torch(source, images, flip):
    """The embeddings before the length is taken out, in float64 and one image at a time."""
    network = copy.deepcopy(source).double().eval()
    rows = []
    for image in images:
        total = torch.zeros(NUMBERS, dtype=torch.float64)
        for view in (image, image[:, ::-1]) if flip else (image,):
            pixels = torch.from_numpy(view.astype(np.float64) / 127.5 - 1).permute(2, 0, 1)
            with torch.inference_mode():
                total += network.backbone.after_linear(
                    network.backbone.embedding_linear(network.backbone.trunk(pixels[None]))
                )[0]
        rows.append(total.numpy())
    return np.array(rows)


def run(content, batch):
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return session.run(None, {"images": batch})


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("count", [1, 3, 5])
def test_pixels_in_and_unit_length_out(source, exported, images, flip, count):
    embeddings, norms = run(exported[flip], images[:count])
    expected = by_torch(source, images[:count], flip)
    lengths = np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(embeddings, expected / lengths, atol=1e-5)
    np.testing.assert_allclose(norms, lengths, rtol=1e-5)


@pytest.mark.slow
def test_the_bare_network(source, images):
    batch = (images.astype(np.float32) / 127.5 - 1).transpose(0, 3, 1, 2)
    (embeddings,) = run(onnx_model(source, raw=True), batch)
    np.testing.assert_allclose(embeddings, by_torch(source, images, False), rtol=1e-4, atol=1e-4)


def test_the_bare_network_has_no_mirror_image(source):
    with pytest.raises(InputError, match="exclude each other"):
        onnx_model(source, flip=True, raw=True)


def test_the_source_stays_as_it_was_and_the_file_holds_no_path(source, exported):
    assert source.training
    for content in exported:
        assert b".py" not in content


@pytest.mark.parametrize("runtime", ["onnxruntime", "opencv"])
@pytest.mark.parametrize("flip_inside", [0, 1])
def test_it_is_opened_as_any_encoder(source, exported, images, tmp_path, runtime, flip_inside):
    texts = {
        "coreface.preprocessing": json.dumps(source.preprocessing.to_dict()),
        "coreface.flip": "inside" if flip_inside else "outside",
        "coreface.output": "unit",
        DIGEST: "d" * 64,
    }
    path = tmp_path / "m.onnx"
    path.write_bytes(with_properties(exported[flip_inside], texts))
    encoder = OnnxEncoder(path, runtime=runtime)
    assert encoder.digest == "d" * 64
    # Without the norms the sum with the mirror image, and what is not of unit length, could not be right.
    for flip in (True,) if flip_inside else (True, False):
        expected = by_torch(source, images, flip)
        np.testing.assert_allclose(encoder.embed(images, flip, unit=False), expected, rtol=1e-4, atol=1e-4)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        np.testing.assert_allclose(encoder.embed(images, flip), expected, atol=1e-5)


def test_properties_are_read_by_the_onnx_package(exported):
    texts = {"a": "", "b": "ä\n" * 300, DIGEST: "d" * 64}
    content = with_properties(exported[0], texts)
    theirs = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert theirs.pop("coreface.checksum")
    assert theirs == texts
    assert {name: text for name, text in checked_properties(content).items() if name != "coreface.checksum"} == texts


def test_a_change_of_any_byte_is_found_out(exported):
    content = with_properties(exported[0], {DIGEST: "d" * 64})
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(content), 300).tolist():
        changed = bytearray(content)
        changed[place] ^= 1 << int(rng.integers(8))
        try:
            found = checked_properties(bytes(changed))
        except ModelError:
            continue
        # The flip was in the name of the checksum: it is another model, without a claim to the digest.
        assert DIGEST not in found
        assert content[place - 40 : place + 40].count(b"coreface.checksum") or place > len(content) - 100


def test_a_digest_without_a_checksum_counts_for_nothing(exported):
    model = onnx.load_from_string(exported[0])
    onnx.helper.set_model_props(model, {DIGEST: "d" * 64, "other": "kept"})
    assert checked_properties(model.SerializeToString()) == {"other": "kept"}


@pytest.mark.parametrize("kind", ["static", "float16", "dynamic"])
def test_quantised_models_stay_close(source, exported, images, kind):
    faces = np.random.default_rng(2).integers(0, 256, (40, SIZE, SIZE, 3), dtype=np.uint8)
    for flip in (0, 1):
        content = quantized(exported[flip], kind, faces)
        expected = by_torch(source, images, flip)
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        cosines = (run(content, images)[0] * expected).sum(axis=1)
        assert cosines.min() > (0.99999 if kind == "float16" else 0.99)
        assert np.abs(1 - cosines).max() > 0  # it is another model
    kinds = {node.op_type for node in onnx.load_from_string(content).graph.node}
    marks = {"static": "QuantizeLinear", "float16": "Cast", "dynamic": "DynamicQuantizeLinear"}
    assert marks[kind] in kinds


def test_half_weights_are_those_of_the_model_rounded():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(48, 48)).astype(np.float32)
    model = product(values)
    small = onnx.load_from_string(quantized(model.SerializeToString(), "float16"))
    (half,) = small.graph.initializer
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(half), values.astype(np.float16))
    batch = rng.normal(size=(2, 48)).astype(np.float32)
    np.testing.assert_allclose(run(small.SerializeToString(), batch)[0], batch @ values.astype(np.float16), rtol=1e-5)
    values[3, 5] = 70_000
    with pytest.raises(ModelError, match="w reaches 70000, outside the range of half precision"):
        quantized(product(values).SerializeToString(), "float16")


def product(values):
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        [helper.make_node("MatMul", ["images", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", len(values)])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", values.shape[1]])],
        [numpy_helper.from_array(values, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    return model


def test_what_cannot_be_quantised(exported):
    with pytest.raises(InputError, match="quantize is 'int4', expected static, float16, dynamic"):
        quantized(exported[0], "int4")
    with pytest.raises(InputError, match="measures its scales on faces"):
        quantized(exported[0], "static")


def test_a_backbone_that_onnx_has_no_word_for():
    class Odd(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, : int(x.sum() > 0) + 1]  # as many features as the pixels say

    with pytest.raises(ModelError, match="module:Odd cannot be exported to ONNX") as caught:
        onnx_model(cf.FaceEncoder(Odd(), 4, 16, features=1))
    assert "\n" not in str(caught.value)


def test_without_the_extra(source, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(MissingExtraError, match=r"not installed: onnxscript; pip install 'coreface\[export\]'"):
        onnx_model(source)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["iresnet18", "mobilefacenet", "mobilefacenet_large", "vit_t"])
def test_every_kind_of_backbone(backbone):
    size = 32
    encoder = stir_weights(cf.FaceEncoder(backbone, 16, size))
    images = np.random.default_rng(0).integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    embeddings, _ = run(onnx_model(encoder, flip=True), images)
    np.testing.assert_allclose(embeddings, encoder.embed(images), atol=2e-5)
