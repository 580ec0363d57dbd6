"""ElasticFace against plain loops: what it draws, and how it sorts."""

import math

import pytest
import torch

import coreface as cf
from coreface.losses.margins import Targets
from support import naive_losses as naive

pytestmark = pytest.mark.usefixtures("way")
BITS = [0, -1, 5 << 40, -(2**63), 2**63 - 1, 123456789 << 20, -987654321 << 25, 77 << 50, 1 << 41]


@pytest.mark.parametrize("kind", ["arc", "cos"])
@pytest.mark.parametrize("plus", [False, True])
@pytest.mark.parametrize("deviation", [0.0125, 0.3])
def test_elasticface(case, classifier, assert_same, kind, plus, deviation):
    embeddings, weight, identities = case(3, batch=len(BITS))
    classify = classifier(cf.ElasticFace(8.0, 0.4, deviation, kind, plus), weight)
    ours = classify(embeddings, identities, torch.tensor(BITS))
    options = {"scale": 8.0, "margin": 0.4, "deviation": deviation, "kind": kind, "plus": plus}
    wanted = naive.elasticface(embeddings, classify.weight, identities, bits=BITS, **options)
    assert_same(ours, wanted, (embeddings, classify.weight))
    logits = classify.logits(embeddings, identities, torch.tensor(BITS))
    assert torch.nn.functional.cross_entropy(logits, identities).item() == pytest.approx(wanted.item(), abs=1e-9)


def test_eval_mode_takes_the_mean(case, classifier):
    embeddings, weight, identities = case(4)
    drawn = classifier(cf.ElasticFace(8.0, deviation=0.2), weight).eval()
    fixed = classifier(cf.ArcFace(8.0), weight)
    assert drawn(embeddings, identities).item() == pytest.approx(fixed(embeddings, identities).item(), abs=1e-12)


def test_the_drawn_margins_are_normal():
    margin = cf.ElasticFace(kind="cos", deviation=0.1)
    count = 40_000
    torch.manual_seed(0)
    bits = torch.randint(-(2**63), 2**63 - 1, (count,))
    cosines = torch.zeros(count, dtype=torch.float64)
    drawn = (-margin.target_of(cosines, cosines, Targets(bits, bits)) - 0.35) / 0.1
    assert abs(drawn.mean().item()) < 5 / math.sqrt(count)
    assert drawn.var().item() == pytest.approx(1, abs=5 * math.sqrt(2 / count))
    share = (drawn.abs() < 1).double().mean().item()
    assert share == pytest.approx(math.erf(math.sqrt(0.5)), abs=5 * 0.47 / math.sqrt(count))


def test_without_bits_torch_draws(case, classifier):
    embeddings, weight, identities = case(6)
    classify = classifier(cf.ElasticFace(8.0, deviation=0.2), weight)
    torch.manual_seed(3)
    one, other = classify(embeddings, identities), classify(embeddings, identities)
    torch.manual_seed(3)
    assert torch.equal(classify(embeddings, identities), one)
    assert not torch.equal(one, other)


def test_published_defaults():
    made = {(kind, plus): cf.ElasticFace(kind=kind, plus=plus) for kind in ("arc", "cos") for plus in (False, True)}
    found = {key: (one.scale, one.margin, one.deviation) for key, one in made.items()}
    assert found == {
        ("arc", False): (64, 0.5, 0.0125),
        ("arc", True): (64, 0.5, 0.0175),
        ("cos", False): (64, 0.35, 0.0125),
        ("cos", True): (64, 0.35, 0.025),
    }


@pytest.mark.parametrize(
    "options", [{"kind": "tan"}, {"margin": 4.0}, {"margin": -0.1, "kind": "cos"}, {"deviation": -1.0}]
)
def test_bad_arguments(options):
    with pytest.raises(cf.InputError, match="expected"):
        cf.ElasticFace(**options)
