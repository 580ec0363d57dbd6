"""The margin by the size of an identity against plain loops."""

import pytest
import torch

import coreface as cf
from support import naive_losses as naive

pytestmark = pytest.mark.usefixtures("way")
SIZES = [1, 2, 5, 20, 100, 1000, 3]


def test_dynamic_margin(case, classifier, assert_same):
    embeddings, weight, identities = case(3, batch=12)
    classify = classifier(cf.DynamicMargin(8.0, 0.6, 0.3, 0.1, sizes=torch.tensor(SIZES)), weight)
    wanted = naive.dynamic_margin(embeddings, classify.weight, identities, scale=8.0, a=0.6, b=0.3, c=0.1, sizes=SIZES)
    assert_same(classify(embeddings, identities), wanted, (embeddings, classify.weight))


def test_defaults_and_an_identity_without_images():
    margin = cf.DynamicMargin(sizes=torch.tensor([0, 1, 16]))
    assert (margin.scale, margin.a, margin.b, margin.c) == (64, 0.5, 0.25, 0.05)
    classify = cf.MarginClassifier(margin, 2, 3)
    classify.weight = torch.nn.Parameter(torch.tensor([[1.0, 0.0]] * 3))
    logits = classify.logits(torch.tensor([[1.0, 0.0]] * 3), torch.arange(3))
    torch.testing.assert_close((logits.diagonal() / 64).arccos(), torch.tensor([0.55, 0.55, 0.3]), atol=1e-4, rtol=0)


def test_sizes_are_needed(case, classifier):
    embeddings, weight, identities = case(3)
    with pytest.raises(cf.InputError, match=r"sizes are missing: give DynamicMargin\(sizes=\.\.\.\)"):
        classifier(cf.DynamicMargin(), weight)(embeddings, identities)
    with pytest.raises(cf.InputError, match=r"expected torch.int64 \(identities,\)"):
        cf.DynamicMargin(sizes=torch.ones(3))


@pytest.mark.parametrize("options", [{"a": -0.1}, {"c": 3.0}, {"b": -1.0}])
def test_bad_arguments(options):
    with pytest.raises(cf.InputError, match="expected"):
        cf.DynamicMargin(**options)
