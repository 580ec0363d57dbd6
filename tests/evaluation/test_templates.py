"""Templates against loops over images and media, and the mistakes that are common instead."""

import tracemalloc

import numpy as np
import pytest

from coreface.errors import EvaluationError, InputError
from coreface.evaluation.templates import pool_templates


def naive_pool(embeddings, templates, media, weights, embedded):
    pooled = {}
    for template in sorted(set(templates)):
        total, images = np.zeros(embeddings.shape[1]), 0
        for medium in sorted({m for t, m in zip(templates, media, strict=True) if t == template}):
            frames = [
                weights[i] * embeddings[i].astype(np.float64)
                for i in range(len(templates))
                if templates[i] == template and media[i] == medium and embedded[i]
            ]
            images += len(frames)
            if frames:
                total += sum(frames) / len(frames)
        pooled[template] = (total / np.sqrt((total**2).sum()) if images else total, images)
    return pooled


def protocol(seed, images=60, size=5):
    generator = np.random.default_rng(seed)
    templates = generator.permutation(np.r_[np.arange(8) * 3 + 1, generator.choice([1, 4, 7, 22], images - 8)])
    media = generator.integers(0, 4, images)  # the same media in several templates
    embeddings = generator.normal(size=(images, size)).astype([np.float32, np.float64][seed % 2])
    return embeddings, templates, media, generator.uniform(0.2, 1, images), generator.random(images) > 0.2


@pytest.mark.parametrize("seed", range(40))
def test_pooling_equals_plain_loops(seed):
    embeddings, templates, media, weights, embedded = protocol(seed)
    embeddings[~embedded] = np.nan  # never looked at
    pooled = pool_templates(embeddings, templates, media, weights=weights, embedded=embedded)
    expected = naive_pool(embeddings, templates, media, weights, embedded)
    assert pooled.ids.tolist() == sorted(expected)
    for row, (vector, images) in enumerate(expected.values()):
        np.testing.assert_allclose(pooled.vectors[row], vector, atol=1e-6)
        assert (pooled.images[row], pooled.enrolled[row]) == (images, images > 0)


@pytest.mark.parametrize("seed", range(20))
def test_scores_are_cosines_and_failures_score_minus_one(seed):
    embeddings, templates, media, _, embedded = protocol(seed)
    embedded[templates == 4] = False
    pooled = pool_templates(embeddings, templates, media, embedded=embedded)
    generator = np.random.default_rng(seed)
    first, second = generator.choice(pooled.ids, (2, 5000))
    scores = pooled.compare(first, second)
    for a, b, score in zip(first[:300], second[:300], scores[:300], strict=True):
        vectors = pooled.vectors[pooled.ids.tolist().index(a)], pooled.vectors[pooled.ids.tolist().index(b)]
        failed = not all(pooled.enrolled[pooled.ids.tolist().index(i)] for i in (a, b))
        assert score == pytest.approx(-1 if failed else float(vectors[0] @ vectors[1]), abs=1e-6)
    assert (scores[(first == 4) | (second == 4)] == -1).all()
    assert len(scores) == 5000  # nothing is dropped


def test_frames_of_a_video_count_as_one_image():
    # One photograph and a video of 99 frames: a mean over all images would be the video alone.
    embeddings = np.r_[[[1.0, 0.0]], np.tile([0.0, 1.0], (99, 1))]
    pooled = pool_templates(embeddings, np.zeros(100, int), np.r_[0, np.ones(99, int)])
    np.testing.assert_allclose(pooled.vectors[0], [0.5**0.5, 0.5**0.5])


def test_media_of_the_same_number_in_two_templates_are_two():
    pooled = pool_templates(np.eye(4), [1, 1, 2, 2], [7, 7, 7, 8])
    np.testing.assert_allclose(pooled.vectors[1], np.r_[0, 0, 1, 1] / 2**0.5)


def test_norms_count_unless_the_rows_are_made_unit_length_before():
    embeddings = np.array([[3.0, 0.0], [0.0, 1.0]])
    kept = pool_templates(embeddings, [1, 1], [1, 2]).vectors[0]
    np.testing.assert_allclose(kept, np.r_[3, 1] / 10**0.5)


def test_float16_embeddings_are_summed_in_float32():
    generator = np.random.default_rng(0)
    embeddings = generator.uniform(100, 1000, (400, 8)).astype(np.float16)  # sums beyond the largest float16
    templates, media = np.repeat([1, 2], [300, 100]), np.arange(400) // 3
    pooled = pool_templates(embeddings, templates, media)
    assert pooled.vectors.dtype == np.float32
    expected = naive_pool(embeddings, templates, media, np.ones(400), np.ones(400, bool))
    for row, (vector, _) in enumerate(expected.values()):
        np.testing.assert_allclose(pooled.vectors[row], vector, atol=1e-6)


def test_order_does_not_matter():
    embeddings, templates, media, weights, embedded = protocol(1)
    order = np.random.default_rng(0).permutation(len(templates))
    before = pool_templates(embeddings, templates, media, weights=weights, embedded=embedded)
    after = pool_templates(
        embeddings[order], templates[order], media[order], weights=weights[order], embedded=embedded[order]
    )
    np.testing.assert_allclose(before.vectors, after.vectors, atol=1e-12)


def test_memory_is_that_of_the_templates():
    generator = np.random.default_rng(0)
    embeddings = generator.normal(size=(20_000, 64)).astype(np.float32)
    templates = generator.integers(0, 1000, 20_000)
    tracemalloc.start()
    pooled = pool_templates(embeddings, templates, np.arange(20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    pooled.compare(*generator.integers(0, 1000, (2, 200_000)))
    compared = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    assert peak < embeddings.nbytes / 2  # no second copy of the embeddings
    assert compared < 200_000 * 64 * 4 / 2  # no row for each pair


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"embeddings": np.ones(4)}, InputError, "embeddings have shape"),
        ({"embeddings": np.ones((4, 2), int)}, InputError, "embeddings have shape .* int64"),
        ({"templates": [1, 2]}, InputError, "templates have shape"),
        ({"media": [1.0] * 4}, InputError, "media have shape"),
        ({"weights": [1.0]}, InputError, "weights have shape"),
        ({"weights": [1.0, np.nan, 1, 1]}, EvaluationError, "weights hold 1 NaN"),
        ({"embedded": [1, 1, 1, 1]}, InputError, "embedded has shape"),
        ({"embeddings": np.full((4, 2), np.nan)}, EvaluationError, "2 of 2 templates hold NaN"),
        ({"embeddings": np.zeros((4, 2))}, EvaluationError, "2 templates sum up to zero"),
    ],
)
def test_templates_that_cannot_be_pooled(change, error, message):
    good = {"embeddings": np.ones((4, 2)), "templates": [1, 1, 2, 2], "media": [1, 2, 3, 4]}
    with pytest.raises(error, match=message):
        pool_templates(**good | change)


def test_a_pair_that_names_an_unknown_template():
    pooled = pool_templates(np.eye(4), [1, 1, 2, 2], [1, 2, 3, 4])
    with pytest.raises(InputError, match=r"template 9 \(entry 1\) has no image"):
        pooled.compare([1, 9], [2, 2])
    with pytest.raises(InputError, match="expected pairs"):
        pooled.compare([1, 2], [2])
