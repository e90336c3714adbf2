"""DPO of a policy: the training that fits its kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import checkpoint_path
from unified_reward.train.dpo_diffusion import DiffusionDPO, align_pipeline
from unified_reward.train.dpo_vlm import VLMDPO, align_vlm


@dataclass(frozen=True)
class PolicyDPO:
    """DPO of a policy in a recipe: give ``vlm`` or ``diffusion``, not both."""

    policy: str
    """A folder, the name of a registered policy, or a hub id."""
    pairs: Path
    """A file of pairs rows, or of two candidates with a winner."""
    vlm: VLMDPO | None = None
    """Options for a vision-language model."""
    diffusion: DiffusionDPO | None = None
    """Options for a diffusers pipeline."""

    def __post_init__(self) -> None:
        if (self.vlm is None) == (self.diffusion is None):
            raise ConfigError("dpo takes either vlm or diffusion")

    @property
    def training(self) -> VLMDPO | DiffusionDPO:
        """The options that were given."""
        return cast("VLMDPO | DiffusionDPO", self.vlm or self.diffusion)


def align(
    pairs: str | Path,
    policy: str | Path,
    config: VLMDPO | DiffusionDPO,
    out: str | Path,
    *,
    log: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Align a policy with preference pairs by DPO and write the new policy.

    A run that was killed continues from its last checkpoint when it is called again.

    Args:
        pairs: A file of pairs rows, of which the kept ones are learned, or of rows with two
            candidates and a winner, such as human votes. Media paths start at its folder.
        policy: Folder, name of a registered policy, or hub id of a vision-language model or a
            diffusers pipeline.
        config: `VLMDPO` for a vision-language model, `DiffusionDPO` for a pipeline.
        out: Folder of the new policy, loadable like the old one. With adapters, these alone are
            also in ``adapter``.
        log: Called with one sentence for each row that is left out; default is silence.

    Returns:
        The report of `align_vlm` or `align_pipeline`, with ``rows`` by status, ``pairs`` learned
        from, ``losses`` in nats by step and more; and ``left_out``, how many rows could not be
        used. Rows without a pair (dropped, failed, tied) do not count as left out.

    Raises:
        ConfigError: Config, policy and pairs are not of the same kind.
        DataError: No pair can be used.
        ModelError: The policy cannot be loaded, or the loss is not finite any more.

    Example::

        from unified_reward import align
        from unified_reward.train.dpo_vlm import VLMDPO
        from unified_reward.train.optim import OptimConfig

        config = VLMDPO(OptimConfig(steps=100, batch_size=8, lr=5e-5, lora_rank=16))
        report = align("pairs.jsonl", "Qwen/Qwen2.5-VL-3B-Instruct", config, "aligned", log=print)
        print(report["losses"][0], report["losses"][-1])
    """
    policy = checkpoint_path(policy)
    left_out: list[str] = []

    def record(reason: str) -> None:
        left_out.append(reason)
        if log:
            log(reason)

    if isinstance(config, VLMDPO):
        report = align_vlm(policy, Path(pairs), config, Path(out), record)
    else:
        report = align_pipeline(policy, Path(pairs), config, Path(out), record)
    return report | {"left_out": len(left_out)}
