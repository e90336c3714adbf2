"""Commands that install an extra or the laboratory, as this distribution was installed."""

from __future__ import annotations

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import urlsplit


DISTRIBUTION = "unified-reward"
LABORATORY = "unified-reward-lab"


def install_command(extra: str = "", *, of: str = DISTRIBUTION, upgrade: bool = False) -> str:
    """Command that installs an extra of this distribution, or a distribution beside it.

    Where this one was installed from a folder, such as a checkout, so is what the command names: no
    index may have it.

    Args:
        extra: Name of the extra; empty for the distribution alone.
        of: The distribution.
        upgrade: Replace packages that are installed by newer ones.
    """
    options, target = ["--upgrade"] * upgrade, of
    folder = _source()
    if folder and of != DISTRIBUTION:
        folder = folder.with_name(of)
    if folder and folder.is_dir():
        options, target = [*options, "-e"], str(folder)
    wanted = shlex.quote(f"{target}[{extra}]" if extra else target)
    return " ".join(["pip install", *options, wanted])


def _source() -> Path | None:
    """Folder that this distribution was installed from (PEP 610); None from an index."""
    try:
        text = distribution(DISTRIBUTION).read_text("direct_url.json")
        known: dict[str, object] = json.loads(text or "{}")
        url = urlsplit(str(known.get("url", "")))
    except (PackageNotFoundError, ValueError, AttributeError):
        return None
    if url.scheme != "file" or "dir_info" not in known:
        return None
    from urllib.request import url2pathname  # it imports clients of networks

    return Path(url2pathname(url.path))
