"""Load limits: requests, bytes and seconds. Requests beyond them are refused with a time to try again."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coreface.serving.problems import Problem
from coreface.serving.settings import Settings

_ALWAYS: Final = frozenset({"/healthz", "/readyz", "/metrics"})  # answered regardless of the load
_BODIES_AT_ONCE: Final = 8  # of the largest size, or more of smaller sizes


class Gate:
    """Limits the resources of all requests together and of each of them, before their bodies are read.

    Args:
        app: the wrapped application.
        settings: of the service.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self._limits = app, settings.limits
        # With keys there are several clients, and none of them may occupy all places.
        self._most_of_one = self._limits.requests if settings.keys is None else max(1, self._limits.requests // 2)
        self._clients: Counter[str] = Counter()
        self._requests = self._bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _ALWAYS:
            await self.app(scope, receive, send)
            return
        size = self._body_size(Headers(scope=scope))
        started = False

        async def answer(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        with self._place(scope["state"]["client"], size):
            try:
                async with asyncio.timeout(self._limits.seconds):
                    await self.app(scope, self._bounded(receive), answer)
            except TimeoutError:
                if started:
                    raise
                raise Problem(
                    "too-slow", f"there was no answer within {self._limits.seconds:g} s", retry_after=2
                ) from None

    def _body_size(self, headers: Headers) -> int:
        """Return the largest size to expect, in bytes."""
        largest = self._limits.request_bytes
        if "transfer-encoding" in headers:
            return largest
        size = int(headers.get("content-length", "0"))  # the server has already refused other values
        if size > largest:
            raise Problem("body-too-large", f"the body has {size} bytes, expected at most {largest}")
        return size

    @contextmanager
    def _place(self, client: str, size: int) -> Iterator[None]:
        if self._requests >= self._limits.requests or self._clients[client] >= self._most_of_one:
            raise Problem("busy", "too many requests at once, try again in a moment", retry_after=1)
        if self._bytes + size > _BODIES_AT_ONCE * self._limits.request_bytes:
            raise Problem("busy", "too many large requests at once, try again in a moment", retry_after=1)
        self._requests += 1
        self._bytes += size
        self._clients[client] += 1
        try:
            yield
        finally:
            self._requests -= 1
            self._bytes -= size
            self._clients[client] -= 1
            if not self._clients[client]:
                del self._clients[client]

    def _bounded(self, receive: Receive) -> Receive:
        """Count the body as it arrives, and abort if it is too large or too slow."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.body_seconds
        received, whole = 0, False

        async def bounded() -> Message:
            nonlocal received, whole
            if whole:
                return await receive()  # waits for the client to disconnect, not for its body
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                raise Problem(
                    "body-too-slow", f"the body did not arrive within {self._limits.body_seconds:g} s"
                ) from None
            received += len(message.get("body", b""))
            if received > self._limits.request_bytes:
                raise Problem("body-too-large", f"the body has more than {self._limits.request_bytes} bytes")
            whole = not message.get("more_body", False)
            return message

        return bounded
