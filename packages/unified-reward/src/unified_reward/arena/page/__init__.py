"""Pages of the arena: the one that people vote on at ``/``, and the owner's at ``/standings``.

Plain files without frameworks, inline scripts or anything from elsewhere; the arena sends them.
"""

from __future__ import annotations


FILES = {
    "/": ("index.html", "text/html"),
    "/standings": ("standings.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
    "/vote.js": ("vote.js", "text/javascript"),
    "/server.js": ("server.js", "text/javascript"),
    "/elements.js": ("elements.js", "text/javascript"),
    "/item.js": ("item.js", "text/javascript"),
    "/clips.js": ("clips.js", "text/javascript"),
    "/standings.js": ("standings.js", "text/javascript"),
}
"""File and type of each path; they need no token."""
