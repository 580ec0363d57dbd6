"""Keys of the service: 32 random bytes, shown once. The file contains their SHA-256 and the role of each key."""

import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

from coreface.errors import InputError, StorageError
from coreface.files import write_atomically

Role: TypeAlias = Literal["read", "enrol", "admin"]
ROLES: Final[tuple[Role, ...]] = get_args(Role)  #: each includes those before it

_FORMAT = 1
_SECRET_BYTES = 32
_KEY = re.compile(r"cfk_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_NOBODY = hashlib.sha256(b"").hexdigest()  # compared with if an id is unknown, so that both cases take the same time


@dataclass(frozen=True)
class Key:
    """The entry of a key in the file.

    Attributes:
        id: public; the first part of the key.
        name: of its user.
        role: what it allows.
        sha256: of the whole key.
        created: UTC, ISO 8601.
    """

    id: str
    name: str
    role: Role
    sha256: str
    created: str

    def allows(self, role: Role) -> bool:
        """Whether the key includes a role."""
        return ROLES.index(self.role) >= ROLES.index(role)


class KeyFile:
    """A file of keys. A running service sees added and revoked keys at the next request.

    Args:
        path: the file; for `add` it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def listed(self) -> list[Key]:
        """Return the keys in the order of their creation.

        Raises:
            InputError: the file is missing or damaged.
        """
        return list(self._read().values())

    def add(self, name: str, role: str) -> str:
        """Create a key and return it; it is not stored anywhere.

        Raises:
            InputError: the name is not 1 to 64 letters, digits and ``._-``, or is taken; the role is unknown.
            StorageError: the file cannot be written.
        """
        if not _NAME.fullmatch(name):
            raise InputError(f"the name of the key is {ascii(name)[:80]}, expected 1 to 64 letters, digits or . _ -")
        if role not in ROLES:
            raise InputError(f"the role is {role!r}, expected one of {', '.join(ROLES)}")
        keys = self._read() if self.path.exists() else {}
        if name in {key.name for key in keys.values()}:
            raise InputError(f"{self.path}: there is a key named {name}: revoke it first, or choose another name")
        id = secrets.token_hex(6)
        text = f"cfk_{id}_{secrets.token_urlsafe(_SECRET_BYTES)}"
        created = datetime.now(UTC).isoformat(timespec="seconds")
        self._write({**keys, id: Key(id, name, role, _digest(text), created)})
        return text

    def revoke(self, name: str) -> Key:
        """Remove a key by its name.

        Raises:
            InputError: there is none with that name.
            StorageError: the file cannot be written.
        """
        keys = self._read()
        found = next((key for key in keys.values() if key.name == name), None)
        if found is None:
            raise InputError(f"{self.path}: no key is named {ascii(name)[:80]}")
        self._write({id: key for id, key in keys.items() if key is not found})
        return found

    def find(self, text: str) -> Key | None:
        """Return the entry of the key sent by a client; None if there is none."""
        match = _KEY.fullmatch(text)
        key = self._read().get(match[1]) if match else None
        same = hmac.compare_digest(_digest(text), _NOBODY if key is None else key.sha256)
        return key if same else None

    def _read(self) -> dict[str, Key]:
        try:
            status = self.path.stat()
            seen = status.st_mtime_ns, status.st_ino, status.st_size
            if seen != self._seen:
                content = json.loads(self.path.read_text(encoding="utf-8"))
                if content["format"] != _FORMAT:
                    raise ValueError(f"its format is {content['format']!r}, expected {_FORMAT}")
                self._keys = {row["id"]: _checked(Key(**row)) for row in content["keys"]}
                self._seen = seen
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise InputError(
                f"{self.path} is not a readable file of keys ({reason}): create one with coreface serve keys add NAME "
                f"--keys {self.path}"
            ) from error
        return self._keys

    def _write(self, keys: dict[str, Key]) -> None:
        content = {"format": _FORMAT, "keys": [asdict(key) for key in keys.values()]}
        before = os.umask(0o077)  # readable by its owner only
        try:
            write_atomically(self.path, (json.dumps(content, indent=1) + "\n").encode())
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written ({error.strerror})") from error
        finally:
            os.umask(before)
        self._seen = None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


def _checked(key: Key) -> Key:
    if key.role not in ROLES or not re.fullmatch(r"[0-9a-f]{64}", key.sha256):
        raise ValueError("a key has no role or no digest")
    return key
