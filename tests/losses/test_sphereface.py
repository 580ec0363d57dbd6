"""SphereFace and SphereFace-R against plain loops with arccos, and at their edges."""

import math

import pytest
import torch

import coreface as cf
from support import naive_losses as naive

pytestmark = pytest.mark.usefixtures("way")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("margin", "scale"), [(4, None), (3, 8.0), (1, None), (2, None)])
def test_sphereface(case, classifier, assert_same, seed, margin, scale):
    embeddings, weight, identities = case(seed, batch=9, length=3.0)
    classify = classifier(cf.SphereFace(scale, margin), weight)
    wanted = naive.sphereface(embeddings, classify.weight, identities, margin=margin, annealed=0, scale=scale)
    assert_same(classify(embeddings, identities), wanted, (embeddings, classify.weight))


def test_annealing_falls_with_the_calls_in_training(case, classifier, assert_same):
    embeddings, weight, identities = case(5, length=2.0)
    classify = classifier(cf.SphereFace(annealing=(10.0, 2.0, 1.5)), weight)
    for annealed in (10.0, 10 / 2.5, 10 / 4, 2.0, 2.0):
        wanted = naive.sphereface(embeddings, classify.weight, identities, margin=4, annealed=annealed)
        assert_same(classify(embeddings, identities), wanted, (embeddings, classify.weight))
    assert classify.state_dict()["margin.calls"] == 5
    classify.eval()(embeddings, identities)
    assert classify.margin.calls == 5


def test_psi_falls_all_the_way_and_joins():
    cosines = torch.linspace(1, -1, 4001, dtype=torch.float64, requires_grad=True)
    psi = cf.SphereFace().target(cosines, torch.ones_like(cosines))
    assert (psi.diff() < 0).all()
    assert psi.diff().abs().max() < 0.01  # 4001 steps from 1 down to -7: no jump
    assert psi[0].item() == 1
    assert psi[-1].item() == pytest.approx(-7)
    slope = torch.autograd.grad(psi.sum(), cosines)[0]
    assert slope.isfinite().all()
    assert slope[0].item() == pytest.approx(16)  # m^2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [1.0, 1.5, 3.2])
def test_sphereface_r(case, classifier, assert_same, seed, margin):
    embeddings, weight, identities = case(seed, batch=9)
    classify = classifier(cf.SphereFaceR(8.0, margin, "exact"), weight)
    wanted = naive.sphereface_r(embeddings, classify.weight, identities, scale=8.0, margin=margin)
    assert_same(classify(embeddings, identities), wanted, (embeddings, classify.weight))
    detached = classifier(cf.SphereFaceR(8.0, margin), weight)
    assert detached(embeddings, identities).item() == pytest.approx(wanted.item(), abs=1e-9)


def test_characteristic_gradient_detachment():
    cosines = torch.linspace(-0.9, 0.9, 19, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.grad(cf.SphereFaceR().target(cosines, cosines.detach()).sum(), cosines)[0]
    assert torch.equal(slope, torch.ones_like(slope))


def test_published_defaults():
    sphere, revived = cf.SphereFace(), cf.SphereFaceR()
    assert (sphere.by_length, sphere.margin, sphere.annealing) == (True, 4, None)
    assert (revived.scale, revived.margin, revived.gradient) == (30, 1.5, "straight_through")


@pytest.mark.parametrize("make", [cf.SphereFace, cf.SphereFaceR, lambda: cf.SphereFaceR(gradient="exact")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_zero_vectors_and_exact_matches_are_finite(classifier, make, dtype):
    embeddings = torch.cat([torch.zeros(1, 4), torch.eye(4), -torch.eye(4)]).to(dtype).requires_grad_()
    classify = classifier(make(), torch.eye(4))
    loss = classify(embeddings, torch.tensor([0, 0, 1, 2, 3, 0, 1, 2, 3]))
    gradients = torch.autograd.grad(loss, (embeddings, classify.weight))
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(
    "make",
    [
        lambda: cf.SphereFace(margin=0),
        lambda: cf.SphereFace(margin=2.5),
        lambda: cf.SphereFace(scale=-1),
        lambda: cf.SphereFace(annealing=(1.0, 5.0, 0.1)),
        lambda: cf.SphereFaceR(margin=0.5),
        lambda: cf.SphereFaceR(margin=math.nan),
    ],
)
def test_bad_arguments(make):
    with pytest.raises(cf.InputError, match="expected"):
        make()
