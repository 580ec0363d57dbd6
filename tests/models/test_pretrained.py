"""Saved encoders come back bit by bit, or not at all."""

import json
import shutil
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from coreface import FaceEncoder
from coreface.errors import ModelError
from coreface.images.alignment import Alignment
from coreface.images.preprocessing import Preprocessing
from coreface.models.pretrained import content_digest

FILES = ("config.json", "preprocess.json", "model.safetensors")


@pytest.fixture(scope="module")
def saved(tmp_path_factory, stir):
    """A folder that every test copies before it spoils it."""
    folder = tmp_path_factory.mktemp("saved") / "encoder"
    stir(FaceEncoder("mobilefacenet", 8, 16, dropout=0.25)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "copy")


def assert_equal(one, other):
    state, other_state = one.state_dict(), other.state_dict()
    assert list(state) == list(other_state)
    for name, tensor in state.items():
        assert tensor.dtype == other_state[name].dtype
        assert tensor.numpy().tobytes() == other_state[name].numpy().tobytes()


def edit_json(path, **changes):
    content = json.loads(path.read_text())
    content.update(changes)
    path.write_text(json.dumps({key: value for key, value in content.items() if value != "gone"}))


def flip_bit(path, at):
    with path.open("r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize(
    "arguments", [("mobilefacenet", 8, 16, 0.25), ("iresnet18", 12, 32, 0), ("iresnet18", 4, 16, 0.5)]
)
def test_round_trip(tmp_path, stir, arguments):
    encoder = stir(FaceEncoder(*arguments), seed=5).train()
    encoder.save_pretrained(str(tmp_path / "new" / "folder"))
    assert encoder.training
    loaded = FaceEncoder.from_pretrained(str(tmp_path / "new" / "folder"))
    assert not any(part.training for part in loaded.modules())
    assert (loaded.backbone_name, loaded.embedding_size, loaded.image_size, loaded.dropout) == arguments
    assert_equal(encoder, loaded)
    assert content_digest(encoder) == content_digest(loaded)
    frozen = [[name for name, p in e.named_parameters() if not p.requires_grad] for e in (encoder, loaded)]
    assert frozen[0] == frozen[1]
    photographs = np.random.default_rng(0).integers(0, 256, (2, 20, 20, 3), dtype=np.uint8)
    np.testing.assert_array_equal(encoder.embed(photographs), loaded.embed(photographs))


def test_odd_values_survive(tmp_path, encoder):
    """Bit by bit: negative zero, the smallest subnormal number, the largest finite one, and one that is not round."""
    odd = np.array([0x80000000, 1, 0x7F7FFFFF, 0x3DCCCCCD], np.uint32).view(np.float32)
    encoder.backbone.embedding_norm.bias.data[:4] = torch.from_numpy(odd)
    encoder.save_pretrained(tmp_path)
    assert_equal(encoder, FaceEncoder.from_pretrained(tmp_path))


def test_the_folder_holds_four_files(saved):
    assert sorted(path.name for path in saved.iterdir()) == sorted([*FILES, "README.md"])
    assert json.loads((saved / "preprocess.json").read_text()) == {
        "format": 2,
        "colour_order": "RGB",
        "mean": 127.5,
        "scale": 127.5,
        "image_size": 16,
        "alignment": {"template": "unknown", "border": "black"},
    }


def test_the_alignment_is_kept_and_decides_the_digest(folder):
    encoder = FaceEncoder.from_pretrained(folder)
    before = encoder.digest
    encoder.alignment = Alignment("arcface", "replicate")
    encoder.save_pretrained(folder)
    loaded = FaceEncoder.from_pretrained(folder)
    assert loaded.preprocessing == Preprocessing(16, alignment=Alignment("arcface", "replicate"))
    assert loaded.digest == encoder.digest != before


def test_a_folder_of_an_earlier_version_keeps_its_digest(folder):
    digest = FaceEncoder.from_pretrained(folder).digest
    older = {"colour_order": "RGB", "mean": 127.5, "scale": 127.5, "image_size": 16}
    (folder / "preprocess.json").write_text(json.dumps(older))
    loaded = FaceEncoder.from_pretrained(folder)
    assert not loaded.alignment.known
    assert loaded.digest == digest


