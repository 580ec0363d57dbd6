"""Ctrl-C and SIGTERM as a request that the loop meets between two steps, not as a death in the middle of one."""

import contextlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from coreface.distributed.launch import ignored, launched
from coreface.errors import TrainingStopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Notes the first Ctrl-C or SIGTERM in `received`; a second one acts as it did before. A context manager.

    Python delivers signals to the main thread only; in any other this does nothing, and the program's own handling of
    signals holds. A process of several that leaves by an error ignores SIGTERM from then on, see `ignore_termination`.

    Attributes:
        received: number of the signal that came; None so far.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # A program that ignores Ctrl-C, such as one under nohup, goes on doing so.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not later: between two handlers the launcher's signal would end this process without a word.
        if error is not None and launched().world_size > 1 and self._before.get(signal.SIGTERM) == signal.SIG_DFL:
            self._before[signal.SIGTERM] = ignored
        self._restore()

    @contextlib.contextmanager
    def stopping_at_once(self) -> Any:
        """Stop by `TrainingStopped` where the signal comes, in a stretch that may be left anywhere."""
        self._at_once = True
        try:
            if self.received is not None:
                raise TrainingStopped("stopped", self.received)
            yield
        finally:
            self._at_once = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()
        if self._at_once:
            raise TrainingStopped("stopped", number)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
