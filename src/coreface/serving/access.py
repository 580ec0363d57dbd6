"""Access control: the host name, the web page behind a request, and the key."""

import ipaddress
import math
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from coreface.errors import InputError
from coreface.serving.keys import KeyFile
from coreface.serving.problems import Problem
from coreface.serving.settings import Settings
from coreface.serving.throttle import RateLimit, WrongKeys

HEADER: Final = "X-Coreface"  #: web pages of another origin cannot send it without a preflight request
_READING = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_SITE = frozenset({"same-origin", "none"})


class AccessControl:
    """Checks requests before their bodies are read.

    Without keys, only programs and pages on this machine are allowed: the host name must be a loopback name, which
    prevents DNS rebinding; an origin must be the service's own; and requests other than GET need a header that forms
    and pages of other origins cannot set. With keys, everything except the page and the health checks needs one.

    Args:
        app: the wrapped application.
        settings: of the service.
    """

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self._proxy = app, settings.behind_proxy
        self._keys = None if settings.keys is None else KeyFile(settings.keys_path)
        rate = settings.limits.rate / settings.workers
        self._rate, self._wrong = RateLimit(rate, 2 * rate), WrongKeys()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers, path = Headers(scope=scope), scope["path"]
            scope["state"]["client"] = self._address(scope, headers)
            if not self._proxy:  # a proxy may use another host name than its clients
                _check_origin(headers, scope["scheme"])
            if self._keys is None:
                _check_host(headers)
                if scope["method"] not in _READING and HEADER not in headers:
                    raise Problem(
                        "header-required",
                        f"requests other than GET need the header {HEADER}: 1, which other origins cannot set",
                    )
            elif path.startswith("/v1/") or path == "/metrics":
                self._check_key(scope, headers, self._keys)
        await self.app(scope, receive, send)

    def _check_key(self, scope: Scope, headers: Headers, keys: KeyFile) -> None:
        address = scope["state"]["client"]
        scheme, _, text = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not text:
            raise Problem("key-required", "send a key: Authorization: Bearer cfk_...")
        if wait := self._wrong.wait(address):
            raise Problem("too-many-attempts", f"try again in {math.ceil(wait)} s", retry_after=wait)
        try:
            key = keys.find(text.strip())
        except InputError as error:
            raise Problem("not-ready", "the file of keys cannot be read", retry_after=5) from error
        if key is None:
            self._wrong.failed(address)
            raise Problem("key-refused", "the key is unknown or was revoked")
        self._wrong.succeeded(address)
        if wait := self._rate.wait(key.id):
            raise Problem(
                "rate-limited", f"too many requests with this key, try again in {wait:.1f} s", retry_after=wait
            )
        scope["state"]["key"] = key
        scope["state"]["client"] = key.id

    def _address(self, scope: Scope, headers: Headers) -> str:
        forwarded = headers.getlist("x-forwarded-for") if self._proxy else []
        if forwarded:  # each proxy appends its client's address; the last proxy is the trusted one
            return forwarded[-1].rsplit(",", 1)[-1].strip()[:64]
        return str((scope.get("client") or ("unknown",))[0])


def _check_host(headers: Headers) -> None:
    name = _host_name(headers.get("host", ""))
    if name != "localhost" and not _is_loopback(name):
        raise Problem("foreign-host", "the service answers to localhost, 127.0.0.1 and [::1] only")


def _check_origin(headers: Headers, scheme: str) -> None:
    origin = headers.get("origin")
    if origin is not None and origin.lower() != f"{scheme}://{headers.get('host', '')}".lower():
        raise Problem("foreign-origin", "the request comes from a web page of another origin")
    if headers.get("sec-fetch-site", "none") not in _OWN_SITE and headers.get("sec-fetch-mode") != "navigate":
        raise Problem("foreign-origin", "the request comes from a web page of another site")


def _host_name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
