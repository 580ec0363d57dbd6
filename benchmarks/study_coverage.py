"""How often a study's 95 % intervals hold the truth, and how often it finds a difference that is not there.

python benchmarks/study_coverage.py                 2000 trials a row: 3, 5 and 10 seeds, who makes the differences
python benchmarks/study_coverage.py --trials 200    a first look

A trial is a whole study: two arms, n seeds, 300 people with three genuine pairs each, every pair accepted or not at a
threshold. What decides a pair is normal: the person, the person in this arm, the run, the person in this run, and the
pair. Seeds and people are drawn anew in every trial, so the truth, the difference of the two acceptance rates over all
seeds and all people, is known. Against the interval of a study (coreface.studies.statistics) stand the percentile
interval of a bootstrap over seeds and people together, and Student's interval of the seeds alone.

The null studies have four arms without any difference and three contrasts; a study gives a false alarm where Holm's
procedure rejects one of them at 5 %.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from math import sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from coreface.evaluation.metrics.resampling import identity_weights
from coreface.studies.statistics import holm, paired_effect
from coreface.studies.student import two_sided_quantile

PEOPLE, PAIRS, REPLICATES = 300, 3, 400
NORMAL = NormalDist()
CONTRASTS = ((1, 0), (2, 1), (3, 2))


@dataclass(frozen=True)
class Spread:
    """Variances of what decides a pair; with those of the person and the pair they add up to 1."""

    person_in_arm: float
    run: float
    person_in_run: float


SPREADS = {
    "seeds": Spread(person_in_arm=0.005, run=0.02, person_in_run=0.02),
    "mixed": Spread(person_in_arm=0.06, run=0.002, person_in_run=0.05),
    "people": Spread(person_in_arm=0.15, run=0.0, person_in_run=0.005),
    "people in a seed": Spread(person_in_arm=0.0, run=0.0, person_in_run=0.3),
}
PERSON = 0.3


def simulate(
    spread: Spread, means: tuple[float, ...], seeds: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Return (arms, seeds, people), the share of the pairs of a person that a run accepts."""
    arms = len(means)
    shape = (arms, seeds, PEOPLE)
    shared = generator.normal(0, sqrt(PERSON), PEOPLE)
    shared = shared + generator.normal(0, sqrt(spread.person_in_arm), (arms, 1, PEOPLE))
    shared = shared + generator.normal(0, sqrt(spread.run), (arms, seeds, 1))
    shared = shared + generator.normal(0, sqrt(spread.person_in_run), shape) + np.array(means).reshape(arms, 1, 1)
    rest = 1 - PERSON - spread.person_in_arm - spread.run - spread.person_in_run
    # What is particular to a pair of photographs is half the same to every network.
    photographs = generator.normal(0, sqrt(rest / 2), (1, 1, PEOPLE, PAIRS))
    scores = shared[..., None] + photographs + generator.normal(0, sqrt(rest / 2), (*shape, PAIRS))
    accepted: NDArray[np.float64] = (scores > 0).mean(axis=-1)
    return accepted


@cache
def resamples() -> NDArray[np.float64]:
    """Return (replicates, people) weights of mean 1 / people; trials are independent although they share them."""
    return np.stack(list(identity_weights(PEOPLE, REPLICATES))) / PEOPLE


def plain_bootstrap(differences: NDArray[np.float64], generator: np.random.Generator) -> tuple[float, float]:
    """Percentile interval of the mean of (seeds, people) differences, both resampled."""
    seeds = len(differences)
    drawn = generator.multinomial(seeds, np.full(seeds, 1 / seeds), REPLICATES) / seeds
    values = ((resamples() @ differences.T) * drawn).sum(axis=1)
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def seeds_alone(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Student's interval of the seeds' differences, as if there were no other people."""
    each = differences.mean(axis=1)
    half = two_sided_quantile(0.05, len(each) - 1) * float(each.std(ddof=1)) / sqrt(len(each))
    return float(each.mean()) - half, float(each.mean()) + half


def coverage(spread: Spread, seeds: int, trials: int, first: int = 0) -> dict[str, tuple[float, float]]:
    """Return by kind of interval the share of trials in which it holds the truth, and its mean width."""
    means = (0.8, 0.9)
    truth = NORMAL.cdf(means[1]) - NORMAL.cdf(means[0])
    ends: dict[str, list[tuple[float, float]]] = {"study": [], "plain bootstrap": [], "seeds alone": []}
    for generator in generators(trials, first):
        accepted = simulate(spread, means, seeds, generator)
        differences = accepted[1] - accepted[0]
        effect = paired_effect(differences.mean(axis=1), resamples() @ differences.T, PEOPLE)
        ends["study"].append((effect.low or 0.0, effect.high or 0.0))
        ends["plain bootstrap"].append(plain_bootstrap(differences, generator))
        ends["seeds alone"].append(seeds_alone(differences))
    found = {}
    for kind, intervals in ends.items():
        low, high = np.array(intervals).T
        found[kind] = (float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean()))
    return found


def false_alarms(spread: Spread, seeds: int, studies: int, first: int = 0) -> tuple[int, int]:
    """Return in how many null studies Holm's procedure, and an uncorrected test, rejected a contrast at 5 %."""
    corrected = uncorrected = 0
    for generator in generators(studies, first):
        accepted = simulate(spread, (0.8,) * 4, seeds, generator)
        p_values = []
        for one, other in CONTRASTS:
            differences = accepted[one] - accepted[other]
            p_values.append(paired_effect(differences.mean(axis=1), resamples() @ differences.T, PEOPLE).p_value)
        corrected += any(p is not None and p < 0.05 for p in holm(p_values))
        uncorrected += any(p is not None and p < 0.05 for p in p_values)
    return corrected, uncorrected


def generators(count: int, first: int) -> Iterator[np.random.Generator]:
    """Yield a generator of random numbers a trial."""
    return (np.random.default_rng((first + trial, 7)) for trial in range(count))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[3, 5, 10])
    options = parser.parse_args()
    print(f"{options.trials} trials, {PEOPLE} people; share of 95 % intervals that hold the truth (mean width)")
    print(f"{'differences by':18} {'seeds':>5}  {'study':>18} {'plain bootstrap':>18} {'seeds alone':>18}")
    for name, spread in SPREADS.items():
        for seeds in options.seeds:
            found = coverage(spread, seeds, options.trials)
            cells = " ".join(f"{100 * held:8.1f} % ({width:.3f})" for held, width in found.values())
            print(f"{name:18} {seeds:5}  {cells}", flush=True)
    print(f"\n{options.trials} null studies of 4 arms and 3 contrasts; share with a false alarm at 5 %")
    print(f"{'differences by':18} {'seeds':>5} {'Holm':>10} {'uncorrected':>12}")
    for name, spread in SPREADS.items():
        for seeds in options.seeds:
            corrected, uncorrected = (100 * n / options.trials for n in false_alarms(spread, seeds, options.trials))
            print(f"{name:18} {seeds:5} {corrected:8.1f} % {uncorrected:10.1f} %", flush=True)


if __name__ == "__main__":
    main()
