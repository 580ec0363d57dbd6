"""The web page: three static files."""

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse

from coreface.serving.problems import Problem

page = APIRouter(include_in_schema=False)
_WEB = Path(__file__).parent / "web"
_TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
_FILES = {path.name: _TYPES[path.suffix] for path in _WEB.iterdir() if path.suffix in _TYPES}


@page.get("/")
async def index() -> FileResponse:
    """The page itself."""
    return FileResponse(_WEB / "index.html", media_type="text/html")


@page.get("/static/{name}")
async def static(name: str) -> FileResponse:
    """A file loaded by the page."""
    if name not in _FILES:
        raise Problem("not-found", "there is no such address")
    return FileResponse(_WEB / name, media_type=_FILES[name])
