"""Margins and the classifier against golden numbers, against plain loops, and at their edges."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import coreface as cf
from coreface.losses.margins import Margin
from support import naive_losses as naive

GOLDEN = np.load(Path(__file__).parent / "golden_margins.npz")
MARGINS = {"arcface": cf.ArcFace, "cosface": cf.CosFace}


def classifier(margin, weight):
    made = cf.MarginClassifier(margin, weight.shape[1], weight.shape[0])
    made.weight = torch.nn.Parameter(torch.as_tensor(weight))
    return made


def random_case(seed, batch=5, identities=7, size=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(batch, size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(identities, size, generator=generator, dtype=torch.float64).to(dtype)
    return embeddings, weight, torch.randint(identities, (batch,), generator=generator)


@pytest.fixture(params=["plain", "lean", "chunks"], autouse=True)
def way(request, monkeypatch):
    """Every test runs on the plain way of few identities, and on the lean one of many, whole and in chunks."""
    if request.param != "plain":
        monkeypatch.setattr("coreface.losses.classifier.SMALL", 0)
    if request.param == "chunks":
        monkeypatch.setattr("coreface.losses.cosine_chunks.CHUNK", {"cpu": 16})
    return request.param


@pytest.mark.parametrize(("name", "tolerance"), [("arcface", 1e-10), ("cosface", 1e-6)])
def test_golden(name, tolerance):
    golden = {key.split("/")[1]: GOLDEN[key] for key in GOLDEN.files if key.startswith(name)}
    classify = classifier(MARGINS[name](), golden["weight"])
    embeddings = torch.tensor(golden["embeddings"], requires_grad=True)
    identities = torch.tensor(golden["labels"]).long()
    np.testing.assert_allclose(
        classify.logits(embeddings, identities).detach().numpy(), golden["logits"], rtol=0, atol=tolerance
    )
    loss = classify(embeddings, identities)
    loss.backward()
    assert loss.item() == pytest.approx(golden["loss"], abs=tolerance, rel=0)
    np.testing.assert_allclose(embeddings.grad.numpy(), golden["grad_embeddings"], rtol=0, atol=tolerance)
    np.testing.assert_allclose(classify.weight.grad.numpy(), golden["grad_weight"], rtol=0, atol=tolerance)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.sampled_from(["arcface", "cosface"]), st.sampled_from([0.0, 0.35, 0.5, 1.2]))
def test_plain_loops(seed, name, margin):
    embeddings, weight, identities = random_case(seed)
    classify = classifier(MARGINS[name](16.0, margin), weight)
    expected = naive.margin_logits(embeddings, classify.weight, identities, name=name, scale=16.0, margin=margin)
    torch.testing.assert_close(classify.logits(embeddings, identities), expected, atol=1e-9, rtol=0)
    loss, wanted = classify(embeddings, identities), naive.cross_entropy(expected, identities)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-10)
    ours = torch.autograd.grad(loss, (embeddings, classify.weight))
    theirs = torch.autograd.grad(wanted, (embeddings, classify.weight))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


@pytest.mark.parametrize("margin", [0.0, 0.5, 2.0])
def test_arcface_falls_all_the_way(margin):
    cosines = torch.linspace(1, -1, 4001, dtype=torch.float64, requires_grad=True)
    target = cf.ArcFace(64.0, margin).target(cosines, torch.ones_like(cosines))
    slope = torch.autograd.grad(target.sum(), cosines)[0]
    assert (target.diff() < 0).all()
    assert slope.isfinite().all()
    assert (slope > 0).all()
    within = torch.arccos(cosines) + margin <= math.pi
    expected = torch.where(within, torch.cos(torch.arccos(cosines) + margin), cosines - margin * math.sin(margin))
    torch.testing.assert_close(target, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_arcface_at_exactly_plus_and_minus_one(dtype, sign):
    weight = torch.eye(3, dtype=dtype)
    embeddings = (sign * weight.clone()).requires_grad_()
    classify = classifier(cf.ArcFace(), weight)
    loss = classify(embeddings, torch.arange(3))
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()
    assert classify.weight.grad.isfinite().all()
    value = cf.ArcFace().target(torch.tensor([sign], dtype=dtype), torch.ones(1))
    expected = math.cos(0.5) if sign > 0 else -1 - 0.5 * math.sin(0.5)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_the_slope_at_one_is_that_of_the_bound():
    cosine = torch.tensor([1.0], dtype=torch.float64, requires_grad=True)
    cf.ArcFace(64, 0.5).target(cosine, torch.ones(1)).backward()
    theta = math.acos(1 - 1e-7)
    assert cosine.grad.item() == pytest.approx(math.sin(theta + 0.5) / math.sin(theta), rel=1e-6)


def test_zero_vectors_are_finite_and_get_no_gradient():
    embeddings, weight, identities = random_case(0, dtype=torch.float32)
    with torch.no_grad():
        embeddings[1] = 0
        weight[identities[0]] = 0
    classify = classifier(cf.ArcFace(), weight)
    loss = classify(embeddings, identities)
    loss.backward()
    assert loss.isfinite()
    assert embeddings.grad.isfinite().all()
    assert embeddings.grad[1].abs().sum() == 0
    assert classify.weight.grad[identities[0]].abs().sum() == 0


def test_bf16_embeddings_are_computed_in_float32(way):
    embeddings, weight, identities = random_case(3, dtype=torch.bfloat16)
    classify = classifier(cf.ArcFace(), weight.float())
    with torch.autocast("cpu", torch.bfloat16):
        logits = classify.logits(embeddings, identities)
    assert logits.dtype == torch.float32
    assert torch.equal(logits, classify.logits(embeddings.float(), identities))
    assert torch.equal(classify(embeddings, identities), classify(embeddings.float(), identities))


def test_autocast_rounds_products_but_no_target(way):
    embeddings, weight, identities = random_case(4, 16, 40, 64, torch.float32)
    classify = classifier(cf.ArcFace(8.0), weight)
    loss = classify(embeddings, identities)
    exact = torch.autograd.grad(loss, (embeddings, classify.weight))
    with torch.autocast("cpu", torch.bfloat16):
        rounded = classify(embeddings, identities)
        gradients = torch.autograd.grad(rounded, (embeddings, classify.weight))
    assert rounded.dtype == torch.float32
    assert rounded.item() == pytest.approx(loss.item(), rel=2e-3)
    assert torch.equal(rounded, loss) == (way == "plain")
    for one, other in zip(gradients, exact, strict=True):
        assert one.dtype == torch.float32
        assert (one - other).norm() <= 0.01 * other.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [cf.ArcFace, cf.CosFace, cf.CurricularFace, cf.MagFace, cf.AdaFace])
@pytest.mark.parametrize("identities", [1, 48])
def test_gradients_under_autocast_are_finite_and_near(make, dtype, identities):
    embeddings, weight, targets = random_case(13, 16, identities, 32, torch.float32)
    exact, rounded = classifier(make(), weight), classifier(make(), weight)
    loss = exact(embeddings, targets)
    wanted = torch.autograd.grad(loss, (embeddings, exact.weight))
    with torch.autocast("cpu", dtype):
        value = rounded(embeddings, targets)
    gradients = torch.autograd.grad(value, (embeddings, rounded.weight))
    assert value.item() == pytest.approx(loss.item(), rel=0.01)
    for one, other in zip(gradients, wanted, strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() <= 0.05 * other.norm()


def test_backward_under_autocast_is_backward(way):
    if way == "plain":
        pytest.skip("the plain way's backward is autograd's own")
    embeddings, weight, identities = random_case(14, 16, 40, 64, torch.float32)
    classify = classifier(cf.ArcFace(8.0), weight)
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = classify(embeddings, identities)
        outside = torch.autograd.grad(loss, (embeddings, classify.weight), retain_graph=True)
        with torch.autocast("cpu", torch.bfloat16):
            inside = torch.autograd.grad(loss, (embeddings, classify.weight))
        for one, other in zip(inside, outside, strict=True):
            assert torch.equal(one, other)


def test_autocast_leaves_float64_alone():
    embeddings, weight, identities = random_case(15, 16, 40, 64)
    classify = classifier(cf.ArcFace(8.0), weight)
    exact = classify(embeddings, identities)
    with torch.autocast("cpu", torch.bfloat16):
        cast = classify(embeddings, identities)
    inputs = (embeddings, classify.weight)
    for one, other in zip(
        (cast, *torch.autograd.grad(cast, inputs)), (exact, *torch.autograd.grad(exact, inputs)), strict=True
    ):
        assert one.dtype == torch.float64
        assert torch.equal(one, other)


def test_float32_is_as_near_to_float64_as_the_plain_formula():
    embeddings, weight, identities = random_case(8, 32, 400, 64, torch.float32)
    classify = classifier(cf.ArcFace(), weight)
    wide = classifier(cf.ArcFace(), weight.double())
    far = embeddings.detach().double().requires_grad_()
    want = torch.autograd.grad(F.cross_entropy(wide.logits(far, identities), identities), (far, wide.weight))
    plain = F.cross_entropy(classify.logits(embeddings, identities), identities)
    plain = torch.autograd.grad(plain, (embeddings, classify.weight))
    lean = torch.autograd.grad(classify(embeddings, identities), (embeddings, classify.weight))
    for ours, theirs, exact in zip(lean, plain, want, strict=True):
        assert (ours - exact).norm() <= max(1.5 * (theirs - exact).norm(), 1e-6 * exact.norm())


def test_a_tiny_loss_keeps_its_digits_in_float32(way):
    if way == "plain":
        pytest.skip("the plain way subtracts from log-sum-exp")
    weight = torch.eye(4, 64)
    embeddings = (weight + 0.01).requires_grad_()
    losses = []
    for dtype in (torch.float32, torch.float64):
        classify = classifier(cf.CosFace(24.0, 0.1), weight.to(dtype))
        made = classify(embeddings.to(dtype), torch.arange(4))
        losses.append((made.item(), torch.autograd.grad(made, embeddings)[0]))
    assert 0 < losses[1][0] < 1e-7
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
    torch.testing.assert_close(losses[0][1], losses[1][1], rtol=1e-3, atol=1e-12)


def test_two_views_in_one_call_are_the_mean_of_two_calls():
    one, weight, identities = random_case(9)
    other = random_case(10)[0]
    classify = classifier(cf.ArcFace(16.0), weight)
    together = classify(torch.cat([one, other]), identities.repeat(2))
    apart = (classify(one, identities) + classify(other, identities)) / 2
    assert together.item() == pytest.approx(apart.item(), abs=1e-12)
    for a, b in zip(
        *(torch.autograd.grad(loss, (one, other, classify.weight)) for loss in (together, apart)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


def test_backward_twice_and_a_loss_that_is_scaled():
    embeddings, weight, identities = random_case(11)
    classify = classifier(cf.ArcFace(16.0), weight)
    loss = classify(embeddings, identities)
    first = torch.autograd.grad(loss, (embeddings, classify.weight), retain_graph=True)
    second = torch.autograd.grad(3 * loss, (embeddings, classify.weight))
    for a, b in zip(first, second, strict=True):
        torch.testing.assert_close(3 * a, b)


def test_the_margin_touches_the_targets_only():
    embeddings, weight, identities = random_case(1)
    plain = classifier(cf.CosFace(64, 0.0), weight).logits(embeddings, identities)
    moved = classifier(cf.CosFace(64, 0.2), weight).logits(embeddings, identities)
    difference = plain - moved
    expected = torch.zeros_like(difference).scatter_(1, identities.unsqueeze(1), 64 * 0.2)
    torch.testing.assert_close(difference, expected, atol=1e-10, rtol=0)


def test_one_identity():
    classify = cf.MarginClassifier(cf.ArcFace(), 4, 1)
    embeddings = torch.randn(3, 4, requires_grad=True)
    loss = classify(embeddings, torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.abs().sum() == 0


def test_initial_centres():
    weight = cf.MarginClassifier(cf.ArcFace(), 256, 200).weight
    assert weight.shape == (200, 256)
    assert weight.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(weight.mean().item()) < 2e-4


class TwistedNorm(Margin):
    """A toy of MagFace's kind: the margin and a penalty follow the length of the embedding."""

    def target(self, cosines, norms):
        return cosines - 0.1 * norms

    def penalty(self, norms):
        return (1 / norms).mean()


