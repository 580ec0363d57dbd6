"""CurricularFace, MagFace and AdaFace against plain loops with arccos, and at their edges."""

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import coreface as cf
from support import naive_losses as naive

MARGINS = [cf.CurricularFace, cf.MagFace, cf.AdaFace]
quickly = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(params=["plain", "lean", "chunks"], autouse=True)
def way(request, monkeypatch):
    if request.param != "plain":
        monkeypatch.setattr("coreface.losses.classifier.SMALL", 0)
    if request.param == "chunks":
        monkeypatch.setattr("coreface.losses.cosine_chunks.CHUNK", {"cpu": 16})


def case(seed, batch=5, identities=7, size=4, length=1.0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = length * torch.randn(batch, size, generator=generator, dtype=torch.float64)
    weight = torch.randn(identities, size, generator=generator, dtype=torch.float64)
    return embeddings.requires_grad_(), weight, torch.randint(identities, (batch,), generator=generator)


def classifier(margin, weight):
    made = cf.MarginClassifier(margin, weight.shape[1], len(weight))
    made.weight = torch.nn.Parameter(weight)
    return made


def assert_same(ours, expected, inputs):
    assert ours.item() == pytest.approx(expected.item(), abs=1e-9)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs), strict=True):
        torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)


@quickly
@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3, 0.5]), st.sampled_from([0.01, 0.6, 1.0]))
def test_curricularface(seed, m, ema):
    margin, t = cf.CurricularFace(8.0, m, ema), 0.0
    for step in range(2):
        embeddings, weight, identities = case(seed + step)
        classify = classifier(margin, weight)
        ours = classify(embeddings, identities)
        expected, t = naive.curricularface(embeddings, classify.weight, identities, scale=8.0, margin=m, ema=ema, t=t)
        assert margin.t.item() == pytest.approx(t, abs=1e-12)
        assert_same(ours, expected, (embeddings, classify.weight))


@quickly
@given(st.integers(0, 10**6), st.sampled_from([0.5, 12.0, 30.0, 90.0]))
def test_magface(seed, length):
    embeddings, weight, identities = case(seed, length=length)
    with torch.no_grad():  # lengths below 1 are another test's
        embeddings.div_(torch.linalg.vector_norm(embeddings, dim=1, keepdim=True).clamp(max=1.0)).mul_(1.01)
    classify = classifier(cf.MagFace(8.0, regularisation=3.0), weight)
    expected = naive.magface(
        embeddings,
        classify.weight,
        identities,
        scale=8.0,
        margins=(0.45, 0.8),
        lengths=(10.0, 110.0),
        regularisation=3.0,
    )
    assert_same(classify(embeddings, identities), expected, (embeddings, classify.weight))


@quickly
@given(st.integers(0, 10**6), st.sampled_from([0.1, 0.4, 0.9]), st.sampled_from([0.01, 1.0]))
def test_adaface(seed, m, ema):
    margin, mean, deviation = cf.AdaFace(8.0, m, ema=ema), 20.0, 100.0
    for step in range(2):
        embeddings, weight, identities = case(seed + step, length=15.0)
        classify = classifier(margin, weight)
        ours = classify(embeddings, identities)
        expected, mean, deviation = naive.adaface(
            embeddings,
            classify.weight,
            identities,
            scale=8.0,
            margin=m,
            concentration=0.33,
            ema=ema,
            mean=mean,
            deviation=deviation,
        )
        assert margin.mean.item() == pytest.approx(mean, rel=1e-12)
        assert margin.deviation.item() == pytest.approx(deviation, rel=1e-12)
        assert_same(ours, expected, (embeddings, classify.weight))


def test_published_defaults():
    curricular, mag, ada = cf.CurricularFace(), cf.MagFace(), cf.AdaFace()
    assert (curricular.scale, curricular.margin, curricular.ema, curricular.t.item()) == (64, 0.5, 0.01, 0)
    assert (mag.scale, mag.margins, mag.lengths, mag.regularisation) == (64, (0.45, 0.8), (10, 110), 35)
    assert (ada.scale, ada.margin, ada.concentration, ada.ema) == (64, 0.4, 0.33, 0.01)
    assert all(made.gradient == "exact" for made in (curricular, mag, ada))


