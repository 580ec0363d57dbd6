"""One word opens an encoder, and another says what runs it."""

import numpy as np
import pytest
import torch

import coreface as cf
from coreface.errors import InputError, ModelError
from coreface.images.preprocessing import Preprocessing
from coreface.models import onnx_export
from support.encoders import stir_weights


@pytest.fixture(scope="module")
def saved(toy_backbone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    stir_weights(cf.FaceEncoder(toy_backbone, 8, 16)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_saved_encoder_run_by_something_else_is_the_same(saved, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    exporter, made = onnx_export.onnx_model, []
    # The exporter takes seconds, and both runtimes may run what it made once.
    monkeypatch.setattr(
        onnx_export, "onnx_model", lambda encoder: made[0] if made else made.append(exporter(encoder)) or made[0]
    )
    images = np.random.default_rng(1).integers(0, 256, (5, 20, 16, 3), dtype=np.uint8)
    ours = cf.open_encoder(saved)
    assert ours.runtime == "torch"
    for runtime in ("onnxruntime", "opencv"):
        other = cf.open_encoder(saved, runtime=runtime, threads=1)
        assert (other.runtime, other.name) == (runtime, str(saved))
        assert (other.digest, other.preprocessing) == (ours.digest, ours.preprocessing)
        for flip in (True, False):
            np.testing.assert_allclose(other.embed(images, flip), ours.embed(images, flip), atol=1e-5)

    def moved(encoder):
        encoder.backbone.fc.bias.data[0] += 0.1
        return made[0]

    monkeypatch.setattr(onnx_export, "onnx_model", moved)
    with pytest.raises(ModelError, match=r"onnxruntime differs from torch by \d"):
        cf.open_encoder(saved, runtime="onnxruntime")


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("sface", {"runtime": "torch"}, "the runtime is torch, expected auto, onnxruntime or opencv for sface"),
        (None, {"runtime": "tensorrt"}, "runtime is 'tensorrt', expected auto, torch, onnxruntime, opencv"),
        (None, {"threads": 0}, "threads is 0, expected at least 1"),
        (None, {"preprocessing": Preprocessing(16)}, "only for an ONNX file that does not contain it"),
    ],
)
def test_what_does_not_go_together(saved, model, options, message):
    with pytest.raises(InputError, match=message):
        cf.open_encoder(model or saved, **options)


def test_threads_of_torch(saved):
    before = torch.get_num_threads()
    try:
        cf.open_encoder(saved, threads=before + 1)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