class Curriculum(Margin):
    """A toy of CurricularFace's kind: a running state, and hard negatives that weigh more."""

    def __init__(self):
        super().__init__(4.0)
        self.register_buffer("t", torch.zeros(()))

    def target(self, cosines, norms):
        if self.training:
            self.t.copy_(0.5 * cosines.detach().mean() + 0.5 * self.t)
        return cosines - 0.2

    def others(self, cosines, target):
        hard = cosines > target.unsqueeze(1)
        return torch.where(hard, cosines * (self.t + cosines), cosines)


def test_the_interface_takes_a_margin_of_the_norm():
    embeddings, weight, identities = random_case(5)
    loss = classifier(TwistedNorm(4.0), weight)(embeddings, identities)
    rows = []
    for x, y in zip(embeddings, identities, strict=True):
        length = (x * x).sum().sqrt()
        rows.append(
            torch.stack([4 * (naive.cosine(x, w) - (0.1 * length if k == y else 0)) for k, w in enumerate(weight)])
        )
    lengths = [(x * x).sum().sqrt() for x in embeddings]
    expected = naive.cross_entropy(torch.stack(rows), identities) + sum(1 / n for n in lengths) / len(lengths)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(loss, embeddings)[0], torch.autograd.grad(expected, embeddings)[0], atol=1e-10, rtol=0
    )


