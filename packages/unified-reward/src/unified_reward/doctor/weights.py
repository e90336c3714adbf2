"""Weights of published judges and systems in the Hugging Face cache, and folders known by name.

Reads names, sizes and headers of files; no weights.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unified_reward.core.errors import ModelError, one_line
from unified_reward.core.extensions import checkpoints, extra
from unified_reward.core.paths import is_folder
from unified_reward.core.words import count_of
from unified_reward.judges.registry import PUBLISHED
from unified_reward.scorers import SYSTEMS, system


_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(?=$|, )")
"""A hub id that alone is all weights of a system."""
_WEIGHTS = (
    *("*.safetensors.index.json", "model.safetensors", "*.safetensors"),
    *("*.bin.index.json", "*.bin"),
)
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")


@dataclass(frozen=True)
class CachedWeights:
    """Weights of a published judge or system in the cache."""

    hub_id: str
    kind: Literal["judge", "system"]
    names: tuple[str, ...]
    """Names of the systems, or the family of the judge."""
    reference: str
    """Value of ``--judge``."""
    folder: str
    bytes: int
    parameters: int | None
    """Counted in the headers of safetensors; None for other files."""
    missing: tuple[str, ...]
    """Parts that are not there; empty where it is complete."""


@dataclass(frozen=True)
class KnownFolder:
    """A folder of weights that has a name here, or that the environment names."""

    name: str
    kind: str
    folder: str
    bytes: int


def cache_folder() -> Path:
    """Folder of the hub's cache, by ``HF_HUB_CACHE`` or ``HF_HOME``."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = os.environ.get("HF_HOME") or Path(home) / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(root) / "hub").expanduser()


def cached_weights(cache: Path) -> tuple[list[CachedWeights], list[str]]:
    """Published weights in a cache of the hub, and problems of the cache.

    Args:
        cache: Folder, as of `cache_folder`.
    """
    with extra("local"):
        from huggingface_hub import scan_cache_dir
        from huggingface_hub.errors import CacheNotFound

    try:
        scanned = scan_cache_dir(cache)
    except (CacheNotFound, ValueError):
        return [], []
    published = _systems()
    rows: list[CachedWeights] = []
    for repo in sorted(scanned.repos, key=lambda each: each.repo_id):
        if repo.repo_type == "model" and repo.revisions:
            newest = max(repo.revisions, key=lambda each: ("main" in each.refs, each.last_modified))
            rows += _weights_of(repo, newest, published.get(repo.repo_id.lower(), ()))
    return rows, [one_line(warning) for warning in scanned.warnings]


def _systems() -> dict[str, tuple[str, ...]]:
    """Names of systems by the hub id of their weights, in small letters."""
    names: dict[str, tuple[str, ...]] = {}
    for name in SYSTEMS:
        for weights in system(name).card.weights:
            if match := _HUB_ID.match(weights):
                names[match[0].lower()] = (*names.get(match[0].lower(), ()), name)
    return names


def _weights_of(repo: Any, revision: Any, systems: tuple[str, ...]) -> Iterator[CachedWeights]:
    hub_id, folder = repo.repo_id, Path(revision.snapshot_path)
    partial = len([*Path(repo.repo_path).glob("blobs/*.incomplete")])
    missing = (f"{count_of(partial, 'file')} whose download was interrupted",) if partial else ()
    size = (str(folder), revision.size_on_disk, parameters(folder))
    if systems:
        missing += min((_missing_of_system(name, folder) for name in systems), key=len)
        yield CachedWeights(hub_id, "system", systems, f"{systems[0]}:{hub_id}", *size, missing)
    start = next((key for key in PUBLISHED if hub_id.lower().startswith(key.lower())), None)
    if start is not None:
        family = PUBLISHED[start][0] or ""
        missing += _missing_of_judge(folder)
        yield CachedWeights(hub_id, "judge", (family,), hub_id, *size, missing)


def _missing_of_system(name: str, folder: Path) -> tuple[str, ...]:
    from unified_reward.scorers.loading import lacking_files

    return tuple(lacking_files(system(name), folder))


def _missing_of_judge(folder: Path) -> tuple[str, ...]:
    from unified_reward.checkpoints.tensor_keys import weight_files

    missing = [] if (folder / "config.json").is_file() else ["config.json"]
    missing += [] if any((folder / name).is_file() for name in _TOKENIZERS) else ["a tokenizer"]
    try:
        missing += [] if weight_files(folder, _WEIGHTS) else ["weights"]
    except ModelError as error:
        missing.append(str(error).removeprefix(f"{folder} lacks "))
    return tuple(missing)


def parameters(folder: Path) -> int | None:
    """Parameters in the safetensors of a folder, by their headers; None without any."""
    with extra("local"):
        from safetensors import SafetensorError, safe_open

    total = 0
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, "numpy") as tensors:
                names = tensors.keys()
                shapes = (tensors.get_slice(name).get_shape() for name in names)
                total += sum(map(math.prod, shapes))
        except (SafetensorError, OSError):
            return None
    return total or None


def known_folders() -> list[KnownFolder]:
    """Checkpoints that installed distributions name, and the folder in the environment."""
    rows = [
        KnownFolder(name, checkpoint.kind, str(checkpoint.folder), _bytes(checkpoint.folder))
        for name, checkpoint in checkpoints()
    ]
    folder = os.environ.get("UNIFIED_REWARD_WEIGHTS", "")
    if folder and is_folder(folder):
        rows.append(KnownFolder("UNIFIED_REWARD_WEIGHTS", "folder", folder, _bytes(Path(folder))))
    return rows


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
