"""Evaluation during training: the sets, the times, the shares of the processes, and the best encoder so far."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch

from coreface.distributed.processes import Processes
from coreface.errors import ConstantEmbeddingsError, CoreFaceError, EvaluationError, TrainingStopped
from coreface.models.encoder import FaceEncoder
from coreface.plurals import counted
from coreface.training.best_encoder import Best, forget_best_after, keep_best
from coreface.training.initial_weights import ENCODER
from coreface.training.log import RunLog
from coreface.training.random_state import kept_randomness
from coreface.training.recipe import Recipe
from coreface.training.signals import StopSignals

Figures = Mapping[str, float | int | None]
Result = TypeVar("Result")

# BatchNorm's running statistics (momentum 0.1) are those of the images after about so many steps. Until then an encoder
# in eval mode may give all images the same embedding.
_SETTLED_STEPS = 100


class EvaluatedSet(Protocol):
    """Photographs on which an encoder is evaluated during training.

    Every process has such an object. Each embeds its share of the photographs; the leader turns all shares into
    figures.

    Attributes:
        name: of a test set. None for the people of the run, whose figures make the rows of kind ``evaluation``.
        held_out: whether these are the held-out people of the run, on which ``evaluation.keep_best`` relies.
    """

    name: str | None
    held_out: bool

    def embed(self, encoder: FaceEncoder, rank: int, world_size: int) -> Any:
        """Return the share of process ``rank``, a picklable object."""

    def figures(self, shares: list[Any]) -> Figures:
        """Return a row of metrics.jsonl; ``shares`` are in the order of the ranks."""


class Evaluation:
    """The evaluations of a training. They do not change its state.

    Args:
        sets: to evaluate on; without any, only the encoder is saved.
        recipe: of the training.
        folder: the run folder.
        device: of the encoder.
        processes: those that train; all of them call `run`.
    """

    def __init__(
        self,
        sets: Sequence[EvaluatedSet],
        recipe: Recipe,
        folder: Path,
        device: torch.device,
        processes: Processes,
    ) -> None:
        self._sets, self._recipe, self._folder = sets, recipe, folder
        self._device, self._processes = device, processes

    def begin(self, step: int) -> None:
        """Begin, or resume after the evaluation of ``step`` steps; a best encoder of a later step is discarded."""
        if self._processes.is_leader:
            forget_best_after(self._folder, step)

    def due_after_epoch(self, epoch: int, step: int) -> bool:
        """Whether to evaluate after the last step of an epoch."""
        last = epoch == self._recipe.optimizer.epochs
        return last or epoch % self._recipe.evaluation.every == 0 or self.due_after(step)

    def due_after(self, step: int) -> bool:
        """Whether to evaluate after this step, which may be anywhere in an epoch."""
        every = self._recipe.evaluation.every_steps
        return every is not None and step > 0 and step % every == 0

    def run(self, encoder: FaceEncoder, log: RunLog, stop: StopSignals, *, step: int, epoch: int) -> None:
        """Save the encoder, evaluate it on every set, print a line for each and write their rows.

        The rows are written after all sets: an interrupted evaluation leaves none and is repeated from the beginning
        when the training resumes.

        Raises:
            TrainingStopped: a signal came to any process; raised in all of them.
        """
        started = time.perf_counter()
        if self._processes.is_leader:
            encoder.save_pretrained(self._folder / ENCODER)
        where = {"step": step, "epoch": epoch}
        when = f"epoch {epoch}" if not self.due_after(step) else f"epoch {epoch}, step {step}"
        rows: list[tuple[str, dict[str, Any]]] = []
        best: Best | None = None
        for one in self._sets:
            kind, named = ("evaluation", {}) if one.name is None else ("set", {"name": one.name})
            begins = when if one.name is None else f"{when}: {one.name}"
            with kept_randomness(self._device):
                outcome = self._evaluate(one, encoder, stop)
            if isinstance(outcome, EvaluationError):  # the encoder may recover, so the run continues
                reason = self._reason(outcome, step, epoch)
                rows.append((kind, {**where, **named, "error": reason}))
                log.say(f"{begins}: not measured: {reason}")
                continue
            rows.append((kind, {**where, **named, **outcome}))
            log.say(f"{begins}: {_line(outcome)}")
            if one.held_out and (eer := outcome["eer"]) is not None:
                best = Best(step, epoch, eer)
        if best is not None and self._recipe.evaluation.keep_best is not None and self._processes.is_leader:
            keep_best(self._folder, encoder, best)
        for kind, row in rows:
            log.row(kind, row)
        if self._sets:
            log.evaluated(time.perf_counter() - started)

    def _evaluate(self, one: EvaluatedSet, encoder: FaceEncoder, stop: StopSignals) -> Figures | EvaluationError:
        processes = self._processes
        share = _attempt(lambda: one.embed(encoder, processes.rank, processes.world_size), stop)
        # An error or a signal in one process ends the evaluation at the same place in all of them.
        if (problem := _first_problem(processes.gather(share if isinstance(share, _PROBLEM) else None))) is None:
            shares = processes.gather_on_leader(share)
            found = None if shares is None else _attempt(lambda: one.figures(shares), stop)
            (figures, *_) = processes.gather(found)
            if not isinstance(figures, _PROBLEM):
                assert figures is not None  # the leader's
                return figures
            problem = figures
        if isinstance(problem, _Stopped):
            raise TrainingStopped("stopped", problem.signal)
        return problem

    def _reason(self, error: EvaluationError, step: int, epoch: int) -> str:
        early = step < _SETTLED_STEPS and epoch < self._recipe.optimizer.epochs
        if early and isinstance(error, ConstantEmbeddingsError):
            return f"all images still get the same embedding, which is usual after no more than {counted(step, 'step')}"
        return str(error)


class _Stopped:
    """A signal received by one process, to be sent to the others."""

    def __init__(self, signal: int) -> None:
        self.signal = signal


_PROBLEM = (EvaluationError, _Stopped)


def _attempt(work: Callable[[], Result], stop: StopSignals) -> Result | EvaluationError | _Stopped:
    """Return the result of ``work``, or its error: no error of an evaluation ends a training."""
    try:
        with stop.stopping_at_once():
            return work()
    except TrainingStopped as error:
        return _Stopped(error.signal)
    except EvaluationError as error:
        return error
    except CoreFaceError as error:
        return EvaluationError(str(error))
    except Exception as error:
        return EvaluationError(f"{type(error).__name__}: {error}")


def _first_problem(outcomes: Sequence[EvaluationError | _Stopped | None]) -> EvaluationError | _Stopped | None:
    """Return the first signal, or else the first error."""
    problems = [outcome for outcome in outcomes if outcome is not None]
    return min(problems, key=lambda problem: not isinstance(problem, _Stopped), default=None)


def _line(figures: Figures) -> str:
    shown = []
    for name, value in figures.items():
        if name == "accuracy_error" or not isinstance(value, float):
            continue
        error = figures.get("accuracy_error") if name == "accuracy" else None
        shown.append(f"{name} {value:.4f}" + (f" ± {error:.4f}" if error is not None else ""))
    return "  ".join(shown)
