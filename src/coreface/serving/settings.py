"""What `coreface serve` is told: the model, the address, who may ask, and the limits."""

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
    """What one request, and all of them together, may take. Each is checked before anything is decoded.

    Attributes:
        image_bytes: largest encoded image.
        image_pixels: largest width times height.
        images: images of one request.
        request_bytes: largest body.
        requests: requests that are worked on at once; half of them for one client.
        seconds: for a request, from its head to the answer.
        body_seconds: for the body to arrive.
        rate: requests a second of one key, over time; twice as many at once.
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
    """All of one service.

    Attributes:
        gallery: file or URL of the gallery; None only compares photographs.
        model: as `open_encoder` takes it.
        detector: name or file.
        alignment: of an encoder that does not record its own.
        preprocessing: file that says how the input of an ONNX file is made which does not say it itself.
        max_side: longest side in pixels at which the detector looks.
        rotations: try photographs in four orientations.
        min_eyes: pixels between the eyes of the smallest face that is used.
        calibration: a file; None looks beside the model.
        host: address to listen at.
        port: 0 takes a free one.
        keys: file of keys; None serves this machine alone, without keys.
        workers: processes.
        tls_cert: file of the certificate.
        tls_key: file of its private key.
        behind_proxy: a proxy in front ends TLS, and its ``X-Forwarded-For`` is believed.
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
                "--behind-proxy if a proxy ends TLS"
            )

    @property
    def loopback(self) -> bool:
        """Whether only this machine reaches the address."""
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
        """Whether the service itself speaks TLS."""
        return self.tls_cert is not None

    @property
    def threads(self) -> int:
        """Threads that decode photographs and look for faces, in each process."""
        return max(2, (os.cpu_count() or 1) // self.workers)

    def to_json(self) -> str:
        """Return the settings as text, for worker processes."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Settings":
        """Return the settings that `to_json` described."""
        content: dict[str, Any] = json.loads(text)
        return cls(**{**content, "limits": Limits(**content["limits"])})
