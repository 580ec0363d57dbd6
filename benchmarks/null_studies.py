"""Real studies in which there is nothing to find: two arms that differ in their random stream alone (branch_seed).

python benchmarks/null_studies.py               20 studies of 3 seeds on the ORL faces, a small network at 16 pixels
python benchmarks/null_studies.py --studies 3   a first look

Each study has seeds of its own. Printed are the difference, the interval and the p-value of each, and how many p-values
are below 0.05, where 5 % are expected. Twenty studies say little of that share; benchmarks/study_coverage.py counts it.
"""

import argparse
import dataclasses
import tempfile
from pathlib import Path

from rich.console import Console
from torch import nn

import coreface as cf
from coreface.studies.job import SHARED, Job, run_job
from coreface.studies.results import Place
from coreface.studies.study_file import read_study
from coreface.studies.summary import Contrast, summarise

BASE = """
model: {backbone: three_convolutions, embedding_size: 64}
classifier: {margin: {name: arcface, scale: 32, margin: 0.2}}
data: {train: orl, image_size: 16, workers: 0, holdout: 10}
stages: [{from_epoch: 1, views: 1, dropout: 0.1}]
optimizer: {lr: 0.05, batch_size: 30, epochs: 12, schedule: cosine, warmup_epochs: 1}
evaluation: {every: 12}
precision: float32
device: cpu
threads: 1
"""
STUDY = """
base: base.yaml
shared_until: 6
arms: {one: {}, other: {branch_seed: 1}}
contrasts: [[other, one]]
primary: {faces: held_out, measure: eer}
measure: {faces: [held_out], fars: [0.1]}
seeds: [1, 2, 3]
"""


@cf.register_backbone("three_convolutions", help="small enough for studies of seconds")
def three_convolutions(embedding_size: int, image_size: int) -> cf.Backbone:
    """Return three convolutions of stride 2."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 32), (32, 64)):
        layers += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.PReLU(outputs)]
    features = 64 * (image_size // 8) ** 2
    return cf.ModuleBackbone(nn.Sequential(*layers), features, embedding_size, image_size)


def null_study(number: int, folder: Path) -> Contrast:
    """Make the runs of a null study, with the seeds 10 x number + 1, 2, 3, and return its primary contrast."""
    (folder / "base.yaml").write_text(BASE, encoding="utf-8")
    (folder / "study.yaml").write_text(STUDY, encoding="utf-8")
    study = read_study(folder / "study.yaml")
    study = dataclasses.replace(study, seeds=tuple(10 * number + seed for seed in study.seeds))
    place = Place(folder / "made")
    for seed in study.seeds:
        for arm in (SHARED, *study.arms):
            run_job(Job(study, place, seed, arm), Console(quiet=True))
    return summarise(study, place).contrasts[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=20)
    options = parser.parse_args()
    print(f"{'study':>5} {'difference of the EER':>22} {'95 % interval':>18} {'p':>7}")
    below = 0
    for number in range(options.studies):
        with tempfile.TemporaryDirectory() as folder:
            effect = null_study(number, Path(folder)).effect
        if effect.difference is None or effect.p_value is None or effect.low is None or effect.high is None:
            print(f"{number:5} {effect.reason}", flush=True)
            continue
        below += effect.p_value < 0.05
        between = f"{100 * effect.low:+.2f} to {100 * effect.high:+.2f}"
        print(f"{number:5} {100 * effect.difference:+15.2f} points {between:>18} {effect.p_value:7.3f}", flush=True)
    print(f"{below} of {options.studies} p-values below 0.05")


if __name__ == "__main__":
    main()
