"""Configurations of ``accelerate launch``: read as accelerate reads them, and checked beforehand.

Knows how a launcher spreads weights over processes; starts none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml
from accelerate import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from torch import nn

from unified_reward.core.errors import ConfigError
from unified_reward.train.optim import OptimConfig


Sharding = Literal["none", "fsdp", "zero2", "zero3"]
_GIB = 2**30
_FSDP_NAMES = {
    "transformer_layer_cls_to_wrap": "transformer_cls_names_to_wrap",
    "offload_params": "cpu_offload",
}
"""Keys of a configuration that the plugin calls otherwise; the others are called alike."""
_BYTES: dict[Sharding, tuple[int, int, int]] = {
    "none": (4, 4, 0),
    "fsdp": (4, 4, 0),
    "zero2": (2, 2, 4),
    "zero3": (2, 2, 4),
}
"""Bytes of a weight, a gradient, and the float32 weight that the optimiser keeps beside it."""


@dataclass(frozen=True)
class LaunchConfig:
    """How many processes there are, and what each of them holds."""

    name: str
    processes: int = 1
    sharding: Sharding = "none"
    blocks: tuple[str, ...] | None = None
    """Classes of the layers that FSDP wraps one by one; None for those that the model names."""
    accumulate: int | None = None
    """Passes per optimiser step that DeepSpeed was told; None for the recipe's."""

    def check_batch(self, processes: int, optim: OptimConfig) -> None:
        """See that as many turns make a step as the recipe says.

        Raises:
            ConfigError: The recipe is for another number of processes or of passes.
        """
        wanted = optim.batch_size * optim.accumulate * processes
        if self.processes != processes:
            even = wanted // (optim.batch_size * self.processes) or 1
            raise ConfigError(
                f"the recipe is for {processes} processes ({optim.batch_size} x {optim.accumulate} "
                f"x {processes} = {wanted} turns a step), {self.name} starts {self.processes}; "
                f"set judge.processes={self.processes} judge.optim.accumulate={even}"
            )
        if self.accumulate not in (None, optim.accumulate):
            raise ConfigError(
                f"{self.name} accumulates {self.accumulate} passes, the recipe "
                f"{optim.accumulate}; leave gradient_accumulation_steps out of {self.name}"
            )

    def wrapped(self, model: nn.Module) -> dict[str, int]:
        """Number of layers that FSDP wraps by their class; empty under another launcher.

        Raises:
            ConfigError: The model has no layer of a class; FSDP would stop there.
        """
        if self.sharding != "fsdp":
            return {}
        names = self.blocks or sorted(getattr(model, "_no_split_modules", None) or ())
        there = [type(one).__name__ for one in model.modules()]
        absent = [name for name in names if name not in there]
        if absent:
            stacks = [one for one in model.modules() if isinstance(one, nn.ModuleList)]
            repeated = sorted({type(one[0]).__name__ for one in stacks if len(one) > 1})
            raise ConfigError(
                f"{self.name}: the model has no layer of class {', '.join(absent)}; set "
                f"fsdp_transformer_layer_cls_to_wrap, to some of {', '.join(repeated)}"
            )
        return {name: there.count(name) for name in names}

    def memory_gib(self, weights: int, trained: int, states: int) -> dict[str, float]:
        """What one process holds on its card between two steps, without activations, in GiB.

        Args:
            weights: Number of weights.
            trained: Number of those that are trained.
            states: Bytes of the optimiser's moments of all of them.
        """
        per_weight, per_gradient, per_copy = _BYTES[self.sharding]
        spread = 1 if self.sharding == "none" else self.processes
        held = {
            "weights": weights * per_weight / (1 if self.sharding == "zero2" else spread),
            "gradients": trained * per_gradient / spread,
            "optimiser": (states + trained * per_copy) / spread,
        }
        held["total"] = sum(held.values())
        return {name: round(size / _GIB, 3) for name, size in held.items()}


def read_launch_config(reference: str) -> LaunchConfig:
    """A configuration for ``accelerate launch --config_file``.

    Args:
        reference: A YAML file, or the name of a shipped one.

    Raises:
        ConfigError: There is none, or accelerate would refuse or pass over something in it.
    """
    folder = Path(str(resources.files("unified_reward") / "recipes" / "launch"))
    path = Path(reference) if Path(reference).is_file() else folder / f"{reference}.yaml"
    if not path.is_file():
        names = ", ".join(sorted(one.stem for one in folder.glob("*.yaml")))
        raise ConfigError(f"{reference} is neither a file nor a shipped launcher: {names}")
    try:
        read: Any = load_config_from_file(str(path))
        if not isinstance(read, ClusterConfig):
            raise ConfigError(f"{path} starts no processes of this machine")
        _check_keys([*(read.fsdp_config or {}), *(read.deepspeed_config or {})], path)
        return _launch(read, reference)
    except (ValueError, TypeError, KeyError, ImportError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be launched with: {error}") from error


def _check_keys(given: Iterable[str], path: Path) -> None:
    known = vars(launch_command_parser().parse_args(["script"]))
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ConfigError(f"{path}: accelerate has no option {', '.join(unknown)}")


def _launch(read: ClusterConfig, name: str) -> LaunchConfig:
    n = read.num_processes
    if fsdp := read.fsdp_config:
        plain = {str(key).removeprefix("fsdp_"): value for key, value in fsdp.items()}
        options: dict[str, Any] = {_FSDP_NAMES.get(key, key): value for key, value in plain.items()}
        options["fsdp_version"] = options.pop("version", None)
        blocks = FullyShardedDataParallelPlugin(**options).transformer_cls_names_to_wrap
        return LaunchConfig(name, n, "fsdp", tuple(blocks) if blocks else None)
    deepspeed: dict[str, Any] = {**(read.deepspeed_config or {})}
    if deepspeed:
        file = deepspeed.pop("deepspeed_config_file", None)
        plugin = DeepSpeedPlugin(hf_ds_config=file, **deepspeed)
        stages: dict[int, Sharding] = {2: "zero2", 3: "zero3"}
        if plugin.zero_stage not in stages:
            raise ConfigError(f"{name}: ZeRO of stage {plugin.zero_stage}; 2 and 3 are known here")
        if plugin.zero_stage == 3 and not plugin.zero3_save_16bit_model:
            raise ConfigError(
                f"{name}: without zero3_save_16bit_model the judge cannot be written at the end"
            )
        told = plugin.gradient_accumulation_steps
        return LaunchConfig(
            name, n, stages[plugin.zero_stage], accumulate=None if told == "auto" else int(told)
        )
    return LaunchConfig(name, n)
