"""Views: masks of their own, one trunk pass, and BatchNorm statistics that move as documented."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from coreface import FaceEncoder, RowMasks
from coreface.errors import InputError

STATISTICS = ("separate", "joint")


@pytest.fixture
def see_through():
    """An encoder in training mode whose embeddings are the dropped-out features themselves, 512 of them."""
    encoder = FaceEncoder("mobilefacenet", 512, 16, dropout=0.4)
    with torch.no_grad():
        encoder.backbone.embedding_linear.weight.copy_(torch.eye(512))
    encoder.backbone.embedding_norm.eps = 0
    encoder.backbone.embedding_norm.eval()  # mean 0, variance 1: the identity
    return encoder


def norm_of(encoder):
    return encoder.backbone.embedding_norm


def test_each_view_has_a_mask_of_its_own(see_through):
    images = torch.randn(64, 3, 16, 16)
    features = see_through.backbone.trunk(images).detach()
    assert (features != 0).all()
    views = see_through.views(images, 3)
    assert len(views) == 3
    masks = [view != 0 for view in views]
    for view, mask in zip(views, masks, strict=True):
        torch.testing.assert_close(view[mask], (features / 0.6)[mask])
        assert mask.double().mean().item() == pytest.approx(0.6, abs=0.015)  # 32768 draws: five standard deviations
        # element by element: no feature and no image that is dropped as a whole
        assert mask.any(0).all()
        assert mask.any(1).all()
        assert not mask.all(0).any()
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (masks[a] & masks[b]).double().mean().item() == pytest.approx(0.36, abs=0.015)


def test_the_rate_of_the_call_goes_before_that_of_the_encoder(see_through):
    images = torch.randn(64, 3, 16, 16)
    for rate, kept in ((0.9, 0.1), (0.0, 1.0), (None, 0.6)):
        (view,) = see_through.views(images, 1, rate)
        assert (view != 0).double().mean().item() == pytest.approx(kept, abs=0.015)
    assert see_through.dropout == 0.4
    see_through.dropout = 0.8
    assert (see_through(images) != 0).double().mean().item() == pytest.approx(0.2, abs=0.015)


@pytest.mark.parametrize("statistics", STATISTICS)
def test_without_dropout_the_views_are_equal(encoder, batch, statistics):
    one, other = encoder.train().views(batch, 2, 0.0, statistics=statistics)
    torch.testing.assert_close(one, other)
    assert not torch.equal(*encoder.views(batch, 2, 0.5, statistics=statistics))


@pytest.mark.parametrize("statistics", STATISTICS)
def test_eval_mode_drops_nothing_and_moves_nothing(encoder, batch, statistics):
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    features = encoder.backbone.trunk(batch)
    expected = norm_of(encoder)(encoder.backbone.embedding_linear(features))
    for rate in (None, 0.9):
        views = encoder.views(batch, 3, rate, statistics=statistics)
        assert len(views) == 3
        assert all(torch.equal(view, expected) for view in views)
    assert torch.equal(encoder(batch), expected)
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.state_dict().items())


@pytest.mark.parametrize("statistics", STATISTICS)
def test_values_and_running_statistics_derived_again(encoder, batch, statistics):
    encoder = encoder.double().train()
    batch, norm, weight = batch.double(), norm_of(encoder), encoder.backbone.embedding_linear.weight
    mean, variance = norm.running_mean.clone(), norm.running_var.clone()
    seen = norm.num_batches_tracked.item()
    with torch.no_grad():
        features = encoder.backbone.trunk(batch)
        torch.manual_seed(7)
        dropped = [F.dropout(features, 0.3) for _ in range(2)]
        torch.manual_seed(7)
        views = encoder.views(batch, 2, 0.3, statistics=statistics)
    projected = [view @ weight.T for view in dropped]
    groups = projected if statistics == "separate" else [torch.cat(projected)]
    expected = []
    for group in groups:
        spread = group.var(0, unbiased=False)
        expected.append((group - group.mean(0)) / (spread + 1e-5).sqrt() * norm.weight + norm.bias)
        mean = 0.9 * mean + 0.1 * group.mean(0)
        variance = 0.9 * variance + 0.1 * group.var(0, unbiased=True)
    torch.testing.assert_close(torch.cat(views), torch.cat(expected).detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(norm.running_mean, mean.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(norm.running_var, variance.detach(), rtol=1e-9, atol=1e-9)
    assert norm.num_batches_tracked.item() - seen == {"separate": 2, "joint": 1}[statistics]


@pytest.mark.parametrize("statistics", STATISTICS)
@pytest.mark.parametrize("mode", [True, False])
def test_the_trunk_runs_once(encoder, batch, statistics, mode):
    runs = []
    encoder.backbone.conv_sep.register_forward_hook(lambda *_: runs.append(1))
    encoder.train(mode)
    tracked = encoder.backbone.conv_sep.layers[1].num_batches_tracked.item()
    encoder.views(batch, 3, statistics=statistics)
    assert len(runs) == 1
    assert encoder.backbone.conv_sep.layers[1].num_batches_tracked.item() - tracked == int(mode)


def test_every_view_sends_its_gradient_to_the_trunk(encoder, batch):
    encoder = encoder.double().train()
    first = next(encoder.parameters())

    def gradient(pick):
        torch.manual_seed(3)
        loss = sum(view.square().mul(torch.arange(8)).sum() for view in pick(encoder.views(batch.double(), 2, 0.5)))
        return torch.autograd.grad(loss, first)[0]

    one, other, both = gradient(lambda v: v[:1]), gradient(lambda v: v[1:]), gradient(lambda v: v)
    assert one.abs().max() > 0
    assert not torch.allclose(one, other)
    torch.testing.assert_close(one + other, both)


@pytest.mark.parametrize("training", [True, False])
def test_bfloat16_autocast_gives_float32_views(encoder, batch, training):
    encoder.train(training)
    with torch.autocast("cpu", torch.bfloat16):
        views = encoder.views(batch, 2, 0.0)
    assert [view.dtype for view in views] == [torch.float32] * 2
    # Rounded to bfloat16 after the norm, every value would have at most 8 significant bits.
    assert not torch.equal(views[0], views[0].bfloat16().float())
    assert F.cosine_similarity(views[0], encoder.views(batch, 1, 0.0)[0]).min() > 0.98


def test_float64_stays(encoder, batch):
    assert encoder.double()(batch.double()).dtype == torch.float64


@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (2, 16, 16, 3), (2, 1, 16, 16), (2, 3, 32, 32), (2, 3, 16, 32), (2, 3, 16, 16, 1)]
)
def test_batches_of_other_shapes(encoder, shape):
    with pytest.raises(InputError, match=r"expected floats \(batch, \*\(3, 16, 16\)\)"):
        encoder(torch.zeros(shape))


def test_arguments_out_of_range(encoder, batch):
    with pytest.raises(InputError, match="uint8"):
        encoder(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(InputError, match="views is 0"):
        encoder.views(batch, 0)
    with pytest.raises(InputError, match="statistics is 'both'"):
        encoder.views(batch, 2, statistics="both")
    for rate in (1, 1.0, -0.1, float("nan")):
        with pytest.raises(InputError, match="dropout is"):
            encoder.views(batch, 2, rate)
        with pytest.raises(InputError, match="dropout is"):
            FaceEncoder("mobilefacenet", 8, 16, dropout=rate)


def splitmix(state):
    """SplitMix64's output for a state, in whole numbers of Python."""
    word = (1 << 64) - 1
    z = state & word
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & word
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & word
    return z ^ (z >> 31)


