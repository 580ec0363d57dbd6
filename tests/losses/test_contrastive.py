"""CoReFaceLoss against golden numbers, against plain loops, and at its edges."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import coreface as cf
from support import naive_losses as naive

PROTOCOLS = ("one_way", "two_way", "all", "half")
MASKS = ("exclude", "zero")
GOLDEN = np.load(Path(__file__).parent / "golden_contrastive.npz")
both = pytest.mark.parametrize("mask", MASKS)
every = pytest.mark.parametrize("protocol", PROTOCOLS)


def views(n=6, d=5, seed=0, dtype=torch.float64, noise=0.5):
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(n, d, generator=generator, dtype=torch.float64)
    made = [base + noise * torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2)]
    return [view.to(dtype).requires_grad_() for view in made]


def call(loss, one, other, identities):
    value = loss(one, other, torch.as_tensor(identities))
    return (value.detach(), *torch.autograd.grad(value, (one, other)))


@pytest.mark.parametrize("case", ["distinct_ids", "repeated_ids", "one_id", "pair", "float32"])
def test_golden(case):
    golden = {key: GOLDEN[f"{case}/{key}"] for key in ("view1", "view2", "labels", "loss", "grad_view1", "grad_view2")}
    tolerance = 1e-5 if case == "float32" else 1e-10
    loss = cf.CoReFaceLoss(mask="zero")
    for step, margin in enumerate(GOLDEN[f"{case}/margin"]):
        one, other = (torch.tensor(golden[name][step], requires_grad=True) for name in ("view1", "view2"))
        value, *gradients = call(loss, one, other, golden["labels"][step])
        assert value.dtype == one.dtype
        assert value.item() == pytest.approx(golden["loss"][step], abs=tolerance, rel=0)
        for gradient, name in zip(gradients, ("grad_view1", "grad_view2"), strict=True):
            np.testing.assert_allclose(gradient.numpy(), golden[name][step], rtol=0, atol=tolerance)
        assert loss.running_margin.item() == pytest.approx(margin, abs=tolerance, rel=0)
        assert loss.last.margin.item() == loss.running_margin.item()


@every
@both
@pytest.mark.parametrize("identities", [[0, 1, 2, 3, 4, 5], [0, 0, 1, 2, 1, 1], [7, 7, 7, 7, 7, 7], [3, 3, 3, 9, 9, 9]])
def test_plain_loops(protocol, mask, identities):
    loss = cf.CoReFaceLoss(scale=16.0, ema=0.7, mask=mask, protocol=protocol)
    margin = 0.0
    for step in range(3):
        one, other = views(seed=step)
        value, *gradients = call(loss, one, other, identities)
        expected, margin, positive, hardest, masked = naive.contrastive(
            one, other, identities, scale=16.0, margin_before=margin, ema=0.7, mask=mask, protocol=protocol
        )
        assert value.item() == pytest.approx(expected.item(), abs=1e-10)
        assert loss.running_margin.item() == pytest.approx(margin, abs=1e-12)
        assert loss.last.positive.item() == pytest.approx(positive, abs=1e-12)
        assert loss.last.hardest_negative.item() == pytest.approx(hardest, abs=1e-12, nan_ok=True)
        assert loss.last.masked.item() == masked
        if expected.item() != 0:
            wanted = torch.autograd.grad(expected, (one, other), allow_unused=True)
            for gradient, want in zip(gradients, wanted, strict=True):
                torch.testing.assert_close(
                    gradient, torch.zeros_like(gradient) if want is None else want, atol=1e-10, rtol=0
                )


@every
@both
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_plain_loops_on_random_batches(protocol, mask, data):
    n = data.draw(st.integers(1, 7))
    identities = data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n))
    one, other = views(n, 4, data.draw(st.integers(0, 10**6)))
    fixed = data.draw(st.sampled_from([None, 0.0, 0.3, -0.2]))
    loss = cf.CoReFaceLoss(scale=8.0, margin="adaptive" if fixed is None else fixed, mask=mask, protocol=protocol)
    expected, margin, *_ = naive.contrastive(
        one, other, identities, scale=8.0, margin_before=0.0, ema=0.99, mask=mask, protocol=protocol, fixed=fixed
    )
    assert loss(one, other, torch.tensor(identities)).item() == pytest.approx(expected.item(), abs=1e-9)
    assert loss.running_margin.item() == pytest.approx(0.0 if fixed is not None else margin, abs=1e-12)
    assert loss.last.margin.item() == pytest.approx(margin, abs=1e-12)


@st.composite
def tiny_batches(draw):
    """One to three images in two to four dimensions: cosines of -1, 0 and 1, and nothing that averages them out."""
    n, d = draw(st.integers(1, 3)), draw(st.integers(2, 4))
    vector = st.lists(st.integers(-3, 3), min_size=d, max_size=d).filter(any)
    one, other = (draw(st.lists(vector, min_size=n, max_size=n)) for _ in range(2))
    return one, other, draw(st.lists(st.integers(0, 2), min_size=n, max_size=n))


@every
@both
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-3)])
@settings(max_examples=25, deadline=None)
@given(batch=tiny_batches(), fixed=st.sampled_from([None, 0.3, 1.0, -0.5]))
@example(batch=([[1, 0]], [[0, 1]], [0]), fixed=0.3)
@example(batch=([[1, 0, 0], [-5, 1, 0]], [[20, 0, 0], [-7, -20, 0]], [0, 1]), fixed=None)
def test_plain_loops_on_tiny_batches(protocol, mask, dtype, tolerance, batch, fixed):
    one, other = (torch.tensor(view, dtype=dtype, requires_grad=True) for view in batch[:2])
    loss = cf.CoReFaceLoss(margin="adaptive" if fixed is None else fixed, mask=mask, protocol=protocol)
    value, *gradients = call(loss, one, other, batch[2])
    wide = [view.detach().double().requires_grad_() for view in (one, other)]
    expected, margin, _, hardest, _ = naive.contrastive(
        *wide, batch[2], scale=64.0, margin_before=0.0, ema=0.99, mask=mask, protocol=protocol, fixed=fixed
    )
    assert value.item() == pytest.approx(expected.item(), abs=tolerance)
    assert loss.last.margin.item() == pytest.approx(margin, abs=1e-6)
    assert loss.last.hardest_negative.item() == pytest.approx(hardest, abs=1e-6, nan_ok=True)
    wanted = torch.autograd.grad(expected, wide, allow_unused=True, materialize_grads=True)
    for gradient, want in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(gradient.double(), want, atol=tolerance, rtol=tolerance)


@every
@both
def test_gradient_is_that_of_the_value(protocol, mask):
    one, other = views(5, 4)
    identities = torch.tensor([0, 1, 1, 2, 0])
    loss = cf.CoReFaceLoss(scale=4.0, mask=mask, protocol=protocol).eval()
    loss.running_margin.fill_(0.25)
    assert torch.autograd.gradcheck(lambda a, b: loss(a, b, identities), (one, other), atol=1e-7)


@every
def test_the_margin_has_no_gradient_and_touches_the_positive_only(protocol):
    one, other = views()
    identities = torch.arange(6)
    adaptive = cf.CoReFaceLoss(protocol=protocol)
    value, *gradients = call(adaptive, one, other, identities)
    fixed = cf.CoReFaceLoss(protocol=protocol, margin=adaptive.running_margin.item())
    again, *same = call(fixed, one, other, identities)
    assert value.item() == pytest.approx(again.item(), abs=1e-12)
    for gradient, twin in zip(gradients, same, strict=True):
        torch.testing.assert_close(gradient, twin, atol=1e-12, rtol=0)


@every
def test_no_negatives_with_exclude_is_zero_with_gradients_of_zero(protocol):
    one, other = views()
    loss = cf.CoReFaceLoss(protocol=protocol)
    loss.running_margin.fill_(0.5)
    value, *gradients = call(loss, one, other, torch.zeros(6, dtype=torch.int64))
    assert value.item() == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients)
    assert loss.running_margin.item() == 0.5  # a batch without negatives leaves it
    assert math.isnan(loss.last.hardest_negative.item())


def test_no_negatives_with_zero_keeps_the_masked_zeros():
    one, other = views(8, 16)
    value, *gradients = call(cf.CoReFaceLoss(mask="zero"), one, other, torch.zeros(8, dtype=torch.int64))
    assert value.item() > 0
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


@every
@both
def test_a_single_image(protocol, mask):
    one, other = views(1)
    loss = cf.CoReFaceLoss(protocol=protocol, mask=mask)
    value, *gradients = call(loss, one, other, [4])
    assert value.item() == 0
    assert loss.running_margin.item() == 0
    assert all(gradient.isfinite().all() for gradient in gradients)


@both
@pytest.mark.parametrize("protocol", ["one_way", "two_way", "half"])
def test_same_identity_cosines_do_not_stay_in_the_softmax(protocol, mask):
    one, other = views()
    moved = other.detach().clone()
    moved[1] = one.detach()[0]  # image 1 becomes a perfect match of image 0
    loss = cf.CoReFaceLoss(margin=0.0, mask=mask, protocol=protocol)

    def gradient_of_image_0(candidates, identities):
        return torch.autograd.grad(loss(one, candidates, torch.tensor(identities)), one)[0][0]

    # View 1 of image 0 meets view 2 of image 1 in one softmax at most, and not at all where both show one person.
    masked = [0, 0, 1, 2, 3, 4]
    assert torch.equal(gradient_of_image_0(other, masked), gradient_of_image_0(moved, masked))
    strangers = [0, 5, 1, 2, 3, 4]
    before, after = gradient_of_image_0(other, strangers), gradient_of_image_0(moved, strangers)
    assert (after - before).norm() > 0.1 * before.norm()


def test_eval_mode_uses_the_margin_and_leaves_it():
    one, other = views()
    loss = cf.CoReFaceLoss().double()
    loss.running_margin.fill_(0.125)
    loss.eval()
    value = loss(one, other, torch.arange(6))
    assert loss.running_margin.item() == 0.125
    expected, *_ = naive.contrastive(
        one,
        other,
        range(6),
        scale=64.0,
        margin_before=0.125,
        ema=0.99,
        mask="exclude",
        protocol="one_way",
        training=False,
    )
    assert value.item() == pytest.approx(expected.item(), abs=1e-9)


def test_ema_is_the_weight_of_the_new_value():
    one, other = views()
    first = cf.CoReFaceLoss(ema=1.0)
    first(one, other, torch.arange(6))
    gap = first.running_margin.item()
    assert gap == pytest.approx((first.last.positive - first.last.hardest_negative).item(), abs=1e-12)
    for ema in (0.0, 0.25, 0.99):
        loss = cf.CoReFaceLoss(ema=ema)
        loss(one, other, torch.arange(6))
        assert loss.running_margin.item() == pytest.approx(ema * gap, abs=1e-12)


def test_the_running_margin_is_in_the_state_dict():
    one, other = views()
    loss = cf.CoReFaceLoss()
    loss(one, other, torch.arange(6))
    assert set(loss.state_dict()) == {"running_margin"}
    resumed = cf.CoReFaceLoss().double()
    resumed.load_state_dict(loss.state_dict())
    assert call(resumed, *views(seed=1), range(6))[0] == call(loss, *views(seed=1), range(6))[0]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_broken_batch_leaves_the_margin(bad):
    one, other = views()
    loss = cf.CoReFaceLoss()
    loss(one, other, torch.arange(6))
    before = loss.running_margin.item()
    broken = one.detach().clone()
    broken[2, 1] = bad
    assert not loss(broken, other, torch.arange(6)).isfinite()
    assert loss.running_margin.item() == before


@every
@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_zero_vectors_are_finite(protocol, mask, dtype):
    one, other = views(dtype=dtype)
    with torch.no_grad():
        one[0] = 0
        other[0] = 0
        other[3] = 0
    value, *gradients = call(cf.CoReFaceLoss(protocol=protocol, mask=mask), one, other, [0, 1, 2, 2, 3, 3])
    assert value.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert gradients[0][0].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    one, other = views(16, 32, dtype=dtype)
    value, gradient, _ = call(cf.CoReFaceLoss(), one, other, range(16))
    wide = [view.detach().float().requires_grad_() for view in (one, other)]
    expected, wanted, _ = call(cf.CoReFaceLoss(), *wide, range(16))
    assert value.dtype == torch.float32
    assert value == expected
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, wanted.to(dtype), atol=0, rtol=0)


def test_autocast_changes_nothing():
    one, other = views(16, 32, dtype=torch.float32)
    plain = call(cf.CoReFaceLoss(), one, other, range(16))
    with torch.autocast("cpu", torch.bfloat16):
        cast = call(cf.CoReFaceLoss(), one, other, range(16))
    for a, b in zip(plain, cast, strict=True):
        assert torch.equal(a, b)


def test_extreme_cosines_in_float32():
    # Positives at -1 and negatives at +1 put 128 nats between them: exp underflows, the loss must not.
    one = torch.eye(4, 8).requires_grad_()
    other = -torch.eye(4, 8)
    other[0], other[1] = torch.eye(8)[1], torch.eye(8)[0]
    other.requires_grad_()
    value, *gradients = call(cf.CoReFaceLoss(margin=0.0), one, other, range(4))
    expected, *_ = naive.contrastive(
        one.double(),
        other.double(),
        range(4),
        scale=64.0,
        margin_before=0,
        ema=1,
        mask="exclude",
        protocol="one_way",
        fixed=0.0,
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_tiny_loss_keeps_its_digits_in_float32():
    # 1 - p would be 0 in float32 here; the gradient must still be that of float64.
    one, other = views(4, 64, dtype=torch.float64, noise=0.05)
    value, gradient, _ = call(cf.CoReFaceLoss(margin=0.0, scale=24.0), one, other, range(4))
    assert 0 < value.item() < 1e-6
    narrow = [view.detach().float().requires_grad_() for view in (one, other)]
    approximate, rough, _ = call(cf.CoReFaceLoss(margin=0.0, scale=24.0), *narrow, range(4))
    assert approximate.item() == pytest.approx(value.item(), rel=1e-4)
    torch.testing.assert_close(rough.double(), gradient, rtol=1e-3, atol=float(gradient.abs().max()) * 1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(PROTOCOLS[:3]), st.sampled_from(MASKS))
def test_order_and_length_do_not_matter(seed, protocol, mask):
    one, other = views(6, 5, seed)
    identities = torch.tensor([0, 0, 1, 2, 3, 3])
    order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
    value, gradient, _ = call(cf.CoReFaceLoss(protocol=protocol, mask=mask), one, other, identities)
    shuffled = [(3.0 * view.detach()[order]).requires_grad_() for view in (one, other)]
    again, moved, _ = call(cf.CoReFaceLoss(protocol=protocol, mask=mask), *shuffled, identities[order])
    assert value.item() == pytest.approx(again.item(), rel=1e-10, abs=1e-12)
    assert value.item() >= 0
    torch.testing.assert_close(3.0 * moved, gradient[order], atol=1e-9, rtol=1e-9)
    radial = (gradient * one).sum(dim=1)
    torch.testing.assert_close(radial, torch.zeros_like(radial), atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "arguments",
    [{"scale": 0}, {"margin": "adaptve"}, {"ema": 1.5}, {"mask": "drop"}, {"protocol": "2N"}, {"scale": -1.0}],
)
def test_bad_arguments(arguments):
    with pytest.raises(cf.InputError, match=f"{next(iter(arguments))} is .* expected"):
        cf.CoReFaceLoss(**arguments)


@pytest.mark.parametrize(
    ("one", "other", "identities"),
    [
        (torch.zeros(4, 3), torch.zeros(4, 2), torch.arange(4)),
        (torch.zeros(4, 3), torch.zeros(5, 3), torch.arange(4)),
        (torch.zeros(4), torch.zeros(4), torch.arange(4)),
        (torch.zeros(0, 3), torch.zeros(0, 3), torch.arange(0)),
        (torch.zeros(4, 3), torch.zeros(4, 3), torch.arange(3)),
        (torch.zeros(4, 3), torch.zeros(4, 3), torch.arange(4.0)),
        (torch.zeros(4, 3), torch.zeros(4, 3).double(), torch.arange(4)),
        (torch.zeros(4, 3).long(), torch.zeros(4, 3).long(), torch.arange(4)),
    ],
)
def test_bad_batches(one, other, identities):
    with pytest.raises(cf.InputError, match="expected"):
        cf.CoReFaceLoss()(one, other, identities)
