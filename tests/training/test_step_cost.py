"""What a step holds, sends and computes by the formula, against measured steps; and the tables made from it."""

import dataclasses
import math
import runpy
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import coreface as cf
from coreface.losses.cosine_chunks import CHUNK
from coreface.training.step_cost import Setting, Trunk, bytes_sent, flops, measured_trunk, memory
from support import step_cost_jobs as jobs
from support.gloo import Processes

# torch counts addmm, but not the one that adds in place.
IN_PLACE = {torch.ops.aten.addmm_: lambda into, a, b, *_, **__: 2 * a[0] * a[1] * b[1]}
REPOSITORY = Path(__file__).parents[2]


def run(groups, count, job, *arguments):
    return groups[count](job, [(*arguments,)] * count)


def settings(count, **changes):
    return Setting(processes=count, chunk=CHUNK["cpu"], **{"identities": 4001, "batch": 8, **changes})


@pytest.mark.parametrize("sample_rate", [1.0, 0.1])
def test_flops_are_those_torch_counts(sample_rate):
    setting = settings(1, identities=20_000, batch=16, embedding_size=64, sample_rate=sample_rate)
    classify = cf.MarginClassifier(cf.ArcFace(), 64, setting.identities, sample_rate=sample_rate)
    embeddings = torch.randn(setting.embeddings, 64, requires_grad=True)
    identities = torch.randint(setting.identities, (16,)).repeat(2)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        classify(embeddings, identities).backward()
    one_centre = 3 * 2 * setting.embeddings * 64
    compared = setting.identities if sample_rate == 1 else int(classify.touched.sum())
    assert counter.get_total_flops() == one_centre * compared
    error = math.sqrt(setting.identities * sample_rate * (1 - sample_rate))
    assert abs(flops(setting).classifier / one_centre - compared) <= 6 * error


def test_flops_of_subcentres():
    setting = settings(1, identities=9000, batch=16, embedding_size=64, subcentres=3)
    classify = cf.MarginClassifier(cf.ArcFace(), 64, setting.identities, subcentres=3)
    embeddings = torch.randn(setting.embeddings, 64, requires_grad=True)
    with FlopCounterMode(display=False, custom_mapping=IN_PLACE) as counter:
        classify(embeddings, torch.randint(setting.identities, (16,)).repeat(2)).backward()
    own = 2 * setting.embeddings * 3 * 64  # which centre of the own identity is the nearest
    assert counter.get_total_flops() - own == flops(setting).classifier


def test_flops_of_contrast():
    setting = settings(1, batch=24, embedding_size=64)
    views = [torch.randn(24, 64, requires_grad=True) for _ in range(2)]
    with FlopCounterMode(display=False) as counter:
        cf.CoReFaceLoss()(*views, torch.arange(24)).backward()
    assert flops(setting).contrast == counter.get_total_flops()
    assert flops(settings(4, batch=24, gather=True)).contrast == 4 * flops(settings(4, batch=24)).contrast


def test_flops_of_a_trunk():
    encoder = cf.FaceEncoder("mobilefacenet")
    trunk = measured_trunk("mobilefacenet", views=2)
    assert trunk.parameters == sum(p.numel() for p in encoder.parameters() if p.requires_grad)
    with FlopCounterMode(display=False) as counter:
        sum(view.sum() for view in encoder.views(torch.randn(3, 3, 112, 112), 2)).backward()
    assert trunk.flops_per_image * 3 == pytest.approx(counter.get_total_flops(), rel=1e-12)
    assert flops(settings(1, batch=7, trunk=trunk)).trunk == 7 * trunk.flops_per_image


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("sample_rate", [1.0, 0.1])
def test_bytes_are_those_of_the_collectives(groups, count, sample_rate):
    setting = settings(count, embedding_size=32, sample_rate=sample_rate, gather=True, trunk=Trunk(777))
    wanted = bytes_sent(setting)
    for calls in run(groups, count, jobs.sent, setting):
        for part in ("classifier", "contrast", "trunk"):
            assert jobs.ring(calls[part], count) == getattr(wanted, part) > 0, part
    assert bytes_sent(settings(count, embedding_size=32)).contrast == 0
    assert bytes_sent(settings(1, gather=True, trunk=Trunk(777))).total == 0


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_memory_between_steps(groups, count, optimizer):
    setting = settings(count, identities=401, embedding_size=32, optimizer=optimizer, trunk=Trunk(32 * 32))
    held = run(groups, count, jobs.held, setting)
    assert held[0] == memory(setting).held
    assert all(other <= held[0] for other in held)


@pytest.mark.skipif(not jobs.PEAK.exists(), reason="reads a process's peak where Linux shows it")
@pytest.mark.parametrize(
    ("count", "sample_rate", "batch", "size", "subcentres"),
    [(1, 1.0, 64, 256, 1), (2, 1.0, 64, 256, 1), (1, 0.3, 64, 256, 1), (2, 0.3, 256, 32, 1), (1, 1.0, 64, 128, 3)],
)
def test_memory_of_a_step(tmp_path, count, sample_rate, batch, size, subcentres):
    setting = settings(count, identities=60_001, batch=batch, embedding_size=size, sample_rate=sample_rate)
    setting = dataclasses.replace(setting, subcentres=subcentres)
    fresh = Processes(count, tmp_path)  # what an earlier test has freed could be used again, and go unseen
    try:
        peaks = run({count: fresh}, count, jobs.peak, setting)
    finally:
        fresh.close()
    assert peaks[0] == pytest.approx(memory(setting).step, rel=0.12)


def test_half_precision_halves_the_cosines():
    assert memory(settings(1, half=True)).cosines * 2 == memory(settings(1)).cosines


@pytest.mark.parametrize("identities", [1, 2, 7, 3000])
def test_sampled_centres_on_average(identities):
    setting = settings(1, identities=identities, batch=5, sample_rate=0.25)
    expected = sum(0.25 + 0.75 * (1 - (1 - 1 / identities) ** 5) for _ in range(identities))
    assert setting.compared == pytest.approx(expected)


def test_the_page_is_what_the_formula_says():
    tables = runpy.run_path(str(REPOSITORY / "benchmarks" / "step_cost.py"))["tables"]()
    assert tables.count("\n| ") == 2 * (1 + 4 * 4)
    assert tables in (REPOSITORY / "docs" / "scaling.md").read_text(encoding="utf-8")
