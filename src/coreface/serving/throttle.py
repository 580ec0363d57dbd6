"""Rate limits: for each key, and growing waits after wrong keys."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")

_MOST = 10_000  # remembered clients; the least recently seen is forgotten first
_FREE_ATTEMPTS = 5
_LONGEST_WAIT = 60.0  # seconds
_FORGOTTEN_AFTER = 600.0  # seconds without an attempt


@dataclass
class _Bucket:
    tokens: float
    at: float


class RateLimit:
    """A token bucket for each client.

    Args:
        rate: requests per second in the long run.
        burst: requests at once, after a pause.
        clock: returns seconds.
    """

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self._clock = rate, max(1.0, burst), clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait(self, client: str) -> float:
        """Count a request; return 0 if it is allowed, otherwise the seconds until one is."""
        now = self._clock()
        bucket = self._buckets.pop(client, None) or _Bucket(self.burst, now)
        bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.at) * self.rate)
        bucket.at = now
        _remember(self._buckets, client, bucket)
        if bucket.tokens >= 1:
            bucket.tokens -= 1
            return 0.0
        return (1 - bucket.tokens) / self.rate


@dataclass
class _Failures:
    count: int
    last: float


class WrongKeys:
    """Attempts with wrong keys, by address: after five, each further one doubles the wait, up to a minute.

    Args:
        clock: returns seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, _Failures] = OrderedDict()

    def wait(self, address: str) -> float:
        """Return the seconds until the address may try a key again; 0 for at once."""
        found = self._failures.get(address)
        if found is None or found.count < _FREE_ATTEMPTS:
            return 0.0
        wait = min(_LONGEST_WAIT, 2.0 ** (found.count - _FREE_ATTEMPTS))
        return max(0.0, found.last + wait - self._clock())

    def failed(self, address: str) -> None:
        """Record an attempt with a wrong key."""
        now = self._clock()
        found = self._failures.pop(address, None)
        if found is None or now - found.last > _FORGOTTEN_AFTER:
            found = _Failures(0, now)
        found.count, found.last = found.count + 1, now
        _remember(self._failures, address, found)

    def succeeded(self, address: str) -> None:
        """Forget the failures of an address."""
        self._failures.pop(address, None)


def _remember(table: OrderedDict[str, T], client: str, entry: T) -> None:
    table[client] = entry
    if len(table) > _MOST:
        table.popitem(last=False)