def test_a_running_state_that_moves_on_before_backward():
    embeddings, weight, identities = random_case(7, identities=9)
    margin = Curriculum().double()
    classify = classifier(margin, weight)
    first = classify(embeddings, identities)
    t = margin.t.clone()
    classify(-embeddings, identities)
    assert margin.t != t
    ours = torch.autograd.grad(first, (embeddings, classify.weight))
    plain = Curriculum().double()
    expected = F.cross_entropy(classifier(plain, weight).logits(embeddings, identities), identities)
    assert first.item() == pytest.approx(expected.item(), abs=1e-12)
    assert plain.t.item() == pytest.approx(t.item(), abs=1e-14)
    again = classifier(Curriculum().double(), weight)
    expected = F.cross_entropy(again.logits(embeddings, identities), identities)
    for a, b in zip(ours, torch.autograd.grad(expected, (embeddings, again.weight)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


class Pushed(Margin):
    """A toy whose other cosines depend on the target, with a gradient."""

    def target(self, cosines, norms):
        return 0.9 * cosines

    def others(self, cosines, target):
        return cosines * (1.1 + 0.22 * target.unsqueeze(1))


def test_others_may_depend_on_the_target():
    embeddings, weight, identities = random_case(12)
    classify = classifier(Pushed(4.0), weight)
    ours = classify(embeddings, identities)
    rows = []
    for x, y in zip(embeddings, identities, strict=True):
        target = 0.9 * naive.cosine(x, weight[y])
        cosines = [naive.cosine(x, w) for w in weight]
        rows.append(torch.stack([4 * (target if k == y else c * (1.1 + 0.22 * target)) for k, c in enumerate(cosines)]))
    expected = naive.cross_entropy(torch.stack(rows), identities)
    assert ours.item() == pytest.approx(expected.item(), abs=1e-10)
    torch.testing.assert_close(
        torch.autograd.grad(ours, embeddings)[0], torch.autograd.grad(expected, embeddings)[0], atol=1e-10, rtol=0
    )


def test_the_interface_takes_a_running_state():
    embeddings, weight, identities = random_case(6)
    margin = Curriculum().double()
    logits = classifier(margin, weight).logits(embeddings, identities)
    cosines = [[naive.cosine(x, w).item() for w in weight] for x in embeddings]
    t = 0.5 * sum(row[y] for row, y in zip(cosines, identities, strict=True)) / len(cosines)
    assert margin.t.item() == pytest.approx(t)
    for row, y, got in zip(cosines, identities, logits, strict=True):
        for k, c in enumerate(row):
            target = row[y] - 0.2
            expected = target if k == y else c * (t + c) if c > target else c
            assert got[k].item() == pytest.approx(4 * expected, abs=1e-10)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cf.ArcFace(0),
        lambda: cf.ArcFace(64, 3.2),
        lambda: cf.CosFace(64, -0.1),
        lambda: cf.MarginClassifier(cf.ArcFace(), 0, 5),
        lambda: cf.MarginClassifier(cf.ArcFace(), 5, 0),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(cf.InputError, match="expected"):
        make()


@pytest.mark.parametrize(
    ("embeddings", "identities", "message"),
    [
        (torch.zeros(2, 3), torch.tensor([0, 5]), "got identities 0 to 5, expected 0 to 4"),
        (torch.zeros(2, 3), torch.tensor([-1, 2]), "got identities -1 to 2, expected 0 to 4"),
        (torch.zeros(2, 4), torch.tensor([0, 1]), r"expected floats \(batch, 3\)"),
        (torch.zeros(2, 3), torch.tensor([0]), r"expected int64 \(2,\)"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "expected int64"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.tensor([0, 1]), "expected floats"),
    ],
)
def test_bad_batches(embeddings, identities, message):
    with pytest.raises(cf.InputError, match=message):
        cf.MarginClassifier(cf.ArcFace(), 3, 5)(embeddings, identities)
