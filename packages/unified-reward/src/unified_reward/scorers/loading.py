"""Checks of a scorer's folder before weights are loaded, and loading."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import init_empty_weights

from unified_reward.backends.devices import resolve_device, resolve_dtype
from unified_reward.checkpoints.pretrained import load_errors
from unified_reward.checkpoints.tensor_keys import (
    KeyReport,
    match_keys,
    read_state,
    refuse_pointers,
)
from unified_reward.core.errors import ModelError, one_line
from unified_reward.core.paths import is_file, is_folder
from unified_reward.prompts.packs import installed_wordings, published_prompts
from unified_reward.scorers import SYSTEMS
from unified_reward.scorers import system as systems
from unified_reward.scorers.base import Scorer


_BESIDE = ("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
"""Optional files of tokenizers."""


@dataclass(frozen=True)
class FolderReport:
    """Files of a scorer that a folder has and lacks."""

    files: tuple[Path, ...]
    """Weight files."""
    keys: KeyReport | None
    """Report on the tensors; None if the weights are missing or of another model."""
    problems: tuple[str, ...]
    """Reasons that it cannot be loaded; empty if it can."""


def check(system: type[Scorer], folder: Path) -> FolderReport:
    """Look at files, names and shapes; no weights are loaded.

    Args:
        system: The scorer.
        folder: Where its files are.
    """
    try:
        refuse_pointers(folder)
        files = system.files(folder)
        for part in sorted({file.parent for file in files} - {folder}):
            refuse_pointers(part)
    except ModelError as error:
        return FolderReport((), None, (str(error),))
    problems = _lacking_beside(system, folder)
    if not files:
        names = sorted(file.name for file in folder.iterdir()) if is_folder(folder) else []
        content = f"it holds {', '.join(names[:6])}" if names else "it is empty or not a folder"
        others = [name for name in SYSTEMS if _has_weights(systems(name), folder)]
        hint = f", weights as of {' or '.join(others)}" if others else ""
        problems.insert(0, f"no weights ({' or '.join(system.weights)}); {content}{hint}")
        return FolderReport((), None, tuple(problems))
    try:
        module, keys = _filled(system, files, folder, shapes_only=True)
    except ModelError as error:
        return FolderReport(tuple(files), None, (str(error), *problems))
    problems = [*keys.problems, *problems]
    if not problems:
        try:
            system.examine(module, folder)
        except ModelError as error:
            problems = [str(error)]
    return FolderReport(tuple(files), keys, tuple(problems))


def lacking_files(system: type[Scorer], folder: Path) -> list[str]:
    """Files of a scorer that a folder lacks, by their names alone; see `check` for the tensors."""
    try:
        files = system.files(folder)
    except ModelError as error:
        return [str(error)]
    weights = [] if files else [f"no weights ({' or '.join(system.weights)})"]
    return weights + _lacking_beside(system, folder)


def lacking_words(system: type[Scorer]) -> list[str]:
    """Prompts of a scorer that are not imported, without which every question fails."""
    installed, published = installed_wordings(), published_prompts()
    lacking = [name for name in system.card.wording if name not in installed]
    return [f"the prompt {name} is not imported: run {published[name].hint}" for name in lacking]


def _has_weights(system: type[Scorer], folder: Path) -> bool:
    try:
        return bool(system.files(folder))
    except ModelError:  # some of them
        return True


def _lacking_beside(system: type[Scorer], folder: Path) -> list[str]:
    """Files beside the weights that a folder lacks."""
    lacking = (_lacking(folder, what, names) for what, names in system.needed.items())
    return [*filter(None, lacking)]


def _lacking(folder: Path, what: str, names: Iterable[str]) -> str:
    if any(is_file(file) for name in names for file in folder.glob(name)):
        return ""
    return f"no {what} ({' or '.join(names)})"


def _filled(
    system: type[Scorer], files: list[Path], folder: Path, *, shapes_only: bool
) -> tuple[torch.nn.Module, KeyReport]:
    state = read_state(files, shapes_only=shapes_only)
    message = f"{folder} does not describe {system.card.name}"
    with load_errors(message), init_empty_weights(include_buffers=False):
        module = system.skeleton(state, folder)
    fitting, report = match_keys(module, system.translate(state, folder), system.ignored)
    if not shapes_only and not report.problems:
        module.load_state_dict(fitting, assign=True)
    return module, report


def fetched(system: type[Scorer], weights: str | Path) -> Path:
    """Folder of weights: an existing one, or a download from the hub.

    Only the files that the scorer reads are fetched.

    Raises:
        ModelError: It is neither a folder nor a hub id that can be fetched.
    """
    folder = Path(weights)
    if is_folder(folder) or re.fullmatch(r"\w[\w.-]*/[\w.-]+", str(weights)) is None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from unified_reward.backends.http_settings import check_route_to_hub

    check_route_to_hub()
    try:
        return Path(snapshot_download(str(weights), allow_patterns=patterns(system)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"{weights} is not a folder and cannot be fetched: {one_line(error)}"
        ) from error


def patterns(system: type[Scorer]) -> list[str]:
    """Glob patterns of the files to download: weights, their shards, and files beside them."""
    stems = (one.removesuffix(".index.json").rpartition(".") for one in system.weights)
    shards = [f"{stem}-*-of-*.{suffix}" for stem, _, suffix in stems]
    needed = [name for names in system.needed.values() for name in names]
    folders = dict.fromkeys(name.rpartition("/")[0] for name in needed)
    beside = [f"{folder}/{name}".lstrip("/") for folder in folders for name in _BESIDE]
    return [*system.weights, *shards, *needed, *beside]


def load_system(
    system: type[Scorer],
    folder: Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
) -> Scorer:
    """Load a scorer from the files its authors released.

    Args:
        system: The scorer.
        folder: Where its files are.
        device: Default the best there is.
        dtype: Default float32 for scorers that are a CLIP or BLIP model, whose values lie closer
            together than bfloat16 tells apart; for others float32 on a CPU, bfloat16 elsewhere.
        batch_size: Candidates in one pass; default 16.

    Raises:
        ModelError: The folder lacks something, or a tensor is missing, of another shape or
            unexplained.
        ConfigError: There is no such dtype.
    """
    report = check(system, folder)
    if report.problems:
        raise ModelError(
            f"{folder} cannot be loaded as {system.card.name}: {'; '.join(report.problems)}"
        )
    device = resolve_device(device)
    torch_dtype = resolve_dtype(dtype or system.default_dtype, device)
    module, _ = _filled(system, [*report.files], folder, shapes_only=False)
    module = module.to(device, torch_dtype)
    with load_errors(f"{folder} cannot be loaded as {system.card.name}"):
        return system(module, folder, batch_size=batch_size or 16)
