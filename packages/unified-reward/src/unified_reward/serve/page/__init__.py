"""The page at ``/``: judge files in a browser.

A form over the server's own protocol, without frameworks, external files or inline scripts.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources

from fastapi import APIRouter
from fastapi.responses import Response


FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/elements.js": ("elements.js", "text/javascript"),
    "/verdicts.js": ("verdicts.js", "text/javascript"),
}
"""File and type of each path; they need no token."""
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob: data:; media-src blob:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def routes() -> APIRouter:
    """Routes of the page and its files."""
    router = APIRouter(include_in_schema=False)
    for path, (name, media_type) in FILES.items():
        content = resources.files(__name__).joinpath(name).read_bytes()
        router.add_api_route(path, _sender(content, media_type))
    return router


def _sender(content: bytes, media_type: str) -> Callable[[], Response]:
    def send() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return send
