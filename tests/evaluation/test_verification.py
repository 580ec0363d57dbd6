"""All pairs against a double loop, the mistakes against a full sort, and every way in which embeddings are no use."""

import json
import tracemalloc
from itertools import combinations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity

from coreface.errors import ConstantEmbeddingsError, EvaluationError, InputError
from coreface.evaluation import all_pairs, verification
from coreface.evaluation.metrics import eer, roc, tar_at_far
from coreface.evaluation.metrics.pair_scores import PairScores
from coreface.evaluation.metrics.uncertainty import bootstrap
from coreface.evaluation.verification import pixel_embeddings, verify


def faces(images_per_identity, seed=0, size=8, spread=1.0, dtype=np.float32):
    """Embeddings around one centre an identity, images in random order, identities with arbitrary numbers."""
    generator = np.random.default_rng(seed)
    identities = generator.permutation(np.repeat(np.arange(len(images_per_identity)), images_per_identity))
    centres = generator.normal(size=(len(images_per_identity), size))
    embeddings = centres[identities] + spread * generator.normal(size=(len(identities), size))
    numbers = generator.choice(10**6, len(images_per_identity), replace=False) - 500_000
    return embeddings.astype(dtype), numbers[identities]


def every_pair(embeddings, identities):
    """(i, j, cosine, genuine) of all pairs, in float64, one after the other."""
    pairs = []
    for i, j in combinations(range(len(identities)), 2):
        a, b = embeddings[i].astype(np.float64), embeddings[j].astype(np.float64)
        cosine = sum(a * b) / (sum(a * a) ** 0.5 * sum(b * b) ** 0.5)
        pairs.append((i, j, cosine, identities[i] == identities[j]))
    return pairs


SETS = [[3, 2, 4], [2, 1], [1, 1, 5, 1, 2], [4] * 12]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("images_per_identity", SETS)
def test_scores_are_those_of_a_double_loop(images_per_identity, dtype):
    embeddings, identities = faces(images_per_identity, dtype=dtype)
    result = verify(embeddings, identities, replicates=0)
    pairs = every_pair(embeddings, identities)
    tolerance = 1e-12 if dtype == np.float64 else 1e-6
    for kind, scores in ((True, result.genuine_scores), (False, result.impostor_scores)):
        expected = sorted(cosine for _, _, cosine, genuine in pairs if genuine == kind)
        np.testing.assert_allclose(np.sort(scores), expected, rtol=0, atol=tolerance)
        assert scores.dtype == (np.float64 if dtype == np.float64 else np.float32)
    assert (result.genuine, result.impostor) == (len(result.genuine_scores), len(result.impostor_scores))
    assert (result.images, result.identities) == (len(identities), len(images_per_identity))
    assert result.single_image_identities == images_per_identity.count(1)


@pytest.mark.parametrize("block", [1, 7, 50, 10**6])
def test_row_blocks_of_any_size_give_the_same_pairs(monkeypatch, block):
    embeddings, identities = faces([3, 1, 4, 2, 5], size=5)
    whole = verify(embeddings, identities, replicates=0)
    monkeypatch.setattr(all_pairs, "_BLOCK", block)
    blocked = verify(embeddings, identities, replicates=0)
    np.testing.assert_allclose(blocked.genuine_scores, whole.genuine_scores, atol=1e-6)
    np.testing.assert_allclose(blocked.impostor_scores, whole.impostor_scores, atol=1e-6)


def test_rates_are_those_of_the_scores():
    embeddings, identities = faces([4] * 12)
    result = verify(embeddings, identities, fars=(0.3, 0.01, 1e-4), replicates=0)
    genuine, impostor = result.genuine_scores, result.impostor_scores
    assert result.eer == eer(genuine, impostor)
    assert result.tar == tuple(tar_at_far(genuine, impostor, far) for far in (0.3, 0.01, 1e-4))
    assert [rate.resolvable for rate in result.tar] == [True, True, False]
    assert result.roc.to_dict() == roc(genuine, impostor, 1000).to_dict()
    assert result.roc is result.roc
    assert not genuine.flags.writeable
    assert not impostor.flags.writeable
    upper = np.triu_indices(len(identities), 1)
    truth = (identities[:, None] == identities)[upper]
    expected = roc_auc_score(truth, cosine_similarity(embeddings)[upper])
    assert result.roc.auc == pytest.approx(expected, abs=1e-6)
    assert 0.7 < expected < 0.99


