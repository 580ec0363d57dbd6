"""Settings of `coreface serve`: model, address, access, limits."""

import ipaddress
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from coreface.errors import InputError
from coreface.files import user_path

_MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of a single request and of all requests together, checked before anything is decoded.

    Attributes:
        image_bytes: largest encoded image.
        image_pixels: largest width times height.
        images: largest number of images per request.
        request_bytes: largest body.
        requests: largest number of concurrent requests; half of it for one client.
        seconds: from the head of a request to the answer.
        body_seconds: until the body has arrived.
        rate: requests per second of one key in the long run; twice as many at once.
    """

    image_bytes: int = 10 * _MEGABYTE
    image_pixels: int = 25_000_000
    images: int = 20
    request_bytes: int = 32 * _MEGABYTE
    requests: int = 128
    seconds: float = 30.0
    body_seconds: float = 15.0
    rate: float = 20.0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not value > 0:
                raise InputError(f"{name} is {value}, expected more than 0")


@dataclass(frozen=True)
class Settings:
    """All settings of a service.

    Attributes:
        gallery: file or URL of the gallery; None for a service that only compares photographs.
        model: see `open_encoder`.
        detector: name or file.
        alignment: of an encoder that does not record it.
        preprocessing: the file with the preprocessing of an ONNX file that does not contain it.
        max_side: longest side in pixels of the detector's input.
        rotations: try photographs in four orientations.
        min_eyes: pixels between the eyes of the smallest face that is used.
        calibration: a file; None searches next to the model.
        host: address to listen on.
        port: 0 chooses a free one.
        keys: file of keys; None serves only this machine, without keys.
        workers: number of processes.
        tls_cert: file of the certificate.
        tls_key: file of its private key.
        behind_proxy: a proxy terminates TLS, and its ``X-Forwarded-For`` is trusted.
        allow_embeddings: answer ``POST /v1/embed``.
        limits: of requests.
    """

    gallery: str | None = None
    model: str = "sface"
    detector: str = "yunet"
    alignment: str | None = None
    preprocessing: str | None = None
    max_side: int = 640
    rotations: bool = False
    min_eyes: float = 20.0
    calibration: str | None = None
    host: str = "127.0.0.1"
    port: int = 8300
    keys: str | None = None
    workers: int = 1
    tls_cert: str | None = None
    tls_key: str | None = None
    behind_proxy: bool = False
    allow_embeddings: bool = False
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.workers < 1 or not 0 <= self.port <= 65535:
            raise InputError(f"workers is {self.workers}, port {self.port}; expected 1 or more, and 0 to 65535")
        if (self.tls_cert is None) != (self.tls_key is None):
            raise InputError("--tls-cert and --tls-key belong together: give both or none")
        if self.keys is None and not self.loopback:
            raise InputError(
                f"{self.host} can be reached from other machines, and there are no keys: make one with coreface serve "
                "keys add NAME --keys FILE and start with --keys FILE, or listen at 127.0.0.1"
            )
        if self.keys is None and self.behind_proxy:
            raise InputError("--behind-proxy lets other machines in: it needs --keys FILE")
        if not (self.loopback or self.tls or self.behind_proxy):
            raise InputError(
                f"keys and photographs would reach {self.host} unencrypted: give --tls-cert and --tls-key, or "
                "--behind-proxy if a proxy terminates TLS"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def keys_path(self) -> Path:
        """The file of keys."""
        assert self.keys is not None
        return user_path(self.keys)

    @property
    def tls(self) -> bool:
        """Whether the service itself uses TLS."""
        return self.tls_cert is not None

    @property
    def threads(self) -> int:
        """Number of threads that decode and detect, in each process."""
        return max(2, (os.cpu_count() or 1) // self.workers)

    def to_json(self) -> str:
        """Return the settings as JSON, for worker processes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Return settings from the text of `to_json`."""
        content: dict[str, Any] = json.loads(text)
        return cls(**{**content, "limits": Limits(**content["limits"])})
