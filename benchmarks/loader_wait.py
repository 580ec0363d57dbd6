"""How much of a training step is waiting for data, and what augmentation costs the loader.

The step is that of iresnet18 on real faces, through the loader with its workers.

    python benchmarks/loader_wait.py train.rec [--workers 2] [--batch 32] [--steps 12]

A step is all that passes between two batches asked for: waiting, and training on the one before. The first steps, in
which the workers start, are left out of the share and printed apart.

The rate of the loader alone, in one process without workers, is that of flips only and that with every kind of
augmentation in every image; the two take turns, batch by batch, in time of the processor, so that other work does not
count. The goal is half of the rate.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import torch
from timing import PRECISIONS, machine, ratio, synchronise

from coreface.data import Augmentation, FaceLoader, FaceSource, open_faces
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe
from coreface.training.recipe_sections import ModelRecipe, OptimizerRecipe, StageRecipe
from coreface.training.trainer import Trainer

WARMUP = 2
EVERYTHING = Augmentation((0.9, 1.1), 10.0, 0.05, crop=1.0, photometric=1.0, low_resolution=1.0, erase=1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="faces: whatever `coreface train` takes")
    parser.add_argument("--backbone", default="iresnet18")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    options = parser.parse_args()
    source = open_faces(options.path)
    recipe = Recipe(
        model=ModelRecipe(backbone=options.backbone),
        data=DataRecipe(train=options.path, workers=options.workers),
        stages=[StageRecipe(dropout=0.4)],
        optimizer=OptimizerRecipe(batch_size=options.batch, epochs=1),
        precision=options.precision,
    )
    waits, steps = [], []
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, source, Path(folder))
        trainer.encoder.train()
        trainer.objective.train()
        begun = time.perf_counter()
        batches = trainer.loader.epoch(1)
        for _ in range(WARMUP + options.steps):
            images, identities = next(batches)
            synchronise()
            ready = time.perf_counter()
            trainer.train_step(0, 1e-3, images, identities)
            synchronise()
            done = time.perf_counter()
            waits.append(ready - begun)
            steps.append(done - begun)
            begun = done
    print(f"{machine()}, torch on {torch.get_num_threads()} threads; {options.path}, {len(source)} images")
    shares = [wait / step for wait, step in zip(waits[WARMUP:], steps[WARMUP:], strict=True)]
    middle = statistics.median(steps[WARMUP:])
    print(
        f"{options.backbone}, batch {options.batch}, {trainer.precision}, {options.workers} workers: "
        f"a step {middle:.3f} s ({options.batch / middle:.1f} images/s); "
        f"waiting {sum(waits[WARMUP:]) / sum(steps[WARMUP:]):.2%} of it "
        f"(single steps {min(shares):.2%} to {max(shares):.2%}; the first batch came after {waits[0]:.2f} s)"
    )
    print_rates(source, options.batch, options.steps)


def print_rates(source: FaceSource, batch: int, rounds: int) -> None:
    """Print images a second of the loader with flips only and with everything."""
    epochs = {
        name: batches(FaceLoader(source, batch, augment=augment))
        for name, augment in (("flips only", None), ("everything of data.augment", EVERYTHING))
    }
    cv2.setNumThreads(0)  # as in a worker
    times: dict[str, list[float]] = {name: [] for name in epochs}
    for _ in range(WARMUP + rounds):
        for name, epoch in epochs.items():
            begun = time.process_time()
            next(epoch)
            times[name].append(time.process_time() - begun)
    for name in times:
        times[name] = times[name][WARMUP:]
        print(f"  loader alone, {name:<26}  {batch / statistics.median(times[name]):8.1f} images/s of the processor")
    print(f"  rate with everything / with flips only   {ratio(times, *epochs)}   goal 0.5")


def batches(loader: FaceLoader) -> Iterator[object]:
    """Yield the batches of one epoch after another."""
    while True:
        yield from loader


if __name__ == "__main__":
    main()