def test_the_default_fars():
    assert [rate.far for rate in verify(*faces([2, 2])).tar] == [1e-1, 1e-2, 1e-3]


def test_order_of_images_and_numbers_of_identities_do_not_matter():
    embeddings, identities = faces([4] * 8, dtype=np.float64)
    order = np.random.default_rng(5).permutation(len(identities))
    renamed = np.unique(identities, return_inverse=True)[1].astype(np.uint8)
    before, after = (
        verify(embeddings, identities, replicates=0),
        verify(embeddings[order], renamed[order], replicates=0),
    )
    np.testing.assert_allclose(np.sort(before.genuine_scores), np.sort(after.genuine_scores), atol=1e-12)
    assert before.eer.eer == after.eer.eer
    assert [rate.tar for rate in before.tar] == [rate.tar for rate in after.tar]


@pytest.mark.parametrize("images_per_identity", SETS)
@pytest.mark.parametrize("count", [1, 3, 1000])
def test_worst_mistakes_are_those_of_a_full_sort(images_per_identity, count):
    embeddings, identities = faces(images_per_identity, seed=1, dtype=np.float64)
    worst = verify(embeddings, identities, replicates=0, worst=count).worst
    pairs = every_pair(embeddings, identities)
    for found, kind, sign in ((worst.genuine, True, 1), (worst.impostor, False, -1)):
        expected = sorted((sign * cosine, i, j) for i, j, cosine, genuine in pairs if genuine == kind)[:count]
        assert [(pair.first, pair.second) for pair in found] == [(i, j) for _, i, j in expected]
        assert [pair.score for pair in found] == pytest.approx([sign * cosine for cosine, _, _ in expected], abs=1e-12)
        assert all(pair.first < pair.second for pair in found)


def test_worst_mistakes_under_ties():
    # Two directions only: every score is 1 or 0, so 3 of many equally bad pairs are listed, each with its true images.
    embeddings = np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1, 0, 1]]
    identities = np.array([5, 5, 5, 5, 9, 9, 9, 9])
    worst = verify(embeddings, identities, replicates=0, worst=3).worst
    assert len({(pair.first, pair.second) for pair in worst.impostor}) == 3
    for pair in worst.impostor:
        assert pair.score == 1.0 == embeddings[pair.first] @ embeddings[pair.second]
        assert identities[pair.first] != identities[pair.second]
    for pair in worst.genuine:
        assert pair.score == 0.0 == embeddings[pair.first] @ embeddings[pair.second]
        assert identities[pair.first] == identities[pair.second]
    assert verify(embeddings, identities, replicates=0, worst=0).worst.impostor == ()


def test_intervals_are_the_bootstrap_of_the_pairs():
    embeddings, identities = faces([3, 1, 2, 4, 3, 3, 2], dtype=np.float64)
    result = verify(embeddings, identities, fars=(0.1, 0.02, 1e-4), replicates=60, seed=3, confidence=0.9)
    pairs = every_pair(embeddings, identities)
    index = np.unique(identities, return_inverse=True)[1]
    scored = PairScores([s for _, _, s, _ in pairs], [index[i] for i, *_ in pairs], [index[j] for _, j, *_ in pairs])
    expected = [
        bootstrap(scored, s, replicates=60, seed=3, confidence=0.9) for s in ("eer", ("tar", 0.1), ("tar", 0.02))
    ]
    assert [result.eer_interval, *result.tar_intervals[:2]] == expected
    assert result.tar_intervals[2] is None  # not resolvable
    assert (result.replicates, result.interval_note) == (60, None)
    assert result.eer_interval.low < result.eer.eer < result.eer_interval.high


def test_automatic_replicates_depend_on_the_pairs(monkeypatch):
    embeddings, identities = faces([2] * 10)  # 190 pairs
    assert verify(embeddings, identities).replicates == 1000
    monkeypatch.setattr(verification, "_PAIR_REPLICATES", 190 * 150)
    fewer = verify(embeddings, identities)
    assert fewer.replicates == fewer.eer_interval.replicates == 150
    assert fewer.interval_note.startswith("150 replicates instead of 1000")
    monkeypatch.setattr(verification, "_PAIR_REPLICATES", 190)
    fewest = verify(embeddings, identities)
    assert fewest.replicates == fewest.eer_interval.replicates == 100
    assert verify(embeddings, identities, replicates=7).eer_interval.replicates == 7


