"""Candidates of prompts, made by a policy: one row a prompt, resumable, media as files."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from unified_reward import media, policies
from unified_reward.core.errors import DataError, MediaError, one_line
from unified_reward.core.samples import Example, Image, Task, Video, check_context
from unified_reward.core.verdicts import Failed
from unified_reward.io.atomic import write_bytes
from unified_reward.io.journal import FINGERPRINT, Journal
from unified_reward.io.rows import Row, part_row
from unified_reward.io.run_config import Origin
from unified_reward.judges.files import checkpoint_files


def make_candidates(
    read: Callable[[], Iterable[Row]],
    journal: Journal,
    policy: policies.Policy,
    *,
    n: int,
    seed: int,
    retry_failed: bool = False,
) -> Iterator[dict[str, Any]]:
    """Append a row for each prompt that the journal lacks; media go to ``media/`` beside it.

    A candidate depends on the policy, its options, the id of its prompt, its place among the
    candidates and the seed, as far as the model's arithmetic does not depend on the batch; a
    resumed run makes the same batches.

    Args:
        read: Reads the whole input, including finished rows; candidates in it are not read.
        journal: Finished rows; appended to.
        policy: Policy to sample from.
        n: Candidates of a prompt, >= 1.
        seed: Random seed of the run.
        retry_failed: Make failed rows again.

    Returns:
        The rows, each just appended.

    Raises:
        ConfigError: The run was started with other settings, files of the policy, or prompts.
        DataError: The prompts cannot be read, or the folder not be written; rows done stay.
    """
    config = {"policy": policy.name, "seed": seed, "n": n, "batch_size": policy.batch_size}
    config |= {"dtype": policy.dtype, **asdict(policy.options)}
    reads = ("task", "prompt", "context", "criteria", "tags")
    origin = Origin(config, partial(checkpoint_files, policy.name), reads)
    origin.resume(journal, read, retry_failed=retry_failed)
    origin.check(journal)
    missing = (row for row in read() if row.id not in journal.done)
    return _append(missing, journal, policy, origin, n)


def _append(
    rows: Iterable[Row], journal: Journal, policy: policies.Policy, origin: Origin, n: int
) -> Iterator[dict[str, Any]]:
    folder, seed = journal.path.parent, origin.config["seed"]
    for row in rows:
        fingerprint = origin.fingerprint(row)
        parts, reason = _made(row.content, policy, policies.seeds(row.id, n, seed), folder)
        prompt = row.content if isinstance(row.content, Example) else None
        made = {
            "id": row.id,
            "status": "generated" if parts else "failed",
            "reason": reason,
            "task": prompt.task.value if prompt else None,
            "prompt": prompt.prompt if prompt else None,
            "candidates": parts,
            "context": [part_row(one, folder) for one in prompt.context] if prompt else [],
            "criteria": prompt.criteria if prompt else "",
            "tags": dict(prompt.tags) if prompt else {},
            "policy": policy.name,
            "seed": seed,
            "duplicates": len(parts) - len({str(one) for one in parts}),
            FINGERPRINT: fingerprint,
        }
        journal.append([made])
        yield made


def _made(
    content: Example | Failed, policy: policies.Policy, seeds: Sequence[int], folder: Path
) -> tuple[list[dict[str, str]], str | None]:
    """Make candidates as parts of a row, and say why some or all are missing."""
    if isinstance(content, Failed):
        return [], content.error
    if content.task not in policy.tasks:
        return [], f"{policy.name} is for {' and '.join(policy.tasks)}, not {content.task.value}"
    if content.context and content.task is Task.IMAGE_GENERATION:
        return [], "a prompt of image_generation has no context; an edit has the task image_editing"
    try:
        check_context(content.task, content.context)
    except DataError as error:
        return [], str(error)
    parts: list[dict[str, str]] = []
    try:
        for start in range(0, len(seeds), policy.batch_size):
            chunk = seeds[start : start + policy.batch_size]
            made = policy.sample(content.prompt, content.context, chunk)
            parts += [_stored(one, folder) for one in made if one is not None]
    except (MediaError, ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        return [], f"{policy.name} made no candidates: {one_line(error)}"
    lost = len(seeds) - len(parts)
    return parts, f"{lost} of {len(seeds)} withheld by the safety checker" if lost else None


def _stored(made: str | Image | Video, folder: Path) -> dict[str, str]:
    if isinstance(made, str):
        return {"text": made}
    if isinstance(made, Image):
        key, suffix, content = "image", "png", media.encode_png(media.open_image(made))
    else:
        key, suffix, content = "video", "mp4", media.encode_mp4(made.source, made.fps or 0)
    path = folder / "media" / f"{hashlib.sha256(content).hexdigest()}.{suffix}"
    if not path.exists():
        write_bytes(path, content)
    return {key: f"media/{path.name}"}
