"""Ctrl-C and SIGTERM as requests that the training loop handles between two steps."""

import contextlib
import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from coreface.distributed.launch import ignored, launched
from coreface.errors import TrainingStopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """Records the first Ctrl-C or SIGTERM in `received`; a second one acts as usual. Use it as a context manager.

    Python delivers signals to the main thread only. In another thread this does nothing, and the program's handlers
    stay in place. One of several processes that leaves with an error ignores SIGTERM from then on, see
    `coreface.distributed.launch.ignore_termination`.

    Attributes:
        received: number of the signal that came; None before.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._at_once = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # A program that ignores Ctrl-C, such as one under nohup, continues to ignore it.
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Not later: between two handlers the launcher's signal would end this process without a message.
        if error is not None and launched().world_size > 1 and self._before.get(signal.SIGTERM) == signal.SIG_DFL:
            self._before[signal.SIGTERM] = ignored
        self._restore()

    @contextlib.contextmanager
    def stopping_at_once(self) -> Any:
        """Raise `TrainingStopped` as soon as the signal arrives, in code that may be interrupted anywhere."""
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
