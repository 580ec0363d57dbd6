"""How often 95 % intervals hold the truth, on simulated populations whose error rates are known.

python benchmarks/interval_coverage.py                1000 trials at 20, 100 and 300 identities
python benchmarks/interval_coverage.py --trials 100   a first look

Scores are normal. Each identity has an ease of its own, which all its genuine pairs share, and a likeness to others,
which all its impostor pairs share; together they explain a part of the variance (--share). Against the bootstrap over
identities stand its percentile interval and Wilson's interval of the pairs, taken for independent.
"""

import argparse
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from coreface.evaluation.metrics.pair_scores import PairScores
from coreface.evaluation.metrics.proportions import wilson
from coreface.evaluation.metrics.resampling import Statistic, resample
from coreface.evaluation.metrics.uncertainty import percentile_interval, rate_interval

FAR, THRESHOLD, DISTANCE = 1e-2, 1.8, 2.8
NORMAL = NormalDist()
STATISTICS: dict[str, Statistic] = {
    "FMR at a threshold": ("fmr", THRESHOLD),
    "FNMR at a threshold": ("fnmr", THRESHOLD),
    "TAR at FAR 0.01": ("tar", FAR),
}
TRUTH = (
    1 - NORMAL.cdf(THRESHOLD),
    NORMAL.cdf(THRESHOLD - DISTANCE),
    1 - NORMAL.cdf(NORMAL.inv_cdf(1 - FAR) - DISTANCE),
)
KINDS = ("ours", "percentile", "independent pairs")


@dataclass
class Coverage:
    """Of one statistic and kind of interval: how many held the truth, lay wholly above or below it, and their width."""

    held: int = 0
    above: int = 0
    below: int = 0
    width: float = 0.0

    def add(self, low: float, high: float, truth: float) -> None:
        self.held += low <= truth <= high
        self.above += truth < low
        self.below += high < truth
        self.width += high - low


def population(identities: int, images: int, share: float, seed: int) -> PairScores:
    """All pairs of a sample of a population in which genuine scores are N(2.8, 1) and impostor scores N(0, 1)."""
    generator = np.random.default_rng(seed)
    label = np.repeat(np.arange(identities), images)
    i, j = np.triu_indices(len(label), 1)
    first, second = label[i], label[j]
    ease = generator.normal(DISTANCE, np.sqrt(share), identities)
    wolf = generator.normal(0, np.sqrt(share / 2), identities)
    shared = np.where(first == second, ease[first], wolf[first] + wolf[second])
    return PairScores(shared + generator.normal(0, np.sqrt(1 - share), len(i)), first, second)


def coverage(
    identities: int, trials: int, *, images: int = 3, share: float = 0.4, replicates: int = 300
) -> dict[tuple[str, str], Coverage]:
    """Count over trials, by statistic and kind of interval."""
    found = {(name, kind): Coverage() for name in STATISTICS for kind in KINDS}
    for trial in range(trials):
        pairs = population(identities, images, share, seed=trial)
        sample = resample(pairs, list(STATISTICS.values()), replicates=replicates, seed=trial)
        genuine = int(np.count_nonzero(pairs.genuine))
        for place, (name, truth) in enumerate(zip(STATISTICS, TRUTH, strict=True)):
            estimate, values = float(sample.estimates[place]), sample.values[:, place]
            interval, percentile = rate_interval(estimate, values, identities), percentile_interval(values)
            number = len(pairs.scores) - genuine if name.startswith("FMR") else genuine
            ends = ((interval.low, interval.high), (percentile.low, percentile.high), wilson(estimate, number))
            for kind, (low, high) in zip(KINDS, ends, strict=True):
                if low is not None and high is not None:
                    found[name, kind].add(low, high, truth)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--identities", type=int, nargs="+", default=[20, 100, 300])
    parser.add_argument("--images", type=int, default=3, help="of each identity")
    parser.add_argument("--share", type=float, default=0.4, help="of the variance that identities explain")
    parser.add_argument("--replicates", type=int, default=300)
    options = parser.parse_args()
    print(
        f"{options.trials} trials, {options.images} images an identity, {options.replicates} replicates, identities "
        f"explain {100 * options.share:g} % of the variance; truth: FMR {TRUTH[0]:.4f}, FNMR {TRUTH[1]:.4f}, "
        f"TAR {TRUTH[2]:.4f}"
    )
    print(f"{'identities':>10}  {'rate':20} {'interval':18} {'held':>7} {'above':>7} {'below':>7} {'width':>8}")
    for identities in options.identities:
        found = coverage(
            identities,
            options.trials,
            images=options.images,
            share=options.share,
            replicates=options.replicates,
        )
        for (name, kind), counted in found.items():
            shares = (100 * count / options.trials for count in (counted.held, counted.above, counted.below))
            cells = " ".join(f"{share:5.1f} %" for share in shares)
            print(f"{identities:10}  {name:20} {kind:18} {cells} {counted.width / options.trials:8.4f}", flush=True)


if __name__ == "__main__":
    main()
