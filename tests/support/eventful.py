"""`coreface` as a user starts it, with an event after a step: python eventful.py EVENT STEP train RECIPE ...

The event is brought about by a process of the training itself. A test that watched it from outside might come too late.
All of them wait, after the event, for what it has led to, and not for a time.

    kill0, kill1    the process of this rank dies by SIGKILL, in its first attempt, as soon as the run has a checkpoint;
                    and just before the others say why they end comes the signal by which torchrun ends them
    killset         every process dies by SIGKILL while it embeds the first test set in its STEPth evaluation
    SIGINT, SIGTERM this signal goes to the launcher; without one to this process and its workers, as on a terminal
"""

import os
import signal
import sys
import time
from pathlib import Path

from coreface.cli import main
from coreface.distributed.launch import launched
from coreface.runs.evaluated_sets import EvaluatedPairs
from coreface.training.signals import StopSignals
from coreface.training.trainer import Trainer


class TerminatedBeforeItSpeaks:
    """Standard error, where a SIGTERM comes just before the line of a failure."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text):
        if text.startswith("coreface: "):
            os.kill(os.getpid(), signal.SIGTERM)
        return self._stream.write(text)

    def __getattr__(self, name):
        return getattr(self._stream, name)


def kill(rank):
    if launched().rank != rank:
        return
    while not list(Path("run/checkpoints").glob("step_*")):
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


def note_signals():
    """Return a list to which every signal that a training receives is added, from now on."""
    arrived, receive = [], StopSignals._receive

    def noted(signals, number, frame):
        arrived.append(number)
        receive(signals, number, frame)

    StopSignals._receive = noted
    return arrived


def send(number, arrived):
    """Send a signal and wait until it has come. To a process that is behind the others it may have come already."""
    if launched().world_size == 1:
        os.killpg(0, number)
    elif launched().rank == 0:
        os.kill(os.getppid(), number)
    while number not in arrived:
        time.sleep(0.01)


def kill_in_evaluation(number):
    """Let the process die in the middle of a test set, as soon as the run has a checkpoint."""
    embed, left = EvaluatedPairs.embed, [number]
    first = []

    def dying(pairs, encoder, rank, world_size):
        first.append(pairs)
        left[0] -= pairs is first[0]
        if not left[0]:
            encoder.register_forward_hook(lambda *_: kill(launched().rank))
        return embed(pairs, encoder, rank, world_size)

    EvaluatedPairs.embed = dying


def run(event, step, words):
    if event == "killset":
        kill_in_evaluation(step)
        return main(words)
    take_step = Trainer.train_step
    arrived = note_signals()

    def train_step(trainer, *arguments):
        taken = take_step(trainer, *arguments)
        if trainer.step == step and launched().restarts == 0:
            if event.startswith("kill"):
                kill(int(event.removeprefix("kill")))
            else:
                send(signal.Signals[event], arrived)
        return taken

    Trainer.train_step = train_step
    if event.startswith("kill"):
        sys.stderr = TerminatedBeforeItSpeaks(sys.stderr)
    return main(words)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
