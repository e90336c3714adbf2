"""The page at ``/``: judge files in a browser.

A form over the server's own protocol, without frameworks, external files or inline scripts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from html import escape
from importlib import resources
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response


FILES = {
    "/": ("index.html", "text/html"),
    "/base.css": ("base.css", "text/css"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/dom.js": ("dom.js", "text/javascript"),
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


def documentation(schema: Mapping[str, Any]) -> Response:
    """Page of the routes of an OpenAPI schema; it loads nothing from elsewhere."""
    parts: list[str] = []
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            text = route.get("description") or route.get("summary", "")
            parts.append(f"<h2>{escape(method.upper())} <code>{escape(path)}</code></h2>")
            parts.append(f"<p>{escape(text)}</p>")
            for content in route.get("requestBody", {}).get("content", {}).values():
                body = json.dumps(content["schema"], indent=1, allow_nan=False)
                parts.append(f"<details><summary>Body</summary><pre>{escape(body)}</pre></details>")
    title = escape(schema["info"]["title"])
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{title}</title><link rel="stylesheet" href="base.css">'
        '<link rel="stylesheet" href="page.css">'
        f"<main><h1>{title}</h1>{''.join(parts)}</main></html>"
    )
    return Response(page, media_type="text/html", headers=_HEADERS)


def _sender(content: bytes, media_type: str) -> Callable[[], Response]:
    def send() -> Response:
        return Response(content, media_type=media_type, headers=_HEADERS)

    return send
