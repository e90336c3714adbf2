"""Outputs of policies: candidates of all prompts, sampled into the folder of the evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unified_reward.core.progress import progress_bar


@dataclass(frozen=True)
class PolicySampling:
    """Settings of sampling, the same for all policies."""

    out: Path
    """Folder of the evaluation; candidates of NAME go to ``NAME/candidates.jsonl`` in it."""
    n: int = 4
    """Files or answers a prompt, >= 1."""
    seed: int = 0
    """Seed of the run; seeds depend on it, the prompt's id and the place, not on the policy."""
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Options of `policies.load`, such as ``steps`` or ``temperature``."""
    device: str | None = None
    dtype: str | None = None
    batch_size: int | None = None
    retry_failed: bool = False
    progress: Callable[[str, int], AbstractContextManager[Callable[[int], None]]] = progress_bar
    """Makes a progress bar of a title and a total, to be told the items just done."""
