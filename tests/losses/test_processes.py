"""Losses over two and four processes equal those of one: values, states, all gradients."""

import math

import pytest
import torch

from support import loss_jobs as jobs
from support.gloo import split

PARTS = {2: [7, 4], 4: [3, 0, 5, 3]}  # of a batch: uneven, one without an image
IDENTITIES = torch.tensor([0, 1, 2, 2, 3, 0, 4, 4, 4, 5, 1])


def assert_close(one, other):
    torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9, equal_nan=True)


def batches(steps, seed=0, size=6):
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(steps):
        base = torch.randn(len(IDENTITIES), size, generator=generator, dtype=torch.float64)
        noise = torch.randn(2, len(IDENTITIES), size, generator=generator, dtype=torch.float64)
        made.append((base + 0.5 * noise[0], base + 0.5 * noise[1], IDENTITIES))
    return made


@pytest.mark.parametrize("count", PARTS)
@pytest.mark.parametrize("mask", ["exclude", "zero"])
@pytest.mark.parametrize("protocol", ["one_way", "two_way", "all", "half"])
def test_contrast_over_all_processes(groups, count, mask, protocol):
    arguments = {"scale": 16.0, "ema": 0.7, "mask": mask, "protocol": protocol, "gather": True}
    steps = batches(2)
    parts = [[split(rows, PARTS[count]) for rows in step] for step in steps]
    spread = groups[count](
        jobs.contrast, [(arguments, [[rows[rank] for rows in step] for step in parts]) for rank in range(count)]
    )
    alone = jobs.contrast(arguments, steps)
    for step, (value, gradient1, gradient2, last) in enumerate(alone):
        for rank in range(count):
            assert_close(spread[rank][step][0], value)
            for ours, theirs in zip(spread[rank][step][3], last, strict=True):
                assert_close(ours, theirs)
        assert_close(torch.cat([spread[rank][step][1] for rank in range(count)]), gradient1)
        assert_close(torch.cat([spread[rank][step][2] for rank in range(count)]), gradient2)


def test_contrast_of_every_process_for_itself(groups):
    one, other, identities = batches(1)[0]
    parts = [split(rows, PARTS[2]) for rows in (one, other, identities)]
    spread = groups[2](jobs.contrast, [({}, [[rows[rank] for rows in parts]]) for rank in range(2)])
    for rank in range(2):
        value, gradient1, _, last = jobs.contrast({}, [[rows[rank] for rows in parts]])[0]
        assert_close(spread[rank][0][0], value)
        assert_close(spread[rank][0][1], gradient1)
        assert_close(spread[rank][0][3][2], last[2])
    assert not math.isclose(spread[0][0][0], spread[1][0][0])


def test_no_negatives_in_any_process(groups):
    one, other, _ = batches(1)[0]
    parts = [split(rows, PARTS[4]) for rows in (one, other, torch.zeros(len(one), dtype=torch.int64))]
    spread = groups[4](jobs.contrast, [({"gather": True}, [[rows[rank] for rows in parts]]) for rank in range(4)])
    for [(value, gradient1, _, last)] in spread:
        assert value == 0
        assert not gradient1.any()
        assert last[2] == 0
        assert last[3] == len(one) * (len(one) - 1)


CENTRES = {2: 101, 4: 9}  # uneven; 9 on 4 leaves the last process without one


def labelled(count, steps, size=6, seed=1, subcentres=1):
    """Return centres, and batches of embeddings with repeated identities."""
    generator = torch.Generator().manual_seed(seed)
    shape = (CENTRES[count], size) if subcentres == 1 else (CENTRES[count], subcentres, size)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    made = []
    for _ in range(steps):
        embeddings = 1.5 * torch.randn(11, size, generator=generator, dtype=torch.float64)
        identities = torch.randint(CENTRES[count], (11,), generator=generator)
        identities[4:6] = identities[0]
        made.append((embeddings, identities))
    return weight, made


