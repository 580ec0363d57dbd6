"""Trainings that the processes of a test run together; what they return are plain numbers and NumPy arrays."""

import hashlib
import io
import multiprocessing
import os
import signal
from pathlib import Path

import torch
from rich.console import Console

import support.toy_network  # noqa: F401 (registers the backbone "toy")
from coreface.data import open_faces
from coreface.distributed.collectives import whole
from coreface.distributed.processes import Processes
from coreface.errors import CoreFaceError
from coreface.training import checkpoint_writer as checkpoints
from coreface.training import trainer
from coreface.training.checkpoint import checkpoint_folders, open_checkpoint
from coreface.training.checkpoint_state import module_tensors, optimizer_tensors
from coreface.training.random_state import get_randomness


def prepare():
    torch.set_num_threads(1)
    multiprocessing.current_process()._config["daemon"] = False  # which may not start the workers of a loader


def train(recipe, source, folder, *, resume=False, spoil=None, stop=None, due=None, evaluate=None, fail=None):
    """Train to the end of a recipe.

    Args:
        resume: go on from the newest checkpoint.
        spoil: (rank, steps): whose images hold a NaN in these steps.
        stop: (rank, step): who is sent a SIGTERM in that step.
        due: (rank, step): whose clock alone says, after that step, that a checkpoint is due.
        evaluate: "count" counts evaluations; ("fail", rank): that process fails in each; ("stop", rank): it is sent a
            SIGTERM in the first.
        fail: (rank, step): whose disk is full when the checkpoint of that step is written.
    """
    prepare()
    processes = Processes()
    folder = Path(folder)
    processes.on_leader(lambda: folder.mkdir(exist_ok=True))
    newest = open_checkpoint(checkpoint_folders(folder / "checkpoints")[0]) if resume else None
    calls, console = [], Console(file=io.StringIO(), width=200)

    class Counted:
        name, held_out = None, True

        def embed(self, encoder, rank, world_size):
            calls.append((rank, world_size))
            if evaluate == ("fail", rank):
                raise ZeroDivisionError(f"rank {rank}")
            if evaluate == ("stop", rank):
                os.kill(os.getpid(), signal.SIGTERM)
            return rank

        def figures(self, shares):
            return {"eer": 0.25, "shares": len(shares)}

    handed = {"evaluated": [Counted()] if evaluate else [], "console": console, "checkpoint": newest}
    made = trainer.Trainer(recipe, open_faces(source), folder, **handed)
    result = {"begin": state(made), "rows": made.loader.rows, "steps": []}
    step = made.train_step

    def watched(stage, rate, images, identities):
        number = made.step
        if spoil and spoil[0] == processes.rank and number in spoil[1]:
            images = images.clone()
            images[0, 0, 0, 0] = float("nan")
        if stop and stop == (processes.rank, number):
            os.kill(os.getpid(), signal.SIGTERM)
        losses, norm = step(stage, rate, images, identities)
        digests = [hashlib.sha256(image.contiguous().numpy().tobytes()).hexdigest()[:12] for image in images]
        seen = list(zip(digests, identities.tolist(), strict=True))
        view = made.stepper.view.numpy().copy()
        result["steps"].append({"step": number, "seen": seen, "loss": float(losses.total), "view": view})
        return losses, norm

    made.train_step = watched
    with Patched(processes.rank, due, fail):
        try:
            made.train()
        except (CoreFaceError, KeyboardInterrupt) as error:
            result["error"] = (type(error).__name__, str(error))
    guard = made.stepper.guard
    result |= {"end": state(made), "skipped": int(guard.skipped), "in_a_row": int(guard.in_a_row)}
    result |= {"step": made.step, "calls": calls, "screen": console.file.getvalue()}
    with made._randomness.active():
        result["random"] = {
            name: value.numpy() for name, value in get_randomness(torch.device("cpu")).tensors().items()
        }
    result["saved"] = sorted(path.name for path in checkpoint_folders(folder / "checkpoints"))
    return result


class Patched:
    """Make one process's clock run ahead, or its disk run full."""

    def __init__(self, rank, due, fail):
        self._due = due[1] if due and due[0] == rank else None
        self._fail = fail[1] if fail and fail[0] == rank else None

    def __enter__(self):
        self._before = checkpoints.CheckpointWriter.due, trainer.CheckpointWriter.due
        from coreface.training import checkpoint

        self._writer = checkpoint._Writer.write_data
        ahead, full = self._due, self._fail
        if ahead is not None:
            checkpoints.CheckpointWriter.due = lambda _, step: step == ahead
        if full is not None:

            def write_data(writer, *arguments):
                if f"step_{full}." in str(writer.path):
                    raise OSError(28, "No space left on device")
                return self._writer(writer, *arguments)

            checkpoint._Writer.write_data = write_data

    def __exit__(self, *_):
        from coreface.training import checkpoint

        checkpoints.CheckpointWriter.due = self._before[0]
        checkpoint._Writer.write_data = self._writer


def state(made):
    """Return all weights, buffers and the optimizer's memory, whole; what is each process's own as it is."""
    found = {
        **module_tensors(made.stepper.modules),
        **optimizer_tensors(made.stepper.optimizer, made.stepper.modules),
    }
    return {name: whole(value).numpy().copy() for name, value in found.items()}


def talk(value):
    processes = Processes()
    rank, count = processes.rank, processes.world_size
    floats = [torch.full((2, 3), rank + 1.0), torch.tensor(rank * 10.0)]
    mixed = [*floats, torch.full((4,), rank + 0.5, dtype=torch.float64), torch.tensor([rank, 7])]
    processes.average_(mixed)
    return {
        "place": (rank, count, processes.is_leader),
        "maximum": processes.maximum(rank, -rank, 5),
        "gathered": processes.gather((rank, value)),
        "on_all": processes.on_all(lambda: rank * rank),
        "on_leader": processes.on_leader(lambda: f"said by {rank}"),
        "averaged": [tensor.tolist() for tensor in mixed],
        "with_new_group": processes.with_new_group().gather(rank),
    }


def raising(where):
    """Let one process, the leader, or several fail; return what each process met."""
    processes = Processes()

    def work():
        if processes.rank in where:
            raise CoreFaceError(f"of process {processes.rank}")
        return processes.rank

    met = []
    for call in (processes.on_all, processes.on_leader):
        try:
            met.append(call(work))
        except CoreFaceError as error:
            met.append(str(error))
    return [*met, processes.gather(processes.rank)]  # and they still talk
