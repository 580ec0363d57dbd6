"""Searches of embeddings against their score matrix."""

import numpy as np
import pytest

from coreface.evaluation import identification
from coreface.evaluation.identification import search_embeddings
from coreface.evaluation.metrics import search_scores
from support.toy_embeddings import people


@pytest.mark.parametrize("block", [1, 100, 1 << 22])
def test_searches_equal_those_of_the_matrix(monkeypatch, block):
    monkeypatch.setattr(identification, "_BLOCK", block)
    embeddings, identities = people([4, 1, 5, 2, 3, 6])
    probes, gallery = np.arange(0, 21, 2), np.arange(1, 21, 2)
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    expected = search_scores(unit[probes] @ unit[gallery].T, identities[probes], identities[gallery])
    found = search_embeddings(embeddings[probes], embeddings[gallery], identities[probes], identities[gallery])
    for name in ("mated", "rank"):
        assert (getattr(found, name) == getattr(expected, name)).all()
    for name in ("own", "other"):
        np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-12)


def test_failures_to_enrol_score_minus_one():
    embeddings, identities = people([3, 3, 3, 3])
    embeddings[0] = 0
    found = search_embeddings(embeddings[:6], embeddings[6:], identities[:6], identities[6:])
    assert found.other[0] == -1
    if found.mated[0]:
        assert found.own[0] == -1
    assert found.rank[0] == (found.gallery - np.count_nonzero(identities[6:] == identities[0]) + 1) * found.mated[0]
    gallery = embeddings[6:].copy()
    gallery[:] = 0
    gallery[0] = embeddings[6]
    failed = search_embeddings(embeddings[1:6], gallery, identities[1:6], np.arange(10, 16))
    np.testing.assert_allclose(failed.other >= -1, True)