def is_kept(seed, step, view, row, feature, rate):
    gamma = 0x9E3779B97F4A7C15
    key = splitmix(seed + gamma)
    for counter in (step, view, row):
        key = splitmix(key + counter + gamma)
    bits = splitmix(key + (feature // 2 + 1) * gamma) >> (32 * (feature % 2)) & 0xFFFFFFFF
    with_sign = bits - (1 << 32) if bits >= 1 << 31 else bits
    return with_sign + (1 << 31) >= math.floor(rate * (1 << 32))


def kept(seed, step, view, rows, size, rate):
    return RowMasks(seed, step, torch.as_tensor(rows)).dropped(torch.ones(len(rows), size), rate, view) != 0


@pytest.mark.parametrize("rate", [1e-9, 0.3, 0.5, 0.97, 1 - 1e-12])
@pytest.mark.parametrize("seed", [0, 7, -1, 2**63 + 5, 2**70 + 1])
def test_keyed_masks_derived_again_in_whole_numbers(seed, rate):
    rows = [0, 5, 10**9]
    for size in (1, 8, 9):
        for step, view in ((0, 0), (0, 1), (123_456_789_012, 1)):
            expected = [[is_kept(seed, step, view, row, feature, rate) for feature in range(size)] for row in rows]
            assert kept(seed, step, view, rows, size, rate).tolist() == expected


@given(st.data())
def test_keyed_masks_do_not_depend_on_the_split_nor_on_the_order(data):
    seed, step, view = (data.draw(st.integers(0, 2**62)) for _ in range(3))
    rows = data.draw(st.permutations(range(9)))
    size, rate = data.draw(st.integers(1, 12)), data.draw(st.floats(0.01, 0.99))
    together = kept(seed, step, view, range(9), size, rate)
    start, end = sorted(data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9))))
    parts = [kept(seed, step, view, part, size, rate) for part in (rows[:start], rows[start:end], rows[end:]) if part]
    assert torch.equal(torch.cat(parts), together[list(rows)])
    narrower = data.draw(st.integers(1, size))
    assert torch.equal(together[:, :narrower], kept(seed, step, view, range(9), narrower, rate))


