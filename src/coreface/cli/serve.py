"""`coreface serve`: the face service and its keys."""

import argparse
import importlib.util
import sys
from dataclasses import fields
from typing import TYPE_CHECKING

from coreface.cli.pipeline_options import add_detector_options, add_model_options
from coreface.cli.terminal import add_command
from coreface.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from coreface.serving.settings import Limits

_KEYS = "keys"
_NEEDED = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")
_KEYS_USAGE = (
    "coreface serve keys add NAME --role read|enrol|admin --keys FILE, coreface serve keys list --keys FILE, or "
    "coreface serve keys revoke NAME --keys FILE"
)


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser."""
    serve = add_command(
        commands,
        "serve",
        _serve,
        "start the HTTP service with its web page; serve keys add, list and revoke manage its keys",
    )
    text = (
        "the gallery, as coreface gallery takes it (default: a temporary one); or keys add NAME, keys list, keys "
        "revoke NAME"
    )
    serve.add_argument("words", nargs="*", metavar="GALLERY", help=text)
    add_model_options(serve)
    add_detector_options(serve)
    text = "pixels between the eyes of the smallest face that is used (default: 20)"
    serve.add_argument("--min-eyes", type=float, default=20.0, metavar="N", help=text)
    serve.add_argument("--calibration", metavar="FILE", help="of this model and detector (default: next to the model)")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    serve.add_argument("--port", type=int, default=8300, help="0 takes a free one (default: 8300)")
    serve.add_argument("--keys", metavar="FILE", help="file of keys; without it only this machine is served")
    serve.add_argument("--role", metavar="ROLE", help="of a new key: read, enrol or admin, each with the former")
    serve.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    serve.add_argument("--tls-cert", metavar="FILE", help="certificate, PEM")
    serve.add_argument("--tls-key", metavar="FILE", help="its private key, PEM")
    text = "a proxy terminates TLS; its X-Forwarded-For is trusted"
    serve.add_argument("--behind-proxy", action="store_true", help=text)
    text = "answer POST /v1/embed, which hands out biometric data"
    serve.add_argument("--allow-embeddings", action="store_true", help=text)
    limits = serve.add_argument_group("limits")
    limits.add_argument("--image-bytes", type=int, metavar="N", help="largest encoded image (default: 10 MiB)")
    limits.add_argument("--image-pixels", type=int, metavar="N", help="largest width x height (default: 25 million)")
    limits.add_argument("--images", type=int, metavar="N", help="images of a request (default: 20)")
    limits.add_argument("--request-bytes", type=int, metavar="N", help="largest body (default: 32 MiB)")
    limits.add_argument("--requests", type=int, metavar="N", help="requests at once, a process (default: 128)")
    limits.add_argument("--seconds", type=float, metavar="N", help="for a request (default: 30)")
    limits.add_argument("--body-seconds", type=float, metavar="N", help="for its body to arrive (default: 15)")
    limits.add_argument("--rate", type=float, metavar="N", help="requests a second of one key (default: 20)")


def _serve(options: argparse.Namespace) -> int:
    if options.words[:1] == [_KEYS]:
        return _manage_keys(options)
    if len(options.words) > 1 or options.role is not None:
        raise InputError(f"expected at most the place of a gallery, or one of: {_KEYS_USAGE}")
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtraError(f"coreface serve needs {', '.join(missing)}: pip install 'coreface[serve]'")
    from coreface.serving.server import serve
    from coreface.serving.settings import Settings

    names = [field.name for field in fields(Settings) if field.name not in ("gallery", "limits")]
    given = {name: getattr(options, name) for name in names}
    serve(Settings(gallery=next(iter(options.words), None), limits=_limits(options), **given))
    return 0


def _limits(options: argparse.Namespace) -> "Limits":
    from coreface.serving.settings import Limits

    given = {field.name: getattr(options, field.name) for field in fields(Limits)}
    return Limits(**{name: value for name, value in given.items() if value is not None})


def _manage_keys(options: argparse.Namespace) -> int:
    from coreface.files import user_path
    from coreface.serving.keys import KeyFile

    match options.words[1:]:
        case ["add", name] if options.keys and options.role:
            print(KeyFile(user_path(options.keys)).add(name, options.role))
            print(f"coreface: this is the only time that the key of {name} is shown", file=sys.stderr)
        case ["revoke", name] if options.keys and not options.role:
            revoked = KeyFile(user_path(options.keys)).revoke(name)
            print(f"revoked {revoked.name} ({revoked.id}, {revoked.role})")
        case ["list"] if options.keys and not options.role:
            for key in KeyFile(user_path(options.keys)).listed():
                print(f"{key.name}\t{key.role}\t{key.id}\t{key.created}")
        case _:
            raise InputError(f"expected {_KEYS_USAGE}")
    return 0
