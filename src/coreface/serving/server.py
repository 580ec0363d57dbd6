"""Runs the service: the socket, the processes, the log, the end."""

import os
import signal
import socket
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, Final

import cv2
import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from coreface.errors import InputError
from coreface.serving import metrics
from coreface.serving.app import create_app
from coreface.serving.connections import TimedProtocol
from coreface.serving.keys import KeyFile
from coreface.serving.service import Service
from coreface.serving.settings import Settings

_SETTINGS: Final = "COREFACE_SERVE_SETTINGS"  # environment variable: what worker processes serve
_LOGGING: Final[dict[str, Any]] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(levelname)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}},
    "loggers": {
        "coreface.serving": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
    },
}


def serve(settings: Settings) -> None:
    """Serve until SIGINT or SIGTERM; requests that are being answered then are finished first.

    Raises:
        InputError: the address cannot be listened at, or the certificate or the keys cannot be read.
        CoreFaceError: the model cannot be opened.
        KeyboardInterrupt: after SIGINT, when all is closed.
        SystemExit: after SIGTERM, likewise, with status 143.
    """
    _check_files(settings)
    with _Ending() as ending, _listen(settings) as listener, _own_gallery(settings) as settings:
        if settings.workers == 1:
            _limit_threads(settings)
            server = uvicorn.Server(_config(create_app(Service.open(settings)), settings))
            ending.tell(server)
            _say(settings, listener)
            server.run(sockets=[listener])
        else:
            Service.open(settings).close()  # a wrong name is one message here, not one of each worker again and again
            _run_workers(settings, listener, ending)
    if ending.number == signal.SIGINT:
        raise KeyboardInterrupt
    if ending.number is not None:
        raise SystemExit(128 + ending.number)


class _Ending:
    """Handles SIGINT and SIGTERM from the beginning to the end; uvicorn does so only while its server runs.

    Until then a process that a shell has started in the background would ignore SIGINT. The handler raises nothing:
    Python drops an exception that is raised inside of a callback of the garbage collector, and a temporary folder
    might be made but not yet known. The service is opened first, and then ends. A second signal before that ends the
    process at once.

    Attributes:
        number: the signal that has come; None before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._server: uvicorn.Server | None = None

    def __enter__(self) -> "_Ending":
        self._previous = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def tell(self, server: uvicorn.Server) -> None:
        """End a server when a signal comes, or at once if one has come."""
        self._server = server
        if self.number is not None:
            server.should_exit = True

    def _note(self, number: int, _: FrameType | None) -> None:
        again, self.number = self.number is not None, number
        if self._server is not None:
            self._server.should_exit = True
        elif again:
            raise SystemExit(128 + number)


def _run_workers(settings: Settings, listener: socket.socket, ending: _Ending) -> None:
    with tempfile.TemporaryDirectory(prefix="coreface-metrics-") as folder:
        os.environ[metrics.FOLDER], os.environ[_SETTINGS] = folder, settings.to_json()
        config = _config("coreface.serving.server:worker_app", settings, factory=True, workers=settings.workers)
        _say(settings, listener)
        supervisor = Multiprocess(config, sockets=[listener])  # takes the signals from here on
        if ending.number is not None:
            supervisor.should_exit.set()
        supervisor.run()


def worker_app() -> FastAPI:
    """Return the application of a worker process."""
    settings = Settings.from_json(os.environ[_SETTINGS])
    _limit_threads(settings)
    return create_app(Service.open(settings))


def _config(app: Any, settings: Settings, **more: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="on",
        log_config=_LOGGING,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(settings.limits.seconds) + 1,
        h11_max_incomplete_event_size=16 * 1024,
        **more,
    )


def _check_files(settings: Settings) -> None:
    if settings.keys is not None:
        KeyFile(settings.keys_path).listed()
    if settings.tls_cert is not None:
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(settings.tls_cert, settings.tls_key)
        except OSError as error:
            raise InputError(
                f"{settings.tls_cert} and {settings.tls_key} cannot be used for TLS ({error.strerror or error}): "
                "expected a certificate and its private key as PEM"
            ) from error


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        return socket.create_server((settings.host, settings.port), family=family, backlog=1024)
    except OSError as error:
        raise InputError(f"cannot listen at {settings.host}, port {settings.port} ({error.strerror})") from error


@contextmanager
def _own_gallery(settings: Settings) -> Iterator[Settings]:
    """Give all processes one gallery: the one that is named, or a temporary one."""
    if settings.gallery is not None:
        yield settings
        return
    with tempfile.TemporaryDirectory(prefix="coreface-gallery-") as folder:
        print("coreface: no gallery was named: people are kept until the service stops", file=sys.stderr)
        yield replace(settings, gallery=str(Path(folder) / "people.db"))


def _limit_threads(settings: Settings) -> None:
    """Divide the cores among processes: threads of several that wait for each other are slower than one each."""
    cv2.setNumThreads(max(1, (os.cpu_count() or 1) // settings.workers))
    torch = sys.modules.get("torch")  # imported where the encoder needs it
    if torch is not None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // settings.workers))


def _say(settings: Settings, listener: socket.socket) -> None:
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    scheme = "https" if settings.tls else "http"
    who = "for this machine only: there are no keys" if settings.keys is None else f"with the keys of {settings.keys}"
    print(f"coreface: {scheme}://{host}:{listener.getsockname()[1]} {who}; Ctrl-C stops", file=sys.stderr, flush=True)
