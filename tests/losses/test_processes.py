"""Losses over two and four processes equal those of one: values, states, all gradients."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import jobs
from gloo import Processes, split

PARTS = {2: [7, 4], 4: [3, 0, 5, 3]}  # of a batch: uneven, one without an image
IDENTITIES = torch.tensor([0, 1, 2, 2, 3, 0, 4, 4, 4, 5, 1])


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    made = {count: Processes(count, tmp_path_factory.mktemp("gloo")) for count in PARTS}
    yield made
    for processes in made.values():
        processes.close()


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
