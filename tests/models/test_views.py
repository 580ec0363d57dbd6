"""Views: masks of their own, one trunk pass, and BatchNorm statistics that move as documented."""

import pytest
import torch
import torch.nn.functional as F

from coreface import FaceEncoder
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
