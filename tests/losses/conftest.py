"""Cases and ways that the tests of margins share."""

import pytest
import torch

import coreface as cf


@pytest.fixture(params=["plain", "lean", "chunks"])
def way(request, monkeypatch):
    """The plain way of few identities, and the lean one of many, whole and in chunks."""
    if request.param != "plain":
        monkeypatch.setattr("coreface.losses.classifier.SMALL", 0)
    if request.param == "chunks":
        monkeypatch.setattr("coreface.losses.cosine_chunks.CHUNK", {"cpu": 16})
    return request.param


@pytest.fixture
def case():
    """Return a function (seed, ...) that draws embeddings, centres and identities."""

    def case(seed, batch=5, identities=7, size=4, length=1.0, subcentres=None):
        generator = torch.Generator().manual_seed(seed)
        embeddings = length * torch.randn(batch, size, generator=generator, dtype=torch.float64)
        shape = (identities, size) if subcentres is None else (identities, subcentres, size)
        weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return embeddings.requires_grad_(), weight, torch.randint(identities, (batch,), generator=generator)

    return case


@pytest.fixture
def classifier():
    """Return a function (margin, weight) that makes a classifier with these centres."""

    def classifier(margin, weight, **options):
        subcentres = 1 if weight.ndim == 2 else weight.shape[1]
        made = cf.MarginClassifier(margin, weight.shape[-1], len(weight), subcentres=subcentres, **options)
        made.weight = torch.nn.Parameter(weight)
        return made

    return classifier


@pytest.fixture
def assert_same():
    """Return a function that compares a loss and its gradients with an expected one."""

    def assert_same(ours, expected, inputs):
        assert ours.item() == pytest.approx(expected.item(), abs=1e-9)
        for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(expected, inputs), strict=True):
            torch.testing.assert_close(a, b, atol=1e-8, rtol=1e-6)

    return assert_same
