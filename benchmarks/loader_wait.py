"""How much of a training step is waiting for data: iresnet18 on real faces, through the loader with its workers.

    python benchmarks/loader_wait.py train.rec [--workers 2] [--batch 32] [--steps 12]

A step is all that passes between two batches asked for: waiting, and training on the one before. The first steps, in
which the workers start, are left out of the share and printed apart.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from timing import PRECISIONS, machine, synchronise

from coreface.data import open_faces
from coreface.training.recipe import Recipe
from coreface.training.recipe_sections import DataRecipe, ModelRecipe, OptimizerRecipe, StageRecipe
from coreface.training.trainer import Trainer

WARMUP = 2


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


if __name__ == "__main__":
    main()
