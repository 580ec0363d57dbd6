"""Processes that talk over gloo: started once for all tests, they run what they are handed."""

import datetime
import multiprocessing
import traceback

import torch.distributed as dist

PRELOADED = [
    "coreface.losses.classifier",
    "coreface.distributed.sharded_rows",
    "torch.distributed.checkpoint",
]  # imported once
SECONDS = 240  # more than any job takes on a busy machine; a process that waits in vain ends after it


def serve(rank, count, rendezvous, pipe):
    dist.init_process_group(
        "gloo",
        init_method=f"file://{rendezvous}",
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=SECONDS),
    )
    while (job := pipe.recv()) is not None:
        function, arguments = job
        try:
            pipe.send((function(*arguments), None))
        except BaseException:
            pipe.send((None, traceback.format_exc()))
    dist.destroy_process_group()


class Processes:
    """``processes(function, [arguments of rank 0, ...])`` -> results in the order of the ranks."""

    def __init__(self, count, folder):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.count = count
        self._pipes, self._started = [], []
        for rank in range(count):
            ours, theirs = context.Pipe()
            arguments = (rank, count, folder / f"rendezvous{count}", theirs)
            self._started.append(context.Process(target=serve, args=arguments, daemon=True))
            self._started[-1].start()
            self._pipes.append(ours)

    def __call__(self, function, arguments):
        assert len(arguments) == self.count
        for pipe, own in zip(self._pipes, arguments, strict=True):
            pipe.send((function, own))
        answers = []
        for rank, pipe in enumerate(self._pipes):
            assert pipe.poll(SECONDS), f"rank {rank} of {self.count} does not answer"
            answers.append(pipe.recv())
        errors = [error for _, error in answers if error]
        assert not errors, "\n".join(errors)
        return [result for result, _ in answers]

    def close(self):
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._started:
            process.join(SECONDS)
            process.kill()


class Groups(dict):
    """``groups[count]`` -> `Processes`, started by the first call."""

    def __init__(self, folder):
        super().__init__()
        self._folder = folder

    def __missing__(self, count):
        self[count] = Processes(count, self._folder)
        return self[count]

    def close(self):
        for processes in self.values():
            processes.close()


def split(rows, counts):
    """Cut a tensor into the parts of the ranks."""
    return [part.clone() for part in rows.split(counts)]
