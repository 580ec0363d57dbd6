"""Atomic writing of files, and escaping of file names that are not valid text."""

import os
import re
import threading
from collections.abc import Iterable
from pathlib import Path

_ESCAPE = re.compile(r"\\(?:\\|x([0-9a-f]{2}))")


def user_path(path: str | os.PathLike[str]) -> Path:
    """Return a path whose ``~`` is replaced by the home folder; a shell leaves it alone after ``=`` and ``:``."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 (Path.expanduser raises where there is no home)


#: Files often found in place of an image or weights, by their first bytes, and what to do about them.
_INSTEAD = (
    (re.compile(rb"version https://git-lfs"), "a pointer of Git LFS, not the file: git lfs pull gets it"),
    (re.compile(rb"\s*<(!doctype\s+)?html", re.IGNORECASE), "an HTML page, not the file: the download has failed"),
    (re.compile(rb"\s*(<\?xml|<svg)"), "XML, such as an SVG drawing"),
    (re.compile(rb"....ftyp(heic|heix|hevc|mif1|msf1)", re.DOTALL), "HEIC, as telephones write it: save it as JPEG"),
    (re.compile(rb"%PDF"), "a PDF"),
)


def found_instead(start: bytes) -> str | None:
    """Return what a file is instead of an image or weights, by its first bytes; None if it is not recognised."""
    return next((what for signature, what in _INSTEAD if signature.match(start)), None)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its name always holds the whole old content or the whole new one, power cuts included."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a list for people atomically, one `escaped` line each."""
    write_atomically(path, "".join(f"{escaped(line)}\n" for line in lines).encode())


def escaped(text: str) -> str:
    """Escape a text: bytes that are not UTF-8 as ``\\xe9``, line ends as ``\\x0a``, and backslashes doubled.

    The name of a file may consist of any bytes. Python returns those that are not UTF-8 as lone surrogates, which
    cannot be encoded. `unescaped` restores the name.
    """
    return re.sub(
        "[\\\\\\n\\r\udc80-\udcff]",
        lambda found: "\\\\" if found[0] == "\\" else f"\\x{ord(found[0]) & 0xFF:02x}",
        text,
    )


def unescaped(line: str) -> str:
    """Return the text that `escaped` was given."""

    def original(found: re.Match[str]) -> str:
        if found[1] is None:
            return "\\"
        byte = int(found[1], 16)
        return chr(0xDC00 + byte) if byte >= 0x80 else chr(byte)

    return _ESCAPE.sub(original, line)


class Replacement:
    """A file that is written under a temporary name and gets its final name when it is complete.

    Args:
        path: the final name. An existing file is kept until `place`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")
        self._file = self._temporary.open("wb")
        self.write, self.seek, self.fileno = self._file.write, self._file.seek, self._file.fileno

    def place(self) -> None:
        """Finish the file and give it its name."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._temporary.replace(self.path)
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove the temporary file; does nothing after `place`."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)


def force_to_disk(path: Path) -> None:
    """Force a file that was written, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