def test_saving_again_replaces_all(folder, stir):
    other = stir(FaceEncoder("iresnet18", 4, 16, dropout=0.1), seed=8)
    (folder / "calibration.json").write_text("somebody else's")
    other.save_pretrained(folder)
    assert_equal(other, FaceEncoder.from_pretrained(folder))
    assert (folder / "calibration.json").read_text() == "somebody else's"
    assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_a_loaded_encoder_can_be_trained_and_saved_again(folder, batch):
    encoder = FaceEncoder.from_pretrained(folder).train()
    encoder.views(batch, 2)[0].sum().backward()
    torch.optim.SGD(encoder.parameters(), 0.1).step()
    encoder.save_pretrained(folder)
    assert_equal(encoder, FaceEncoder.from_pretrained(folder))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_than_float32_are_refused_before_anything_is_written(folder, encoder, dtype):
    before = {name: (folder / name).read_bytes() for name in FILES}
    with pytest.raises(ModelError, match=r"expected torch\.float32"):
        encoder.to(dtype).save_pretrained(folder)
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_a_file_in_the_place_of_the_folder(tmp_path, encoder):
    path = tmp_path / "file"
    path.write_text("precious")
    for place in (path, path / "below"):
        with pytest.raises(ModelError, match="file is in the way"):
            encoder.save_pretrained(place)
        with pytest.raises(ModelError, match="expected a folder"):
            FaceEncoder.from_pretrained(place)
    assert path.read_text() == "precious"


def test_a_missing_folder(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        FaceEncoder.from_pretrained(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", ["missing", "empty", "folder"])
def test_missing_and_empty_files(folder, name, kind):
    (folder / name).unlink()
    if kind == "empty":
        (folder / name).touch()
    elif kind == "folder":
        (folder / name).mkdir()
    with pytest.raises(ModelError, match=name):
        FaceEncoder.from_pretrained(folder)


def test_the_readme_is_not_needed(folder):
    (folder / "README.md").unlink()
    FaceEncoder.from_pretrained(folder)


@pytest.mark.parametrize("name", FILES)
def test_files_of_another_encoder_are_found_out(folder, tmp_path, stir, name):
    """Same shapes, other dropout, other weights: only the digest can tell."""
    stir(FaceEncoder("mobilefacenet", 8, 16, dropout=0.5), seed=9).save_pretrained(tmp_path / "other")
    same_bytes = (folder / name).read_bytes() == (tmp_path / "other" / name).read_bytes()
    assert same_bytes is (name == "preprocess.json")
    shutil.copy(tmp_path / "other" / name, folder / name)
    if same_bytes:
        FaceEncoder.from_pretrained(folder)
        return
    with pytest.raises(ModelError, match="digest"):
        FaceEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dropout": 0.5}, "digest"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dropout": float("nan")}, "dropout is nan"),
        ({"dropout": "0.25"}, "config.json"),
        ({"dropout": None}, "config.json"),
        ({"dropout": "gone"}, "expected"),
        ({"backbone": "iresnet18"}, "does not fit iresnet18"),
        ({"backbone": "resnet"}, "no backbone 'resnet'"),
        ({"backbone": ["mobilefacenet"]}, "config.json"),
        ({"backbone": 18}, "config.json"),
        ({"embedding_size": 16}, "expected"),
        ({"embedding_size": 0}, "embedding_size is 0"),
        ({"embedding_size": -8}, "embedding_size is -8"),
        ({"embedding_size": 8.0}, "config.json"),
        ({"embedding_size": "8"}, "config.json"),
        ({"embedding_size": 10**12}, "expected .1000000000000, 512"),
        ({"embedding_size": 10**30}, "config.json"),
        ({"image_size": 20}, "multiple of 16"),
        ({"image_size": 32}, "preprocess.json"),
        ({"image_size": 16 * 10**8}, "config.json"),
        ({"format": 2}, "format 1"),
        ({"format": None}, "format 1"),
        ({"format": "gone"}, "expected"),
        ({"trust_remote_code": True}, "trust_remote_code"),
    ],
)
def test_an_edited_config(folder, changes, message):
    edit_json(folder / "config.json", **changes)
    with pytest.raises(ModelError, match=message):
        FaceEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "changes",
    [
        *({"mean": 128}, {"scale": 1}, {"colour_order": "BGR"}, {"image_size": 32}, {"mean": "gone"}, {"more": 1}),
        *({"format": 3}, {"alignment": {"template": "dlib"}}, {"alignment": "arcface"}, {"alignment": {}}),
    ],
)
def test_edited_preprocessing(folder, changes):
    edit_json(folder / "preprocess.json", **changes)
    with pytest.raises(ModelError, match=r"preprocess\.json: has"):
        FaceEncoder.from_pretrained(folder)


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{", b"\xff\xfe{}", b"{}" * 2, b"[" * 100_000, b'{"format": ' + b"1" * 5000 + b"}"]
)
@pytest.mark.parametrize("name", FILES[:2])
def test_json_that_is_none(folder, name, content):
    (folder / name).write_bytes(content)
    with pytest.raises(ModelError, match=name):
        FaceEncoder.from_pretrained(folder)


