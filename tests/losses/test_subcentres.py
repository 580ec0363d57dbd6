"""Several centres an identity: the nearest counts, under every margin, against plain loops over all centres."""

import pytest
import torch

import coreface as cf
from support import naive_losses as naive


def nearest(embeddings, weight):
    """Return, embedding by embedding, the identities' nearest centres, as a function of the flat centres."""
    return [[max(centres, key=lambda w: naive.cosine(x, w).item()) for centres in weight] for x in embeddings]


def loss_of_nearest(embeddings, weight, identities, target, scale):
    rows = []
    for x, y, centres in zip(embeddings, identities, nearest(embeddings, weight), strict=True):
        cosines = [naive.cosine(x, w) for w in centres]
        rows.append(scale * torch.stack([target(c) if k == y else c for k, c in enumerate(cosines)]))
    return naive.cross_entropy(rows, identities)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("subcentres", [2, 3])
def test_arcface(case, classifier, assert_same, way, seed, subcentres):
    embeddings, weight, identities = case(seed, batch=8, subcentres=subcentres)
    classify = classifier(cf.ArcFace(8.0), weight)
    wanted = loss_of_nearest(embeddings, classify.weight, identities, lambda c: naive.angular(c, 0.5), 8.0)
    assert_same(classify(embeddings, identities), wanted, (embeddings, classify.weight))


def test_curricularface_moves_the_others(case, classifier, assert_same, way):
    embeddings, weight, identities = case(7, batch=8, subcentres=3)
    classify = classifier(cf.CurricularFace(8.0, ema=0.6).eval(), weight)
    classify.margin.t.fill_(0.3)
    rows = []
    for x, y, centres in zip(embeddings, identities, nearest(embeddings, classify.weight), strict=True):
        cosines = [naive.cosine(x, w) for w in centres]
        target = naive.angular(cosines[y], 0.5)
        t = classify.margin.t.double()
        moved = [target if k == y else c * (t + c) if c > target else c for k, c in enumerate(cosines)]
        rows.append(8 * torch.stack(moved))
    wanted = naive.cross_entropy(rows, identities)
    assert_same(classify(embeddings, identities), wanted, (embeddings, classify.weight))


def test_equal_centres_are_one(case, classifier, way):
    embeddings, weight, identities = case(2)
    plain = classifier(cf.ArcFace(8.0), weight)
    repeated = classifier(cf.ArcFace(8.0), weight.unsqueeze(1).repeat(1, 3, 1))
    assert repeated(embeddings, identities).item() == pytest.approx(plain(embeddings, identities).item(), abs=1e-12)
    assert cf.MarginClassifier(cf.ArcFace(), 4, 7).weight.shape == (7, 4)
    assert cf.MarginClassifier(cf.ArcFace(), 4, 7, subcentres=3).weight.shape == (7, 3, 4)


def test_only_the_nearest_centre_moves(case, classifier, way):
    embeddings, weight, identities = case(1, batch=1, subcentres=3)
    classify = classifier(cf.ArcFace(8.0), weight)
    classify(embeddings, identities).backward()
    moved = classify.weight.grad.abs().sum(2) > 0
    assert moved.sum(1).tolist() == [1] * len(weight)
    best = nearest(embeddings, list(weight))[0]
    for rows, own, chosen in zip(weight, best, moved, strict=True):
        assert torch.equal(rows[chosen][0], own)


def test_sampling_takes_all_centres_of_an_identity(case, classifier, way):
    embeddings, weight, identities = case(1, identities=40, subcentres=3)
    classify = classifier(cf.ArcFace(8.0), weight, sample_rate=0.3, seed=5)
    loss = classify(embeddings, identities)
    assert classify.touched.shape == (40,)
    assert classify.touched[identities].all()
    assert 5 < classify.touched.sum() < 35
    kept = classify.touched.nonzero().squeeze(1)
    few = classifier(cf.ArcFace(8.0), weight[kept])
    among = torch.searchsorted(kept, identities)
    assert loss.item() == pytest.approx(few(embeddings, among).item(), abs=1e-10)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_under_autocast(case, classifier, monkeypatch, dtype):
    monkeypatch.setattr("coreface.losses.classifier.SMALL", 0)
    embeddings, weight, identities = case(4, 16, 40, 32, subcentres=3)
    embeddings = embeddings.detach().float().requires_grad_()
    classify = classifier(cf.ArcFace(8.0), weight.float())
    exact = torch.autograd.grad(classify(embeddings, identities), (embeddings, classify.weight))
    with torch.autocast("cpu", dtype):
        rounded = torch.autograd.grad(classify(embeddings, identities), (embeddings, classify.weight))
    for one, other in zip(rounded, exact, strict=True):
        assert one.isfinite().all()
        assert (one - other).norm() <= 0.1 * other.norm()


@pytest.mark.parametrize("subcentres", [0, 256])
def test_out_of_range(subcentres):
    with pytest.raises(cf.InputError, match=f"subcentres is {subcentres}, expected 1 to 255"):
        cf.MarginClassifier(cf.ArcFace(), 4, 5, subcentres=subcentres)
