"""What a checkpoint every 100 steps costs a training: written beside it, or while it waits.

python benchmarks/checkpoint_cost.py                the time of 100 steps is that of a few, times 100 / their number
python benchmarks/checkpoint_cost.py --rounds 3     fewer

A step and a checkpoint are measured by the same trainer, in turn: a step; the copy that the training waits for, and the
steps beside which the file is written, as against as many alone; and a checkpoint that is waited for to its end.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
from timing import PRECISIONS, Noise, Precision, machine, seconds

from coreface.training.checkpoint_facts import CheckpointFacts
from coreface.training.checkpoint_state import module_tensors, optimizer_tensors
from coreface.training.checkpoint_writer import CheckpointWriter
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe
from coreface.training.recipe_sections import ModelRecipe, OptimizerRecipe
from coreface.training.trainer import Trainer

IDENTITIES, EVERY = 10_572, 100


def measure(backbone: str, batch: int, precision: Precision, rounds: int) -> None:
    recipe = Recipe(
        model=ModelRecipe(backbone=backbone),
        data=DataRecipe(train="noise", workers=0),
        optimizer=OptimizerRecipe(batch_size=batch, epochs=1),
        precision=precision,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, Noise(IDENTITIES, IDENTITIES), Path(folder))
        trainer.encoder.train()
        trainer.objective.train()
        images, identities = next(trainer.loader.epoch(1))

        def step() -> None:
            trainer.train_step(0, 1e-3, images, identities)

        modules = {"encoder": trainer.encoder, "objective": trainer.objective}
        tensors = {**module_tensors(modules), **optimizer_tensors(trainer.stepper.optimizer, modules)}
        facts = CheckpointFacts()
        size = sum(tensor.nbytes for tensor in tensors.values())
        step()
        alone, beside, waited, whole = [], [], [], []
        with CheckpointWriter(Path(folder), recipe.checkpoint) as writer:
            writer.save(0, tensors, facts, wait=True)  # the first one also makes room for the copies
            writer.written()
            for number in range(1, rounds + 1):
                alone.append(seconds(step))
                start = seconds(lambda number=number: writer.save(2 * number, tensors, facts, wait=False))
                steps = 0.0
                count = 0
                while not count or not (done := writer.written()):
                    steps += seconds(step)
                    count += 1
                waited.append(start)
                beside.append((steps, count, done[0].writing))
                whole.append(seconds(lambda number=number: writer.save(2 * number + 1, tensors, facts, wait=True)))
                writer.written()
    usual = statistics.median(alone)
    slower = [steps - count * usual for steps, count, _ in beside]
    shares = [100 * max(0.0, wait + extra) / (EVERY * usual) for wait, extra in zip(waited, slower, strict=True)]
    print(
        f"\n{backbone}, batch {batch}, {trainer.precision}, {size / 1e6:.0f} MB of tensors, a checkpoint each {EVERY} "
        f"steps, {rounds} rounds"
    )
    print(f"  a step alone                        {usual:8.3f} s")
    print(f"  the copy, while the training waits  {statistics.median(waited):8.3f} s")
    print(f"  until it is on the disk, beside it  {statistics.median([time for *_, time in beside]):8.3f} s")
    print(f"  the steps beside it take longer by  {statistics.median(slower):8.3f} s")
    print(f"  until it is on the disk, waiting    {statistics.median(whole):8.3f} s")
    print(f"  asynchronous   {statistics.median(shares):6.2f} % ({min(shares):.2f} to {max(shares):.2f})   goal 1")
    waiting = [100 * time / (EVERY * usual) for time in whole]
    print(f"  synchronous    {statistics.median(waiting):6.2f} % ({min(waiting):.2f} to {max(waiting):.2f})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=128 if torch.cuda.is_available() else 16)
    parser.add_argument("--backbone", default="iresnet50")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    options = parser.parse_args()
    print(machine())
    measure(options.backbone, options.batch, options.precision, options.rounds)
