"""The classifier's step, forward and backward, against the dense step everybody writes and three bare matrix products.

The dense step normalises all centres, takes arccos of the full matrix and adds the margin with a one-hot matrix, view
by view; "joined" does both views at once. The products are those no step goes without: cosines, both gradients. Memory
is what a process of its own has at its peak above the centres and one gradient of theirs. With three centres an
identity a step may take 3.2 times as long, and needs the memory that docs/scaling.md says.

    python benchmarks/classifier_memory_speed.py [--identities 85742 1000000] [--bf16] [--skip dense "3 sub-centres"]
"""

import argparse
import multiprocessing
import resource
import statistics
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import alternate, machine, ratio

import coreface as cf
from coreface.losses.cosine_chunks import CHUNK
from coreface.training import step_cost

BATCH, VIEWS, SIZE = 128, 2, 512
GOALS = {torch.float32: 1.6, torch.bfloat16: 3.0}
SUBCENTRES = "3 sub-centres"


def steps(count: int, precision: torch.dtype, skip: list[str]) -> dict[str, Callable[[], object]]:
    generator = torch.Generator().manual_seed(0)
    views = [torch.randn(BATCH, SIZE, generator=generator).requires_grad_() for _ in range(VIEWS)]
    identities = torch.randint(count, (BATCH,), generator=generator)
    classify = cf.MarginClassifier(cf.ArcFace(), SIZE, count)
    weight = classify.weight

    several = None if SUBCENTRES in skip else cf.MarginClassifier(cf.ArcFace(), SIZE, count, subcentres=3)

    def finish(loss: torch.Tensor, weight: torch.Tensor = weight) -> None:
        loss.backward()
        weight.grad = None

    def dense(embeddings: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        cosines = F.linear(F.normalize(embeddings), F.normalize(weight)).clamp(-1 + 1e-7, 1 - 1e-7)
        logits = 64 * torch.cos(torch.arccos(cosines) + 0.5 * F.one_hot(labels, count))
        return F.cross_entropy(logits.float(), labels)

    def by_view() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = sum(dense(view, identities) for view in views) / VIEWS
        finish(loss)

    def joined() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = dense(torch.cat(views), identities.repeat(VIEWS))
        finish(loss)

    def ours() -> None:
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = classify(torch.cat(views), identities.repeat(VIEWS))
        finish(loss)

    def subcentres() -> None:
        assert several is not None
        with torch.autocast("cpu", precision, enabled=precision != torch.float32):
            loss = several(torch.cat(views), identities.repeat(VIEWS))
        finish(loss, several.weight)

    centres, embeddings = weight.detach().to(precision), torch.cat(views).detach().to(precision)

    def products() -> None:
        cosines = centres @ embeddings.t()
        cosines.t() @ centres
        cosines @ embeddings

    named = {"dense": by_view, "dense, joined": joined, "coreface": ours, SUBCENTRES: subcentres, "products": products}
    return {name: step for name, step in named.items() if name not in skip}


def time_in_turn(count: int, precision: torch.dtype, skip: list[str], rounds: int) -> dict[str, list[float]]:
    return alternate(steps(count, precision, skip), rounds)


def peak_memory(count: int, precision: torch.dtype, name: str) -> float:
    """Return GiB above what stands before the step, and above one gradient of the centres."""
    step = steps(count, precision, [] if name == SUBCENTRES else [SUBCENTRES])[name]
    before = resident()
    step()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return (peak - before - 4 * count * SIZE * (3 if name == SUBCENTRES else 1)) / 2**30


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def measure(count: int, precision: torch.dtype, skip: list[str], rounds: int) -> None:
    fresh = multiprocessing.get_context("spawn")
    with fresh.Pool(1, maxtasksperchild=1) as pool:  # memory comes back, and one peak hides no other
        times = pool.apply(time_in_turn, (count, precision, skip, rounds))
        peaks = {name: pool.apply(peak_memory, (count, precision, name)) for name in times if name != "products"}
    print(f"\n{count} identities, batch {BATCH}, {VIEWS} views, {precision}, {rounds} rounds")
    for name, taken in times.items():
        memory = f"{peaks[name]:8.3f} GiB" if name in peaks else ""
        print(f"  {name:14} {statistics.median(taken):8.3f} s  {memory}")
    print(f"  coreface / products          {ratio(times, 'coreface', 'products')}   goal {GOALS[precision]}")
    if SUBCENTRES in times:
        half = precision != torch.float32
        computed = step_cost.memory(
            step_cost.Setting(count, batch=BATCH, views=VIEWS, half=half, subcentres=3, chunk=CHUNK["cpu"])
        ).step
        print(f"  {SUBCENTRES + ' / coreface':27}  {ratio(times, SUBCENTRES, 'coreface')}   goal 3.2", end="")
        print(f"   memory by docs/scaling.md: {computed / 2**30:.3f} GiB")
    for name in [name for name in times if name.startswith("dense")]:
        memory = peaks["coreface"] / peaks[name]
        print(f"  {name + ' / coreface':27}  {ratio(times, name, 'coreface')}   goal 5", end="")
        print(f"   memory coreface / {name}: {memory:.3f}   goal 0.25")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--identities", nargs="+", type=int, default=[85_742, 1_000_000])
    parser.add_argument("--bf16", action="store_true", help="under bf16 autocast; slow where no unit multiplies bf16")
    parser.add_argument(
        "--skip", nargs="+", default=[], help='steps to leave out: dense, "dense, joined", "3 sub-centres"'
    )
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    for identities in options.identities:
        measure(identities, torch.bfloat16 if options.bf16 else torch.float32, options.skip, options.rounds)