def test_to_dict_is_plain_json_without_the_scores():
    result = verify(*faces([3, 1, 2, 4]), replicates=20, fars=(0.1, 1e-4), worst=2)
    plain = result.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert not {"genuine_scores", "impostor_scores", "roc"} & set(plain)
    assert plain["eer"] == result.eer.to_dict()
    assert plain["tar"] == [rate.to_dict() for rate in result.tar]
    assert plain["tar_intervals"] == [result.tar_intervals[0].to_dict(), None]
    assert plain["worst"]["impostor"][0].keys() == {"first", "second", "score"}
    assert (plain["genuine"], plain["impostor"], plain["single_image_identities"]) == (10, 35, 1)
    assert "array" not in repr(result)


def test_lengths_do_not_matter_even_where_squares_overflow():
    embeddings, identities = faces([3] * 5)
    lengths = np.logspace(-30, 30, len(embeddings), dtype=np.float32)[:, None]
    plain, scaled = (verify(rows, identities, replicates=0) for rows in (embeddings, embeddings * lengths))
    np.testing.assert_allclose(scaled.genuine_scores, plain.genuine_scores, atol=1e-5)
    assert np.isfinite(scaled.impostor_scores).all()


def test_embeddings_are_not_changed():
    embeddings, identities = faces([3] * 5)
    before = embeddings.copy()
    verify(embeddings, identities, replicates=0)
    assert (embeddings == before).all()


def test_memory_stays_close_to_the_scores(monkeypatch):
    monkeypatch.setattr(all_pairs, "_BLOCK", 1 << 16)
    embeddings, identities = faces([4] * 500)
    scores = 4 * len(identities) * (len(identities) - 1) // 2

    def peak(function, *arguments, **settings):
        tracemalloc.start()
        function(*arguments, **settings)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    pairs = all_pairs.AllPairs(np.unique(identities, return_inverse=True)[1].astype(np.int32))
    assert scores < peak(pairs.compare, embeddings) < 1.2 * scores
    assert peak(verify, embeddings, identities, replicates=0) < 4 * scores


def test_a_collapsed_encoder_is_named():
    generator = np.random.default_rng(0)
    same = np.tile(generator.normal(size=64), (50, 1)).astype(np.float32)
    identities = np.arange(50) // 2
    lengths = generator.uniform(0.1, 10, (50, 1)).astype(np.float32)
    rounding = (1 + 1e-6 * generator.normal(size=same.shape)).astype(np.float32)
    for rows in (same, same * lengths, same * rounding, same.astype(np.float16)):
        with pytest.raises(ConstantEmbeddingsError, match=r"all 50 embeddings .* the encoder has collapsed"):
            verify(rows, identities)


def test_embeddings_that_are_merely_close_are_measured():
    embeddings, identities = faces([2] * 10, size=64, spread=0.5, dtype=np.float64)
    close = 100 + embeddings  # cosines of 0.9999, as of an encoder before training
    result = verify(close.astype(np.float32), identities, replicates=0)
    assert 0.999 < result.impostor_scores.min() < result.impostor_scores.max() < 1
    one_apart = np.ones((4, 8))
    one_apart[3, 0] = 1.01
    assert verify(one_apart, [0, 0, 1, 1], replicates=0).eer.eer > 0


GOOD, WHO = faces([2, 2, 1])


