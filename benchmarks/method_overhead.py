"""What CoReFace costs on top of ArcFace, and its loss on top of a bare product with cross-entropy.

python benchmarks/method_overhead.py            both
python benchmarks/method_overhead.py --loss     the loss alone

A ratio is the median over the rounds, its least and greatest value in brackets, and stands beside its bound.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import PRECISIONS, Noise, Precision, against_bound, alternate, machine

import coreface as cf
from coreface.distributed.device import choose_device
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe
from coreface.training.recipe_sections import ContrastiveRecipe, ModelRecipe, OptimizerRecipe, StageRecipe
from coreface.training.trainer import Trainer

IDENTITIES = 10_572
STEP_BOUND = 1.03
LOSS_BOUNDS = {128: 3.0, 1024: 1.7, 4096: 2.5}  # by batch size
REPEATS = {128: 50, 1024: 4}  # calls in one measurement


def measure_step(backbone: str, batch: int, precision: Precision, rounds: int) -> None:
    plain = StageRecipe(from_epoch=1, views=1, dropout=0.4)
    method = StageRecipe(from_epoch=2, views=2, dropout=0.6, contrastive=ContrastiveRecipe())
    recipe = Recipe(
        model=ModelRecipe(backbone=backbone),
        data=DataRecipe(train="noise", workers=0),
        stages=[plain, method],
        optimizer=OptimizerRecipe(batch_size=batch, epochs=2),
        precision=precision,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(recipe, Noise(IDENTITIES, IDENTITIES), Path(folder))
        trainer.encoder.train()
        trainer.objective.train()
        images, identities = next(trainer.loader.epoch(1))
        times = alternate(
            {
                "ArcFace": lambda: trainer.train_step(0, 1e-3, images, identities),
                "CoReFace": lambda: trainer.train_step(1, 1e-3, images, identities),
            },
            rounds,
        )
    print(
        f"\none step, {backbone}, batch {batch}, {IDENTITIES} identities, dropout 0.4 / 0.6, {trainer.precision}, "
        f"{rounds} rounds"
    )
    for name, taken in times.items():
        print(f"  {name:10} {statistics.median(taken):8.3f} s   {batch / statistics.median(taken):8.1f} images/s")
    print(f"  CoReFace / ArcFace   {against_bound(times, 'CoReFace', 'ArcFace', STEP_BOUND)}")


def measure_loss(batches: list[int], rounds: int) -> None:
    print(
        "\nthe loss alone, D = 512, float32, forward and backward, against a bare product with cross-entropy, "
        f"{torch.get_num_threads()} threads, {rounds} rounds"
    )
    for batch in batches:
        repeats = REPEATS.get(batch, 1)
        times = loss_times(batch, repeats, rounds)
        cells = "  ".join(f"{name} {1e3 * statistics.median(taken) / repeats:8.2f} ms" for name, taken in times.items())
        compared = against_bound(times, "CoReFaceLoss", "bare", LOSS_BOUNDS[batch])
        print(f"  batch {batch:5}  {cells}   ratio {compared}", flush=True)


def loss_times(batch: int, repeats: int, rounds: int) -> dict[str, list[float]]:
    device = choose_device("auto")
    view1, view2 = (torch.randn(batch, 512, device=device, requires_grad=True) for _ in range(2))
    identities = torch.randint(IDENTITIES, (batch,), device=device)
    diagonal = torch.arange(batch, device=device)
    contrast = cf.CoReFaceLoss()

    def bare() -> None:
        for _ in range(repeats):
            F.cross_entropy(view1 @ view2.t(), diagonal).backward()

    def ours() -> None:
        for _ in range(repeats):
            contrast(view1, view2, identities).backward()

    return alternate({"bare": bare, "CoReFaceLoss": ours}, rounds, warmup=3)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loss", action="store_true", help="the loss alone")
    parser.add_argument("--batches", nargs="+", type=int, default=list(LOSS_BOUNDS), choices=LOSS_BOUNDS, help="of it")
    parser.add_argument("--backbone", default="iresnet50", help="of the step")
    parser.add_argument("--batch", type=int, default=32, help="of the step")
    parser.add_argument("--precision", choices=PRECISIONS, default="auto", help="of the step")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(machine())
    measure_loss(options.batches, options.rounds)
    if not options.loss:
        measure_step(options.backbone, options.batch, options.precision, options.rounds)
