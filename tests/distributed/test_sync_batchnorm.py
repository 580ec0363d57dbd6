"""BatchNorm over two and four processes equals nn.BatchNorm of one process on the joined batch."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import coreface as cf
from coreface.distributed.sync_batchnorm import synchronise_batchnorm
from support import batchnorm_jobs as jobs
from support.gloo import split

PARTS = {2: [[7, 4], [11, 0], [1, 10]], 4: [[3, 0, 5, 3], [1, 1, 9, 0]]}
CASES = [(count, parts) for count in PARTS for parts in PARTS[count]]
SHAPES = [(11, 5), (11, 5, 3), (11, 5, 3, 2)]


def batches(shape, dtype, steps=2, mean=2.0, spread=1.5):
    generator = torch.Generator().manual_seed(sum(shape))
    made = torch.randn(steps, 2, *shape, generator=generator, dtype=torch.float64)
    made[:, 0] = made[:, 0] * spread + mean
    return [tuple(step) for step in made.to(dtype)]


def per_rank(parts, steps):
    cut = [[split(rows, parts) for rows in step] for step in steps]
    return [[tuple(rows[rank] for rows in step) for step in cut] for rank in range(len(parts))]


def compare(groups, parts, dtype, steps, arguments, tolerance, channels_last=False):
    spread = groups[len(parts)](
        jobs.normalise, [(arguments, dtype, own, channels_last) for own in per_rank(parts, steps)]
    )
    alone = jobs.normalise(arguments, dtype, steps, channels_last)

    def assert_close(one, other):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)

    for step, expected in enumerate(alone[0]):
        for kind in (0, 1):
            assert_close(torch.cat([results[step][kind] for results, _, _ in spread]), expected[kind])
    for index, gradient in enumerate(alone[1]):
        assert_close(sum(gradients[index] for _, gradients, _ in spread), gradient)
    for _, _, buffers in spread:
        assert buffers.keys() == alone[2].keys()
        for name, value in alone[2].items():
            assert_close(buffers[name], value)
            assert torch.equal(buffers[name], spread[0][2][name])  # the same bits everywhere


@pytest.mark.parametrize(("count", "parts"), CASES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_equals_one_process(groups, count, parts, shape, dtype, tolerance):
    compare(groups, parts, dtype, batches(shape, dtype), {"momentum": 0.3, "eps": 1e-3}, tolerance)


@pytest.mark.parametrize(
    "arguments", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}, {"momentum": 0.0}]
)
def test_settings_of_batchnorm(groups, arguments):
    compare(groups, PARTS[2][0], torch.float64, batches((11, 5, 3, 2), torch.float64, 3), arguments, 1e-9)


def test_channels_last_stays(groups):
    steps = batches((11, 5, 3, 2), torch.float64)
    compare(groups, PARTS[4][0], torch.float64, steps, {}, 1e-9, channels_last=True)


def test_half_precision_goes_in_and_out(groups):
    """The statistics are those of the bfloat16 values; only what comes out is rounded, to 8 bits."""
    steps = batches((11, 5, 3, 2), torch.bfloat16)
    parts = PARTS[2][0]
    spread = groups[2](jobs.normalise, [({}, torch.float32, own) for own in per_rank(parts, steps)])
    exact = jobs.normalise({}, torch.float64, [tuple(rows.double() for rows in step) for step in steps])
    for step, expected in enumerate(exact[0]):
        for kind in (0, 1):
            ours = torch.cat([results[step][kind] for results, _, _ in spread]).double()
            torch.testing.assert_close(ours, expected[kind], atol=2**-8, rtol=2**-8)
    for _, _, buffers in spread:
        for name in ("running_mean", "running_var"):
            torch.testing.assert_close(buffers[name].double(), exact[2][name], atol=1e-5, rtol=1e-5)


def test_a_large_mean_costs_no_digits_of_the_variance(groups):
    """With a mean of 1000 and a deviation of 0.1, E[x^2] - E[x]^2 has no digit left in float32."""
    steps = batches((11, 5, 3, 2), torch.float32, 1, mean=1000.0, spread=0.1)
    arguments = {"momentum": 1.0}
    spread = groups[4](jobs.normalise, [(arguments, torch.float32, own) for own in per_rank(PARTS[4][0], steps)])
    expected = steps[0][0].double().var((0, 2, 3))
    for _, _, buffers in spread:
        torch.testing.assert_close(buffers["running_var"].double(), expected, atol=0, rtol=1e-3)


def test_a_joint_batch_of_one_value_a_channel_is_refused_everywhere(groups):
    image = torch.ones(1, 5, 1, 1, dtype=torch.float64)
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        jobs.layer({}, 4, torch.float64)(image)
    for given in ([image, image[:0]], [image[:0], image], [image[:0], image[:0]]):
        for said in groups[2](jobs.refused, [(own,) for own in given]):
            assert said.startswith("Expected more than 1 value per channel when training")
    assert groups[2](jobs.refused, [(image,), (image + 1,)]) == [None, None]
    for said in groups[2](jobs.refused, [(image[..., None],)] * 2):
        assert said.startswith("expected 4D input")


def test_eval_mode_communicates_nothing(groups):
    assert groups[2](jobs.evaluate, [(torch.randn(3, 5, 2, 2, dtype=torch.float64),)] * 2) == [True, None]


def test_processes_in_groups_of_their_own(groups):
    images = [(torch.randn(3, 5, 2, 2, dtype=torch.float64),) for _ in range(4)]
    assert groups[4](jobs.alone_in_a_group, images) == [True] * 4


@pytest.mark.parametrize("optimizer_first", [True, False])
def test_an_optimizer_and_hooks_from_before_go_on(groups, optimizer_first):
    steps = [x for x, _ in batches((11, 5), torch.float64, 3)]
    cut = [split(x, PARTS[2][0]) for x in steps]
    spread = groups[2](jobs.train_by, [(optimizer_first, [parts[rank] for parts in cut]) for rank in range(2)])
    weight, bias, calls = jobs.train_by(True, steps)
    for ours in spread:
        torch.testing.assert_close(ours[0], weight, atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(ours[1], bias, atol=1e-9, rtol=1e-9)
        assert ours[2] == calls == 3


@pytest.mark.parametrize("count", PARTS)
@pytest.mark.parametrize(("backbone", "statistics"), [("mobilefacenet", "separate"), ("iresnet", "joint")])
def test_a_whole_encoder_with_views(groups, count, backbone, statistics):
    generator = torch.Generator().manual_seed(2)
    identities = torch.tensor([0, 1, 2, 2, 3, 0, 4, 4, 4, 0, 1])
    rows = torch.arange(11)
    steps = [
        (torch.rand(11, 3, 16, 16, generator=generator, dtype=torch.float64), identities, rows),
        (torch.rand(11, 3, 16, 16, generator=generator, dtype=torch.float64), identities.flip(0), rows),
    ]
    alone = jobs.train_encoder(backbone, statistics, steps)
    spread = groups[count](
        jobs.train_encoder, [(backbone, statistics, own) for own in per_rank(PARTS[count][0], steps)]
    )

    def assert_close(one, other):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)

    for losses, _, buffers in spread:
        assert_close(losses, alone[0])
        assert buffers.keys() == alone[2].keys()
        for name, value in alone[2].items():
            assert_close(buffers[name], value)
    assert len(alone[1]) > 20
    for name, gradient in alone[1].items():
        assert_close(sum(gradients[name] for _, gradients, _ in spread), gradient)


def test_one_process_does_what_it_did(encoder, batch):
    """Without a group: values to the last bit, names, objects, modes, frozen weights."""
    encoder.train()
    frozen = encoder.backbone.conv_sep.layers[1].eval()
    frozen.weight.requires_grad_(False)
    plain = copy.deepcopy(encoder)
    before = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
    synchronise_batchnorm(encoder)
    synchronise_batchnorm(encoder)  # a second time changes nothing more
    assert encoder.backbone.embedding_norm.__class__ is not nn.BatchNorm1d
    assert isinstance(encoder.backbone.embedding_norm, nn.BatchNorm1d)
    assert all(tensor is before[name] for name, tensor in encoder.named_parameters())
    assert all(tensor is before[name] for name, tensor in encoder.named_buffers())
    assert list(encoder.state_dict()) == list(plain.state_dict())
    assert not frozen.weight.requires_grad
    for ours, old in zip(encoder.modules(), plain.modules(), strict=True):
        assert ours.training == old.training
    for one, other in zip(encoder.views(batch, 2, 0.0), plain.views(batch, 2, 0.0), strict=True):
        assert torch.equal(one, other)
    for name, tensor in plain.state_dict().items():
        assert torch.equal(encoder.state_dict()[name], tensor)
    again = copy.deepcopy(encoder)
    assert again.backbone.embedding_norm.__class__ is encoder.backbone.embedding_norm.__class__


def test_saved_and_loaded_as_ever(encoder, batch, tmp_path):
    expected = encoder(batch)
    encoder.save_pretrained(tmp_path / "plain")
    synchronise_batchnorm(encoder)
    encoder.save_pretrained(tmp_path / "synchronised")
    plain, synchronised = (load_file(tmp_path / kind / "model.safetensors") for kind in ("plain", "synchronised"))
    assert plain.keys() == synchronised.keys()
    assert all(torch.equal(tensor, plain[name]) for name, tensor in synchronised.items())
    loaded = cf.FaceEncoder.from_pretrained(tmp_path / "synchronised")
    assert type(loaded.backbone.embedding_norm) is nn.BatchNorm1d
    assert torch.equal(loaded(batch), expected)


def test_other_layers_are_left_alone():
    class Own(nn.BatchNorm2d):
        pass

    module = nn.Sequential(nn.BatchNorm3d(2), Own(2), nn.LayerNorm(2), nn.Conv2d(1, 1, 1))
    before = [type(part) for part in module]
    synchronise_batchnorm(module)
    assert [type(part) for part in module] == before