@pytest.mark.parametrize(
    ("embeddings", "identities", "error", "message"),
    [
        (np.where(np.eye(5, 8), np.nan, GOOD), WHO, EvaluationError, r"5 NaN or infinite .* first at \[0, 0\]"),
        (np.where(np.arange(40).reshape(5, 8) == 11, -np.inf, GOOD), WHO, EvaluationError, r"first at \[1, 3\]"),
        (GOOD * (np.arange(5) != 3)[:, None], WHO, EvaluationError, r"1 of 5 embeddings are zero .* row 3"),
        (GOOD, [4] * 5, EvaluationError, "all 5 images show one identity"),
        (GOOD[:1], [4], EvaluationError, "all 1 images show one identity"),
        (GOOD, [1, 2, 3, 4, 5], EvaluationError, "each of the 5 images shows another identity"),
        (GOOD, WHO[:4], EvaluationError, "5 embeddings and 4 identities"),
        (GOOD[:0], WHO[:0], EvaluationError, r"no embeddings \(shape \(0, 8\)\)"),
        (GOOD[:, :0], WHO, EvaluationError, r"no embeddings \(shape \(5, 0\)\)"),
        (GOOD[0], WHO, InputError, r"embeddings have shape \(8,\); expected 2 dimension"),
        (GOOD > 0, WHO, InputError, "embeddings have dtype bool"),
        (GOOD, WHO.astype(float), InputError, "identities have shape .* dtype float64"),
        (GOOD, WHO[:, None], InputError, r"identities have shape \(5, 1\)"),
        (GOOD, ["a", "a", "b", "b", "c"], InputError, "dtype <U1"),
    ],
)
def test_embeddings_that_cannot_be_measured(embeddings, identities, error, message):
    with pytest.raises(error, match=message) as caught:
        verify(embeddings, identities)
    assert "\n" not in str(caught.value)


def test_too_many_pairs_are_refused_before_they_are_computed():
    embeddings, identities = np.ones((30_000, 1), np.float32), np.arange(30_000) // 2
    with pytest.raises(EvaluationError, match="30000 images make 449985000 pairs, more than max_pairs = 200000000"):
        verify(embeddings, identities)
    assert verify(GOOD, WHO, max_pairs=10, replicates=0).images == 5
    with pytest.raises(EvaluationError, match="10 pairs, more than max_pairs = 9"):
        verify(GOOD, WHO, max_pairs=9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fars": (0.1, 0)}, "far is 0"),
        ({"replicates": -1}, "replicates is -1"),
        ({"confidence": 1.0}, "confidence is 1"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(InputError, match=message):
        verify(GOOD, WHO, **arguments)


def images(count=4):
    return np.random.default_rng(0).integers(0, 256, (count, 5, 4, 3), dtype=np.uint8)


def test_pixel_embeddings_subtract_the_mean_image():
    faces_seen, mean = images(), np.random.default_rng(1).uniform(0, 255, (5, 4, 3))
    rows = pixel_embeddings(faces_seen, mean)
    assert (rows.shape, rows.dtype) == ((4, 60), np.float32)
    for row, image in zip(rows, faces_seen, strict=True):
        expected = [float(image[y, x, c]) - mean[y, x, c] for y in range(5) for x in range(4) for c in range(3)]
        np.testing.assert_allclose(row, expected, rtol=0, atol=1e-4)


def test_pixel_embeddings_without_a_mean_use_their_own():
    faces_seen = images()
    rows = pixel_embeddings(faces_seen)
    np.testing.assert_allclose(rows.sum(axis=0), 0, atol=1e-3)
    np.testing.assert_array_equal(rows, pixel_embeddings(faces_seen, faces_seen.mean(axis=0)))
    assert faces_seen.dtype == np.uint8
    assert verify(rows, [0, 0, 1, 1], replicates=0).impostor == 4


@pytest.mark.parametrize(
    ("pixels", "mean", "error", "message"),
    [
        (images().astype(np.float32), None, InputError, "dtype float32; expected uint8"),
        (images()[0], None, InputError, r"shape \(5, 4, 3\)"),
        (images().transpose(0, 3, 1, 2), None, InputError, r"expected uint8 \(N, H, W, 3\)"),
        (images()[:0], None, EvaluationError, "there are no pixels"),
        (images(), np.zeros((4, 5, 3)), InputError, r"mean has shape \(4, 5, 3\); expected .* \(5, 4, 3\)"),
        (images(), np.zeros(60), InputError, r"pixels of mean have shape \(60,\)"),
        (images(), np.full((5, 4, 3), np.nan), EvaluationError, "pixels of mean hold 60 NaN"),
    ],
)
def test_images_that_are_no_pixel_embeddings(pixels, mean, error, message):
    with pytest.raises(error, match=message):
        pixel_embeddings(pixels, mean)
