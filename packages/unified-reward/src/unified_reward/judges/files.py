"""Fingerprints of the files and wordings that decide a judge's verdicts; loads no model."""

from __future__ import annotations

from pathlib import Path

from unified_reward import prompts
from unified_reward.core.extensions import checkpoint_path, require
from unified_reward.core.paths import is_file, is_folder
from unified_reward.io.fingerprints import file_fingerprint, folder_fingerprints, text_fingerprint
from unified_reward.judges.registry import JudgeOptions, cached_snapshot, family_of, kind_of
from unified_reward.prompts.packs import installed_wordings


def judge_files(reference: str, options: JudgeOptions) -> dict[str, str]:
    """Fingerprints of what a judge's verdicts depend on beside the sample, by names for people.

    Files of its folder and of an adapter's base, a table, the commit of a hub id, and the wordings
    it is asked in; "" for a hub id that is not in the local cache. The model behind a URL has none,
    and neither has what an installed judge loads by itself, except the path in its reference.

    Args:
        reference: See `judges.registry.open_judge`.
        options: See `judges.registry.open_judge`.

    Raises:
        ConfigError: The reference matches nothing.
    """
    name, _, rest = reference.partition(":")
    match kind_of(reference):
        case "checkpoint":
            family = family_of(reference, options)
            return checkpoint_files(reference) | _templates(family)
        case "server" | "scripted":
            return _templates(options.family or "native")
        case "reward_server":
            return {}
        case "table":
            return {rest: file_fingerprint(rest)}
        case "scorer":
            card = require("local", "unified_reward.scorers").system(name).card
            return checkpoint_files(rest) | _wordings(card.wording)
        case "checklist":
            from unified_reward.judges.checklist import CARDS

            return _wordings(CARDS[name].wording) | judge_files(rest, options)
        case "installed":
            path = Path(rest)
            files = _folder(path) if rest else {}
            return {rest: file_fingerprint(path)} if is_file(path) else files


def checkpoint_files(reference: str | Path) -> dict[str, str]:
    """Fingerprints of the files of a checkpoint, a scorer's weights or a policy; see `judge_files`.

    Args:
        reference: A folder, a name that a distribution registers, or a hub id.
    """
    path = checkpoint_path(reference)
    if is_file(path):
        return {path.name: file_fingerprint(path)}
    if not is_folder(path):
        return {f"the commit of {reference}": _commit(str(reference))}
    return _folder(path)


def _folder(path: Path) -> dict[str, str]:
    files = folder_fingerprints(path) if is_folder(path) else {}
    if "adapter_config.json" in files:
        from unified_reward.checkpoints.adapters import adapter_base

        if (base := adapter_base(path)) is not None:
            below = checkpoint_files(base).items()
            files |= {f"{name} of the base": value for name, value in below}
    return files


def _commit(hub_id: str) -> str:
    """Commit of a hub id in the local cache; empty where it is not there."""
    folder = cached_snapshot(hub_id)
    return folder.name if folder else ""


def _wordings(names: tuple[str, ...]) -> dict[str, str]:
    known = installed_wordings()
    return {f"the wording {name}": known[name].sha256 for name in names if name in known}


def _templates(family: str) -> dict[str, str]:
    """Fingerprint of all templates of a family, without those whose wording is not installed."""
    found = map(repr, prompts.templates(family).values())
    return {f"the wording of family {family}": text_fingerprint("\n".join(found))}