def test_keyed_masks_have_the_rate_and_are_independent():
    count, size, rate = 400, 1501, 0.3
    draws = {
        (seed, step, view): kept(seed, step, view, range(count), size, rate).double()
        for seed in (0, 1)
        for step in (0, 1, 2)
        for view in (0, 1)
    }
    for mask in draws.values():
        spread = math.sqrt(rate * (1 - rate))
        for axis, drawn in ((0, count), (1, size)):
            assert (mask.mean(axis) - (1 - rate)).abs().max() < 5 * spread / math.sqrt(drawn)
            # The means of rows and columns scatter as those of independent bits do.
            assert mask.mean(axis).std().item() == pytest.approx(spread / math.sqrt(drawn), rel=0.2)
        centred = (mask - (1 - rate)) / spread
        for a, b in (
            (centred[1:], centred[:-1]),
            (centred[:, 1:], centred[:, :-1]),
            (centred[:, 2:], centred[:, :-2]),
            (centred[1:, 1:], centred[:-1, :-1]),
        ):
            assert abs((a * b).mean().item()) < 5 / math.sqrt(a.numel())
        between = centred @ centred.T / size
        assert between[~torch.eye(count, dtype=torch.bool)].abs().max() < 6 / math.sqrt(size)
    flat = torch.stack([mask.flatten() for mask in draws.values()]).sub(1 - rate).div(math.sqrt(rate * (1 - rate)))
    correlation = flat @ flat.T / (count * size)
    assert correlation[~torch.eye(len(flat), dtype=torch.bool)].abs().max() < 5 / math.sqrt(count * size)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [33, 64])
def test_keyed_masks_scale_as_dropout_does(dtype, size):
    features = torch.randn(40, size, dtype=torch.float64).to(dtype)
    features[features == 0] = 1
    for rate in (0.1, 0.4, 0.9):
        ours, torchs = RowMasks(1, 2, torch.arange(40)).dropped(features, rate, 0), F.dropout(features, rate)
        assert ours.dtype == dtype
        both = (ours != 0) & (torchs != 0)
        assert both.any()
        assert torch.equal(ours[both], torchs[both])


def test_the_gradient_of_keyed_masks_is_the_mask():
    features = torch.randn(8, 17, dtype=torch.float64, requires_grad=True)
    masks = RowMasks(3, 1, torch.arange(8))
    weight = torch.randn(8, 17, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((masks.dropped(features, 0.4, 1) * weight).sum(), features)
    torch.testing.assert_close(gradient, kept(3, 1, 1, range(8), 17, 0.4) * weight / 0.6, rtol=1e-12, atol=0)


def test_views_by_keyed_masks(see_through):
    images = torch.randn(12, 3, 16, 16)
    rows = torch.tensor([3, 1, 4, 15, 9, 2, 6, 5, 35, 8, 97, 93])
    features = see_through.backbone.trunk(images).detach()
    state = torch.get_rng_state()
    views = see_through.views(images, 3, masks=RowMasks(11, 20, rows))
    assert torch.equal(torch.get_rng_state(), state)
    for number, view in enumerate(views):
        torch.testing.assert_close(view, features * kept(11, 20, number, rows, 512, 0.4) / 0.6)
    for rate in (None, 0.2):
        again = see_through.views(images, 2, rate, masks=RowMasks(11, 20, rows))
        assert all(torch.equal(a, b) == (rate is None) for a, b in zip(again, views[:2], strict=True))
    (undropped,) = see_through.views(images, 1, 0.0, masks=RowMasks(11, 20, rows))
    torch.testing.assert_close(undropped, features)


def test_keyed_masks_under_autocast_and_in_eval_mode(encoder, batch):
    masks = RowMasks(0, 0, torch.arange(6))
    expected = encoder(batch)
    assert all(torch.equal(view, expected) for view in encoder.views(batch, 2, 0.5, masks=masks))
    with torch.autocast("cpu", torch.bfloat16):
        views = encoder.train().views(batch, 2, 0.5, masks=masks)
    assert [view.dtype for view in views] == [torch.float32] * 2
    assert not torch.equal(*views)


@pytest.mark.parametrize(
    "rows", [torch.arange(5), torch.arange(6)[None], torch.arange(6.0), torch.arange(6, dtype=torch.int32)]
)
def test_rows_that_do_not_fit_the_batch(encoder, batch, rows):
    with pytest.raises(InputError, match=r"masks.rows is torch.* expected torch.int64 \(6,\) on cpu"):
        encoder.train().views(batch, 2, masks=RowMasks(0, 0, rows))