def per_rank(count, steps):
    parts = [[split(rows, PARTS[count]) for rows in step] for step in steps]
    return [[tuple(rows[rank] for rows in step) for step in parts] for rank in range(count)]


@pytest.mark.parametrize("count", PARTS)
@pytest.mark.parametrize("sample_rate", [1.0, 0.4])
@pytest.mark.parametrize(
    ("margin", "subcentres"), [(name, k) for name in jobs.MARGINS for k in jobs.SUBCENTRES.get(name, (1,))]
)
def test_sharded_classifier(groups, count, sample_rate, margin, subcentres):
    weight, steps = labelled(count, 2, subcentres=subcentres)
    spread = groups[count](jobs.classify, [(margin, weight, sample_rate, own) for own in per_rank(count, steps)])
    alone = jobs.classify(margin, weight, sample_rate, steps)
    for step, (loss, to_embeddings, to_weight, state) in enumerate(alone):
        for rank in range(count):
            assert_close(spread[rank][step][0], loss)
            assert spread[rank][step][3].keys() == state.keys()
            for name, value in state.items():
                assert_close(spread[rank][step][3][name], value)
        assert_close(torch.cat([spread[rank][step][1] for rank in range(count)]), to_embeddings)
        assert_close(torch.cat([spread[rank][step][2] for rank in range(count)]), to_weight)
        if sample_rate < 1:
            identities = steps[step][1]
            moved = to_weight.flatten(1).abs().sum(dim=1) > 0
            assert moved[identities].all()
            assert moved.sum() < len(weight)


@pytest.mark.parametrize("optimizer", jobs.OPTIMIZERS)
@pytest.mark.parametrize("sample_rate", [1.0, 0.5])
@pytest.mark.parametrize("count", PARTS)
@pytest.mark.filterwarnings("ignore:torch.distributed is")
def test_steps_with_clipping_and_saved_state(groups, count, sample_rate, optimizer, tmp_path):
    weight, steps = labelled(count, 3)
    trunk = torch.eye(6, dtype=torch.float64)
    folder = tmp_path / "saved" if sample_rate < 1 else None
    spread = groups[count](
        jobs.train, [(optimizer, weight, trunk, sample_rate, own, folder) for own in per_rank(count, steps)]
    )
    norms, moved, centres, momenta = jobs.train(optimizer, weight, trunk, sample_rate, steps)
    assert max(norms) > 0.5
    for ours in spread:
        for one, other in zip(ours[0], norms, strict=True):
            assert_close(one, other)
        assert_close(ours[1], moved)
        assert_close(ours[2], centres)
        assert momenta
        assert ours[3].keys() == momenta.keys()
        for name, value in momenta.items():
            assert_close(ours[3][name], value)
    if folder is not None:  # the other number of processes reads it, and so does one alone
        arguments = (weight, list(momenta), folder)
        answers = groups[6 - count](jobs.restore, [arguments] * (6 - count))
        for restored, calls, values in [*answers, jobs.restore(*arguments)]:
            assert_close(restored, centres)
            assert calls == len(steps)
            for name, value in momenta.items():
                assert_close(values[name], value)


@pytest.mark.parametrize("subcentres", [1, 3])
@pytest.mark.parametrize("count", PARTS)
def test_initial_centres_do_not_depend_on_the_processes(groups, count, subcentres):
    expected, following, _ = jobs.initial(2500, 3, subcentres)
    spread = groups[count](jobs.initial, [(2500, 3, subcentres)] * count)
    for centres, after, _ in spread:
        assert torch.equal(centres, expected)
        assert torch.equal(after, following)
    assert sum(shape[0] for _, _, shape in spread) == 2500


def test_logits_of_sharded_centres(groups):
    weight, [(embeddings, identities)] = labelled(2, 1)
    for logits in groups[2](jobs.look, [(weight, embeddings, identities)] * 2):
        assert_close(logits, jobs.look(weight, embeddings, identities))
