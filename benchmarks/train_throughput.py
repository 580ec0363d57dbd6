"""Our training step against the one everybody writes, and where the time of ours goes.

The naive step: float32, NCHW, eager, arccos, a one-hot matrix for the margin, the optimizer parameter by parameter.

    python benchmarks/train_throughput.py [--backbones iresnet18 iresnet50] [--batch 32] [--precision bf16] [--compile]
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import PRECISIONS, Noise, Precision, alternate, machine, matrix_peak, ratio, seconds
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import coreface as cf
from coreface.models.views import RowMasks, dropout_views
from coreface.training.gradients import clip_by_recipe
from coreface.training.recipe import Recipe
from coreface.training.recipe_data import DataRecipe
from coreface.training.recipe_sections import ModelRecipe, OptimizerRecipe, StageRecipe
from coreface.training.trainer import Trainer

IDENTITIES = 10_572


class NaiveStep:
    """The same network and loss, written without thinking of time."""

    def __init__(self, backbone: str, device: torch.device) -> None:
        self.encoder = cf.FaceEncoder(backbone).to(device).train()
        self.weight = nn.Parameter(torch.randn(IDENTITIES, 512, device=device) * 0.01)
        parameters = [*self.encoder.parameters(), self.weight]
        self.optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, weight_decay=5e-4, foreach=False)
        self.parameters = parameters

    def __call__(self, images: torch.Tensor, identities: torch.Tensor) -> None:
        cosines = F.linear(F.normalize(self.encoder(images)), F.normalize(self.weight)).clamp(-1 + 1e-7, 1 - 1e-7)
        one_hot = F.one_hot(identities, IDENTITIES)
        logits = 64 * torch.cos(torch.arccos(cosines) + 0.5 * one_hot)
        loss = F.cross_entropy(logits, identities)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 5.0, foreach=False)
        self.optimizer.step()
        loss.item()


def our_trainer(backbone: str, batch: int, precision: Precision, folder: Path, *, compiled: bool) -> Trainer:
    recipe = Recipe(
        model=ModelRecipe(backbone=backbone),
        data=DataRecipe(train="noise", workers=0),
        stages=[StageRecipe(dropout=0.4)],
        optimizer=OptimizerRecipe(batch_size=batch, epochs=1),
        precision=precision,
        compile=compiled,
    )
    trainer = Trainer(recipe, Noise(IDENTITIES, IDENTITIES), folder)
    trainer.encoder.train()
    trainer.objective.train()
    return trainer


def measure(backbone: str, batch: int, rounds: int, precision: Precision, *, compiled: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        trainer = our_trainer(backbone, batch, precision, Path(folder), compiled=False)
        images, identities = next(trainer.loader.epoch(1))
        naive = NaiveStep(backbone, images.device)
        contiguous = images.contiguous()
        steps: dict[str, Callable[[], object]] = {
            "naive": lambda: naive(contiguous, identities),
            "coreface": lambda: trainer.train_step(0, 1e-3, images, identities),
        }
        if compiled:
            fast = our_trainer(backbone, batch, precision, Path(folder), compiled=True)
            steps["coreface, compiled"] = lambda: fast.train_step(0, 1e-3, images, identities)
        times = alternate(steps, rounds)
        with FlopCounterMode(display=False) as counter:
            naive(contiguous, identities)
        operations = counter.get_total_flops()
        print(f"\n{backbone}, batch {batch}, {IDENTITIES} identities, {trainer.precision}, {rounds} rounds")
        peak = matrix_peak(trainer.precision, images.device)
        for name, taken in times.items():
            middle = statistics.median(taken)
            share = operations / middle / peak
            print(
                f"  {name:20} {middle:8.3f} s  {batch / middle:8.1f} images/s  {share:6.1%} of {peak / 1e9:.0f} GFLOP/s"
                f"  naive / this {ratio(times, 'naive', name)}"
            )
        breakdown(trainer, images, identities, rounds)


def breakdown(trainer: Trainer, images: torch.Tensor, identities: torch.Tensor, rounds: int) -> None:
    """Time the parts of our step one by one, each with its own backward pass."""
    encoder, objective, recipe = trainer.encoder, trainer.objective, trainer.recipe
    backbone = encoder.backbone
    masks = RowMasks(recipe.seed, 0, torch.arange(len(images), device=images.device))

    def autocast() -> torch.autocast:
        return torch.autocast(images.device.type, trainer.precision, enabled=trainer.precision != torch.float32)

    def trunk() -> torch.Tensor:
        with autocast():
            return backbone.trunk(images)

    features = trunk().detach().requires_grad_()

    def embedding_layer() -> torch.Tensor:
        with autocast():
            return dropout_views(backbone, features, 1, recipe.stages[0].dropout, masks=masks)[0]

    embedding = embedding_layer().detach().requires_grad_()
    parts: dict[str, Callable[[], object]] = {
        "data (decode, collate)": lambda: next(trainer.loader.epoch(1)),
        "trunk, forward": trunk,
        "trunk, both ways": lambda: trunk().sum().backward(),
        "embedding layer": lambda: embedding_layer().sum().backward(),
        "classifier and loss": lambda: objective(0, [embedding], identities).total.backward(),
        "clip and optimizer": lambda: (
            clip_by_recipe(encoder, objective, recipe.optimizer),
            trainer.stepper.optimizer.step(),
        ),
    }
    medians = {name: statistics.median([seconds(run) for _ in range(rounds)]) for name, run in parts.items()}
    whole = sum(taken for name, taken in medians.items() if name not in ("trunk, forward", "data (decode, collate)"))
    for name, taken in medians.items():
        print(f"    {name:24} {taken:8.4f} s  {taken / whole:6.1%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", default=["iresnet18", "iresnet50"])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--precision", choices=PRECISIONS, default="auto")
    parser.add_argument("--compile", action="store_true", help="measure torch.compile as well")
    options = parser.parse_args()
    print(machine())
    for name in options.backbones:
        measure(name, options.batch, options.rounds, options.precision, compiled=options.compile)
