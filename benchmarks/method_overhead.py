"""What CoReFace costs on top of ArcFace, and its loss on top of a bare product with cross-entropy.

python benchmarks/method_overhead.py            both
python benchmarks/method_overhead.py --loss     the loss alone
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import Noise, alternate, machine, ratio

import coreface as cf
from coreface.distributed.device import choose_device
from coreface.training.recipe import Recipe
from coreface.training.recipe_sections import ContrastiveRecipe, DataRecipe, ModelRecipe, OptimizerRecipe, StageRecipe
from coreface.training.trainer import Trainer

IDENTITIES, BATCH = 10_572, 32


def measure_step(rounds: int) -> None:
    plain = StageRecipe(from_epoch=1, views=1, dropout=0.4)
    method = StageRecipe(from_epoch=2, views=2, dropout=0.6, contrastive=ContrastiveRecipe())
    recipe = Recipe(
        model=ModelRecipe(backbone="iresnet50"),
        data=DataRecipe(train="noise", workers=0),
        stages=[plain, method],
        optimizer=OptimizerRecipe(batch_size=BATCH, epochs=2),
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
    print(f"\none step, iresnet50, batch {BATCH}, {IDENTITIES} identities, dropout 0.4 / 0.6, {rounds} rounds")
    for name, taken in times.items():
        print(f"  {name:10} {statistics.median(taken):8.3f} s   {BATCH / statistics.median(taken):8.1f} images/s")
    print(f"  CoReFace / ArcFace   {ratio(times, 'CoReFace', 'ArcFace')}   goal 1.05")


def measure_loss(rounds: int) -> None:
    print("\nthe loss alone, D = 512, float32, forward and backward, against a bare product with cross-entropy")
    for batch, repeats, goal in ((128, 50, 2.5), (1024, 4, 1.5), (4096, 1, 1.5)):
        times = loss_times(batch, repeats, rounds)
        cells = "  ".join(f"{name} {1e3 * statistics.median(taken) / repeats:8.2f} ms" for name, taken in times.items())
        print(f"  batch {batch:5}  {cells}   ratio {ratio(times, 'CoReFaceLoss', 'bare')}   goal {goal}")


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
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(machine())
    measure_loss(options.rounds)
    if not options.loss:
        measure_step(options.rounds)
