"""Which training aligns a policy: that of its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unified_reward.core.errors import ConfigError
from unified_reward.train.dpo_diffusion import DiffusionDPO, align_pipeline
from unified_reward.train.dpo_vlm import VLMDPO, align_vlm


@dataclass(frozen=True)
class PolicyDPO:
    """A policy, its preference pairs, and how it learns from them: as one or the other kind."""

    policy: str
    """A folder, the name of a shipped policy or a hub id."""
    pairs: Path
    """A pairs file; kept rows are learned."""
    vlm: VLMDPO | None = None
    """Of a vision-language model."""
    diffusion: DiffusionDPO | None = None
    """Of a pipeline of diffusers."""

    def __post_init__(self) -> None:
        if (self.vlm is None) == (self.diffusion is None):
            raise ConfigError("a policy is aligned as one of vlm and diffusion; give just one")


def align_policy(
    config: PolicyDPO, policy: str | Path, out: Path, log: Callable[[str], None]
) -> dict[str, Any]:
    """Align a policy on its pairs, see `align_vlm` and `align_pipeline`.

    Args:
        config: What and how.
        policy: Where the policy of the configuration is.
        out: Folder of the new policy.
        log: Told why a row or pair is left out.

    Returns:
        What these return, and how many rows and pairs were ``left_out``; those that were dropped
        or failed when the pairs were made do not count.
    """
    left_out: list[str] = []

    def telling(why: str) -> None:
        left_out.append(why)
        log(why)

    if config.vlm:
        report = align_vlm(policy, config.pairs, config.vlm, out, telling)
    elif config.diffusion:
        report = align_pipeline(policy, config.pairs, config.diffusion, out, telling)
    else:
        raise ConfigError("a policy is aligned as one of vlm and diffusion")
    return report | {"left_out": len(left_out)}
