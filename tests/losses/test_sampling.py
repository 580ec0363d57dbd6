"""Partial sampling, updates of the sampled rows alone, and clipping, in one process."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import coreface as cf
from coreface.distributed.gradient_norm import clip_gradients, gradient_norm
from coreface.losses.sampling import sampled, update_own_rows
from support import naive_losses as naive


def draw(seed=0, call=0, start=0, count=1000, rate=0.3):
    return sampled(seed, torch.tensor(call), start, count, rate, torch.device("cpu"))


def classifier(identities=40, size=5, rate=0.3, seed=0):
    torch.manual_seed(0)
    return cf.MarginClassifier(cf.ArcFace(8.0), size, identities, sample_rate=rate, seed=seed).double()


def batch(step=0, rows=6, identities=40, size=5):
    generator = torch.Generator().manual_seed(step)
    embeddings = torch.randn(rows, size, generator=generator, dtype=torch.float64)
    return embeddings.requires_grad_(), torch.randint(identities, (rows,), generator=generator)


@given(st.integers(0, 2**62), st.integers(0, 10**6), st.integers(0, 10**8), st.integers(0, 50))
def test_a_rows_lot_does_not_depend_on_the_split(seed, call, start, cut):
    whole = draw(seed, call, start, 50)
    parts = [draw(seed, call, start, cut), draw(seed, call, start + cut, 50 - cut)]
    assert torch.equal(whole, torch.cat(parts))


def test_lots_have_the_probability_and_are_independent():
    count, rate = 20_000, 0.3
    draws = torch.stack([draw(seed, call, 0, count, rate) for seed in (0, 1) for call in range(20)]).double()
    error = math.sqrt(rate * (1 - rate) / count)
    assert (draws.mean(dim=1) - rate).abs().max() < 5 * error
    assert (draws.mean(dim=0).std() - math.sqrt(rate * (1 - rate) / len(draws))).abs() < 0.003
    together = draws @ draws.t() / count
    apart = together[~torch.eye(len(draws), dtype=torch.bool)]
    assert (apart - rate**2).abs().max() < 6 * error
    neighbours = (draws[:, 1:] * draws[:, :-1]).mean()
    assert neighbours.item() == pytest.approx(rate**2, abs=0.003)


def test_rates_at_the_edges():
    assert draw(rate=1e-12).sum() == 0
    assert draw(rate=1 - 1e-12).all()


def test_the_loss_is_that_over_targets_and_sample():
    classify = classifier()
    for step in range(3):
        embeddings, identities = batch(step)
        classify.touched.zero_()
        loss = classify(embeddings, identities)
        chosen = classify.touched.nonzero().squeeze(1)
        assert set(identities.tolist()) <= set(chosen.tolist())
        expected_sample = set(draw(0, step, 0, 40).nonzero().squeeze(1).tolist()) | set(identities.tolist())
        assert set(chosen.tolist()) == expected_sample
        places = torch.tensor([chosen.tolist().index(y) for y in identities.tolist()])
        logits = naive.margin_logits(embeddings, classify.weight[chosen], places, name="arcface", scale=8.0, margin=0.5)
        expected = naive.cross_entropy(logits, places)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-10)
        inputs = (embeddings, classify.weight)
        for a, b in zip(torch.autograd.grad(loss, inputs), torch.autograd.grad(expected, inputs), strict=True):
            torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)
    assert classify.calls == 3


def test_a_seed_repeats_and_a_restored_state_goes_on():
    first, second, other = classifier(), classifier(), classifier(seed=1)
    losses = [[made(*batch(step)).item() for step in range(3)] for made in (first, second, other)]
    assert losses[0] == losses[1] != losses[2]
    resumed = classifier()
    resumed.load_state_dict(first.state_dict())
    assert resumed(*batch(9)).item() == first(*batch(9)).item()


def test_eval_mode_compares_with_everyone():
    sampling, full = classifier().eval(), classifier(rate=1.0)
    assert sampling(*batch()).item() == full(*batch()).item()
    assert sampling.calls == 0
    assert not sampling.touched.any()


def test_sgd_moves_touched_rows_alone():
    classify = classifier()
    bias = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    optimizer = torch.optim.SGD([bias, classify.weight], lr=0.1, momentum=0.9, weight_decay=0.05)
    update_own_rows(optimizer, classify.weight, classify.touched)
    rows = classify.weight.detach().clone().tolist()
    momenta = [[0.0] * 5 for _ in rows]
    untouched_once = False
    for step in range(4):
        (classify(*batch(step)) + bias.sum()).backward()
        gradient, touched = classify.weight.grad.tolist(), classify.touched.clone()
        untouched_once |= not touched.all()
        optimizer.step()
        optimizer.zero_grad()
        assert not classify.touched.any()
        for row in touched.nonzero().squeeze(1).tolist():
            for k in range(5):
                momenta[row][k] = 0.9 * momenta[row][k] + gradient[row][k] + 0.05 * rows[row][k]
                rows[row][k] -= 0.1 * momenta[row][k]
        torch.testing.assert_close(classify.weight.detach(), torch.tensor(rows, dtype=torch.float64))
        buffer = optimizer.state[classify.weight]["momentum_buffer"]
        torch.testing.assert_close(buffer, torch.tensor(momenta, dtype=torch.float64))
    assert untouched_once
    assert bias[0] != 1
    assert [len(group["params"]) for group in optimizer.param_groups] == [2]
    assert optimizer.param_groups[0]["params"][1] is classify.weight


@pytest.mark.parametrize("make", [torch.optim.SGD, torch.optim.AdamW])
def test_rows_left_alone_keep_every_bit(make):
    classify = classifier(rate=0.1)
    optimizer = make([classify.weight], lr=0.1, weight_decay=0.5)
    update_own_rows(optimizer, classify.weight, classify.touched)
    for step in range(3):
        before = classify.weight.detach().clone()
        state = {k: v.clone() for k, v in optimizer.state[classify.weight].items()}
        classify(*batch(step)).backward()
        touched = classify.touched.clone()
        optimizer.step()
        optimizer.zero_grad()
        assert torch.equal(classify.weight[~touched], before[~touched])
        assert (classify.weight[touched] != before[touched]).any(dim=1).all()
        for name, value in state.items():
            if value.shape == before.shape:
                assert torch.equal(optimizer.state[classify.weight][name][~touched], value[~touched])


def test_without_sampling_the_optimizer_is_what_it_was():
    results = []
    for attach in (False, True):
        classify = classifier(rate=1.0)
        optimizer = torch.optim.AdamW(classify.parameters(), lr=0.1)
        if attach:
            update_own_rows(optimizer, classify.weight)
        for step in range(3):
            classify(*batch(step)).backward()
            optimizer.step()
            optimizer.zero_grad()
        results.append((classify.weight.detach(), optimizer.state_dict()["state"]))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].keys() == results[1][1].keys()
    for name, value in results[0][1][0].items():
        assert torch.equal(value, results[1][1][0][name])


def test_two_calls_before_a_step_touch_both_samples():
    classify = classifier()
    for step in range(2):
        classify(*batch(step)).backward()
    moved = (classify.weight.grad != 0).any(dim=1)
    assert (classify.touched | ~moved).all()
    assert classify.touched.sum() > draw(0, 0, 0, 40).sum()


@pytest.mark.parametrize("rate", [0.0, -0.1, 1.5, math.nan])
def test_bad_rates(rate):
    with pytest.raises(cf.InputError, match="sample_rate is"):
        cf.MarginClassifier(cf.ArcFace(), 4, 3, sample_rate=rate)


@pytest.mark.parametrize("limit", [0.1, 1e6])
def test_clipping(limit):
    parameters = [torch.nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in (3, (2, 4), ())]
    for parameter in parameters[:2]:
        parameter.grad = torch.randn_like(parameter)
    before = [parameter.grad.clone() for parameter in parameters[:2]]
    expected = math.sqrt(sum(v * v for gradient in before for v in gradient.flatten().tolist()))
    assert gradient_norm(parameters).item() == pytest.approx(expected)
    assert clip_gradients(parameters, limit).item() == pytest.approx(expected)
    for parameter, gradient in zip(parameters, before, strict=False):
        torch.testing.assert_close(parameter.grad, gradient * min(1.0, limit / expected), rtol=1e-4, atol=0)
    assert gradient_norm([parameters[2]]) == 0