def test_magface_draws_lengths_to_the_upper_bound():
    lengths = torch.tensor([2.0, 50.0, 110.0, 300.0], dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(cf.MagFace().penalty(lengths), lengths)[0]
    assert slope[0] < slope[1] < 0 < slope[3]
    assert slope[2].item() == pytest.approx(0, abs=1e-12)


def test_magface_takes_lengths_below_1_for_1():
    lengths = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    for length in lengths:
        assert cf.MagFace().penalty(length.unsqueeze(0)).item() == pytest.approx(35 * (1 + 1 / 110**2), rel=1e-12)


@pytest.mark.parametrize("batch", [0, 1])
def test_adaface_learns_nothing_about_lengths_from_fewer_than_two(batch):
    ada = cf.AdaFace(ema=0.5)
    ada.target(torch.zeros(batch), torch.full((batch,), 3.0))
    assert (ada.mean.item(), ada.deviation.item()) == (20, 100)
    ada.target(torch.zeros(2), torch.tensor([3.0, 5.0]))
    assert (ada.mean.item(), ada.deviation.item()) == (12, pytest.approx(50 + 0.5 * math.sqrt(2)))


def test_adaface_where_all_lengths_are_the_same():
    ada = cf.AdaFace(margin=0.4, concentration=0.5, ema=1.0)
    cosines = torch.zeros(3, dtype=torch.float64)
    torch.testing.assert_close(ada.target(cosines, torch.full_like(cosines, 5.0)), cosines - 0.4)  # z = 0
    assert ada.deviation.item() == 0
    near = ada.eval().target(cosines, torch.tensor([5.0, 5.001, 5.1], dtype=torch.float64))
    quality = [0.0, 0.5, 1.0]  # a deviation of 1e-3 is the least that it is measured with
    expected = [math.cos(math.pi / 2 - 0.4 * z) - (0.4 * z + 0.4) for z in quality]
    torch.testing.assert_close(near, torch.tensor(expected, dtype=torch.float64))


def test_adaface_of_average_quality_is_a_plain_difference():
    ada = cf.AdaFace().eval()
    cosines = torch.linspace(-1, 1, 9, dtype=torch.float64)
    average = ada.target(cosines, torch.full_like(cosines, 20.0))
    torch.testing.assert_close(average, cosines - 0.4)
    best = ada.target(cosines, torch.full_like(cosines, 1e4))  # z = 1: an angle of -0.4 and a difference of 0.8
    theta = torch.arccos(cosines)
    torch.testing.assert_close(best, (theta - 0.4).clamp(min=0).cos() - 0.8)


@pytest.mark.parametrize("make", MARGINS)
def test_eval_mode_moves_no_state(make):
    embeddings, weight, identities = case(1)
    margin = make().eval()
    before = {name: value.clone() for name, value in margin.state_dict().items()}
    classifier(margin, weight)(embeddings, identities)
    assert all(torch.equal(before[name], value) for name, value in margin.state_dict().items())


@pytest.mark.parametrize("make", [cf.CurricularFace, cf.AdaFace])
def test_the_state_is_saved_and_a_broken_batch_leaves_it(make):
    embeddings, weight, identities = case(2)
    margin = make()
    classify = classifier(margin, weight)
    classify(embeddings, identities)
    state = {name: value.clone() for name, value in margin.state_dict().items()}
    assert state
    with torch.no_grad():
        embeddings[0] = math.nan
    classify(embeddings, identities)
    assert all(torch.equal(state[name], value) for name, value in margin.state_dict().items())


@pytest.mark.parametrize("make", [cf.ArcFace, *MARGINS])
@pytest.mark.parametrize("gradient", ["exact", "straight_through"])
def test_slopes(make, gradient):
    margin = make(gradient=gradient).eval()
    cosines = torch.linspace(-0.999, 0.999, 401, dtype=torch.float64, requires_grad=True)
    target = margin.target(cosines, torch.full_like(cosines, 60.0, requires_grad=False))
    slope = torch.autograd.grad(target.sum(), cosines)[0]
    if gradient == "straight_through":
        torch.testing.assert_close(slope, torch.ones_like(slope))
    else:
        values = target.detach()
        differences = (values[2:] - values[:-2]) / (cosines.detach()[2] - cosines.detach()[0])
        gaps = (differences - slope[1:-1]).abs()
        assert (gaps < 1e-2 * slope[1:-1].abs() + 1e-3).float().mean() > 0.95  # all but the ends and the joint at pi
    exact = make().eval().target(cosines.detach(), torch.full_like(cosines, 60.0, requires_grad=False))
    torch.testing.assert_close(target.detach(), exact)


@pytest.mark.parametrize("make", MARGINS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_vectors_and_exact_matches_are_finite(make, dtype):
    embeddings = torch.cat([torch.zeros(1, 4), torch.eye(4), -torch.eye(4)]).to(dtype).requires_grad_()
    classify = classifier(make(), torch.eye(4))
    loss = classify(embeddings, torch.tensor([0, 0, 1, 2, 3, 0, 1, 2, 3]))
    gradients = torch.autograd.grad(loss, (embeddings, classify.weight))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cf.CurricularFace(ema=1.5),
        lambda: cf.CurricularFace(margin=-0.1),
        lambda: cf.MagFace(margins=(0.8, 0.45)),
        lambda: cf.MagFace(lengths=(0, 110)),
        lambda: cf.MagFace(regularisation=-1),
        lambda: cf.AdaFace(margin=4),
        lambda: cf.AdaFace(concentration=0),
        lambda: cf.AdaFace(ema=-0.1),
        lambda: cf.ArcFace(gradient="none"),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(cf.InputError, match="expected"):
        make()
