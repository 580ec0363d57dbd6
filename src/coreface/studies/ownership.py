"""Who works on a run: one process of any machine that sees the folder, as long as it lives.

The owner's file says machine, process and when the process began; its time of change is renewed every few seconds. An
owner on the same machine is dead if the process is gone; one elsewhere, if its file has not been renewed for long.
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

RENEWED = 5.0  #: seconds between two signs of life
DEAD_AFTER = 120.0  #: seconds without one


def machine() -> str:
    """Return what tells this machine from others: its name, its start, and its space of process numbers."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def live_owner(path: Path) -> str | None:
    """Return who owns the run, in words; None where nobody does, or the owner is dead."""
    owner = _read(path)
    return _words(owner) if owner is not None and _lives(path, owner) else None


@contextlib.contextmanager
def owned(path: Path, lost: Callable[[str], None]) -> Iterator[None]:
    """Own a run while the block runs.

    Args:
        path: the owner's file; its folder is made.
        lost: called from another thread, with the reason, where somebody else has taken the run over, as they may
            after a long standstill of this machine.

    Raises:
        RunError: somebody who lives owns it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    own = {"machine": machine(), "host": socket.gethostname(), "process": os.getpid(), "began": _began(os.getpid())}
    text = json.dumps({**own, "token": uuid.uuid4().hex})
    while not _create(path, text):
        owner = _read(path)
        if owner is None:
            continue  # it has just been given back
        if _lives(path, owner):
            raise RunError(f"{path.stem} is being worked on by {_words(owner)}")
        _bury(path, owner)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEWED):
            try:
                if path.read_text(encoding="utf-8") != text:
                    lost(f"{path} names another owner: this process stood still for too long")
                    return
                os.utime(path)
            except FileNotFoundError:
                lost(f"{path} is gone")
                return
            except OSError:  # a file server that does not answer now may answer again
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
    """Create the file with its whole content, or return False where it exists."""
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
    """Take a dead owner's file away; of several that try one succeeds, and nobody's new file is lost."""
    grave = path.with_name(f".{path.name}.{uuid.uuid4().hex}.dead")
    try:
        path.replace(grave)
    except FileNotFoundError:
        return
    if _read(grave) != dead:  # another took over in between: its file goes back
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
    # Both times are the file server's: no two clocks are compared.
    probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        probe.touch()
        return probe.stat().st_mtime - path.stat().st_mtime < DEAD_AFTER
    except FileNotFoundError:
        return False
    finally:
        probe.unlink(missing_ok=True)


def _began(process: int) -> str | None:
    """Return when a process began, in the kernel's ticks; None where there is none (or it is a dead child)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return _signalled(process)
    return None if fields[0] in "ZX" else fields[19]


def _signalled(process: int) -> str | None:
    if Path("/proc/self/stat").exists():
        return None
    try:  # no /proc: whether there is a process of that number has to do
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "unknown"


def _words(owner: dict[str, Any]) -> str:
    return f"process {owner.get('process', '?')} on {owner.get('host', 'another machine')}"
