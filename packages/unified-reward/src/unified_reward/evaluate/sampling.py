"""Outputs of policies: candidates of all prompts, sampled into the folder of the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unified_reward import policies
from unified_reward.core.extensions import checkpoint_path
from unified_reward.core.progress import progress_bar
from unified_reward.core.samples import Example
from unified_reward.evaluate.output_rows import CANDIDATES
from unified_reward.evaluate.tasks import kind_of, with_task
from unified_reward.io.journal import open_journal
from unified_reward.io.rows import Row
from unified_reward.judges import bulk
from unified_reward.policies.candidates import CandidateWork


@dataclass(frozen=True)
class PolicySampling:
    """Settings of sampling, the same for all policies."""

    out: Path
    """Folder of the evaluation; candidates of NAME go to ``NAME/candidates.jsonl`` in it."""
    n: int = 4
    """Files or answers a prompt, >= 1."""
    seed: int = 0
    """Seed of the run. The seed of a candidate depends on it, on the prompt's id and on the
    candidate's place, and not on the policy."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of `policies.load`, such as ``steps`` or ``temperature``."""
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    retry_failed: bool = False
    """Sample prompts again whose row failed."""
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] = progress_bar
    """Makes a progress bar of a title and the number of rows; it is called with rows just done."""


def is_policy(folder: Path) -> bool:
    """True for the folder of a diffusers pipeline or of a model of transformers."""
    if (folder / "model_index.json").is_file():
        return True
    weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    names = ("config.json", "adapter_config.json")
    return weights and any((folder / name).is_file() for name in names)


def sample_policy(
    name: str,
    reference: str,
    prompts: Mapping[str, Example],
    stated: Set[str],
    sampling: PolicySampling,
) -> Path:
    """Sample candidates of all prompts that the file of the policy lacks.

    Args:
        name: Name of the policy, which is that of its folder in ``sampling.out``.
        reference: Folder, registered name or hub id of the policy.
        prompts: Prompts by id.
        stated: Ids of prompts whose task is as it is, whatever the policy makes.
        sampling: Settings, the same for all policies.

    Returns:
        The file of candidates.

    Raises:
        ConfigError: The file was started with other settings, prompts or files of the policy.
        DataError: The folder cannot be written, or a prompt states a task of another kind.
        ModelError: The policy cannot be loaded.
    """
    policy = policies.load(
        checkpoint_path(reference),
        sampling.options,
        device=sampling.device,
        dtype=sampling.dtype,
        batch_size=sampling.batch_size,
    )
    policy.name = reference
    kind = kind_of(policy.tasks[0])
    rows = [
        Row(n, key, with_task(prompt, kind, is_stated=key in stated))
        for n, (key, prompt) in enumerate(prompts.items(), 1)
    ]

    def read() -> Iterator[Row]:
        return iter(rows)

    path = sampling.out / name / CANDIDATES
    with open_journal(path) as journal:
        work = CandidateWork(path.parent, policy, sampling.n, sampling.seed)
        made = bulk.run(work, read, journal, size=1, retry_failed=sampling.retry_failed)
        missing = [row for row in rows if row.id not in journal.done]
        with sampling.progress(f"sampling {name}", len(missing)) as advance:
            for chunk in made:
                advance(len(chunk.rows))
    return path