def header_size(path):
    return 8 + struct.unpack("<Q", path.read_bytes()[:8])[0]


@pytest.mark.parametrize(
    "place", ["length", "length's top", "tensor name", "dtype", "shape", "offset", "digest", "first", "middle", "last"]
)
def test_a_single_flipped_bit(folder, place):
    path = folder / "model.safetensors"
    content, start = path.read_bytes(), header_size(path)
    at = {
        "length": 0,
        "length's top": 7,
        "tensor name": content.index(b"conv_sep"),
        "dtype": content.index(b'"F32"') + 2,
        "shape": content.index(b'"shape":[') + 9,
        "offset": content.index(b'"data_offsets":[') + 17,
        "digest": content.index(b'"coreface_digest":"') + 25,
        "first": start,
        "middle": (start + len(content)) // 2,
        "last": len(content) - 1,
    }[place]
    flip_bit(path, at)
    with pytest.raises(ModelError):
        FaceEncoder.from_pretrained(folder)
    flip_bit(path, at)
    FaceEncoder.from_pretrained(folder)  # it was that bit


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b[:4], lambda b: b + b"\0"])
def test_weights_cut_off_or_grown(folder, change):
    path = folder / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ModelError, match="damaged, or not safetensors"):
        FaceEncoder.from_pretrained(folder)


def rewrite(folder, change, keep_digest=True):
    """Edit the tensors of a saved encoder; the digest stays the one of before."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    digest = json.loads(content[8 : header_size(path)])["__metadata__"]["coreface_digest"]
    state = load_file(path)
    change(state)
    save_file(state, path, {"coreface_digest": digest} if keep_digest else None)


def test_rewriting_alone_is_harmless_and_the_digest_is_needed(folder):
    rewrite(folder, lambda state: None)
    FaceEncoder.from_pretrained(folder)
    rewrite(folder, lambda state: None, keep_digest=False)
    with pytest.raises(ModelError, match="digest"):
        FaceEncoder.from_pretrained(folder)


NORM = "features.layers.3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop(f"{NORM}.bias"), rf"1 weights missing, 0 unknown, such as {NORM}\.bias"),
        (lambda s: s.update(more=torch.zeros(1)), "0 weights missing, 1 unknown, such as more"),
        (lambda s: s.update({f"{NORM}.bias": torch.zeros(9)}), r"bias is \(9,\), expected \(8,\)"),
        (lambda s: s.update({f"{NORM}.bias": torch.zeros(8, dtype=torch.int32)}), r"bias is torch\.int32"),
        (lambda s: s.update({f"{NORM}.bias": s[f"{NORM}.bias"].half().float()}), "digest"),
        (lambda s: s.update({f"{NORM}.bias": -s[f"{NORM}.bias"]}), "digest"),
        (lambda s: s.update({f"{NORM}.num_batches_tracked": torch.tensor(4)}), "digest"),
        (lambda s: s.update({f"{NORM}.bias": s[f"{NORM}.weight"], f"{NORM}.weight": s[f"{NORM}.bias"]}), "digest"),
    ],
)
def test_edited_weights(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ModelError, match=message):
        FaceEncoder.from_pretrained(folder)


def test_the_digest_changes_with_every_weight(encoder):
    digests = {content_digest(encoder)}
    state = encoder.backbone.state_dict()
    names = [name for index, name in enumerate(state) if index % 9 == 0 or name.startswith(NORM)]
    for name in names:
        tensor = state[name].view(-1)
        before = tensor[-1].clone()
        tensor[-1] += 1
        digests.add(content_digest(encoder))
        tensor[-1] = before
    assert len(digests) == len(names) + 1
    assert content_digest(encoder) in digests


def test_the_digest_depends_on_the_content_and_nothing_else(encoder):
    digest = content_digest(encoder)
    assert len(digest) == 64
    assert content_digest(encoder.train()) == digest
    assert content_digest(encoder.to(memory_format=torch.channels_last)) == digest
    encoder.dropout = 0.41
    assert content_digest(encoder) != digest


def test_the_digest_tells_zero_from_minus_zero(encoder):
    bias = encoder.backbone.embedding_norm.bias.data
    digests = []
    for value in (0.0, -0.0):
        bias[0] = value
        digests.append(content_digest(encoder))
    assert digests[0] != digests[1]


def test_loading_draws_nothing_from_the_program_s_randomness(folder):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    FaceEncoder.from_pretrained(folder)
    assert torch.equal(torch.rand(3), expected)
