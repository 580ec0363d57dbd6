"""Ownership of runs: at any time one process of all machines that share the folder works on a run.

The owner's file records the machine, the process and when the process started; its modification time is renewed every
few seconds. An owner on the same machine is dead if its process is gone; one on another machine, if its file has not
been renewed for a while.
"""

import contextlib
import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from coreface.errors import RunError

RENEWED = 5.0  #: seconds between two renewals
DEAD_AFTER = 120.0  #: seconds without renewal


def machine() -> str:
    """Return an identifier of this machine: its name, its boot, and its namespace of process ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def live_owner(path: Path) -> str | None:
    """Return a description of the run's owner; None if there is none, or it is dead."""
    owner = _read(path)
    return _words(owner) if owner is not None and _lives(path, owner) else None


@contextlib.contextmanager
def owned(path: Path, lost: Callable[[str], None]) -> Iterator[None]:
    """Own a run within the context.

    Args:
        path: the owner's file; its folder is created.
        lost: called from another thread, with the reason, if another process has taken the run over, which may happen
            after this machine was suspended for long.

    Raises:
        RunError: a live process owns it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {"machine": machine(), "host": socket.gethostname(), "process": os.getpid(), "began": _began(os.getpid())}
    text = json.dumps({**own, "token": uuid.uuid4().hex})
    while not _create(path, text):
        owner = _read(path)
        if owner is None:
            continue  # it has just been released
        if _lives(path, owner):
            raise RunError(f"{path.stem} is being worked on by {_words(owner)}")
        _bury(path, owner)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEWED):
            try:
                if path.read_text(encoding="utf-8") != text:
                    lost(f"{path} has another owner: this process was suspended for too long")
                    return
                os.utime(path)
            except FileNotFoundError:
                lost(f"{path} is gone")
                return
            except OSError:  # a file server that does not answer now may answer later
                continue

    thread = threading.Thread(target=renew, name="owner", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        with contextlib.suppress(OSError):
            if path.read_text(encoding="utf-8") == text:
                path.unlink()


def _create(path: Path, text: str) -> bool:
    """Create the file with its whole content; return False if it exists."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    temporary.write_text(text, encoding="utf-8")
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    return True


def _bury(path: Path, dead: dict[str, Any]) -> None:
    """Remove a dead owner's file. If several processes try, one succeeds, and no new owner's file is lost."""
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}.dead")
    try:
        path.replace(grave)
    except FileNotFoundError:
        return
    if _read(grave) != dead:  # another process took over in between: restore its file
        with contextlib.suppress(FileExistsError):
            os.link(grave, path)
    grave.unlink()


def _read(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _lives(path: Path, owner: dict[str, Any]) -> bool:
    if owner.get("machine") == machine():
        process = owner.get("process")
        return isinstance(process, int) and _began(process) == owner.get("began")
    # Both times are the file server's, so the clocks of two machines are never compared.
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime < DEAD_AFTER
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def _began(process: int) -> str | None:
    """Return when a process started, in the kernel's ticks; None if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return _signalled(process)
    return None if fields[0] in "ZX" else fields[19]


def _signalled(process: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:  # without /proc, check only whether a process has that id
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _words(owner: dict[str, Any]) -> str:
    return f"process {owner.get('process', '?')} on {owner.get('host', 'another machine')}"
