"""Configurations of ``accelerate launch``: read as accelerate reads them, checked before a run.

Knows how FSDP and ZeRO shard weights over processes; starts no process.
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

from unified_reward.core.errors import ConfigError, one_line
from unified_reward.core.paths import is_file
from unified_reward.train.optim import OptimConfig


Sharding = Literal["none", "fsdp", "zero2", "zero3"]
_GIB = 2**30
_FSDP_NAMES = {
    "transformer_layer_cls_to_wrap": "transformer_cls_names_to_wrap",
    "offload_params": "cpu_offload",
}
"""Keys of a configuration that have another name in accelerate's plugin."""
_BYTES: dict[Sharding, tuple[int, int, int]] = {
    "none": (4, 4, 0),
    "fsdp": (4, 4, 0),
    "zero2": (2, 2, 4),
    "zero3": (2, 2, 4),
}
"""Bytes of a weight, of its gradient, and of the optimiser's own float32 copy of the weight."""


@dataclass(frozen=True)
class LaunchConfig:
    """Number of processes of a launch, and how weights are sharded over them."""

    name: str
    processes: int = 1
    sharding: Sharding = "none"
    blocks: tuple[str, ...] | None = None
    """Classes of the layers that FSDP wraps; None for those that the model names itself."""
    accumulate: int | None = None
    """Gradient accumulation steps in DeepSpeed's configuration; None for the recipe's."""

    def check_batch(self, processes: int, optim: OptimConfig) -> None:
        """Check that the batch of an optimiser step is the one of the recipe.

        Raises:
            ConfigError: The recipe has another number of processes or of accumulated passes.
        """
        wanted = optim.batch_size * optim.accumulate * processes
        if self.processes != processes:
            even = wanted // (optim.batch_size * self.processes) or 1
            raise ConfigError(
                f"the recipe is for {processes} processes ({optim.batch_size} x {optim.accumulate} "
                f"x {processes} = {wanted} examples a step), {self.name} starts {self.processes}; "
                f"set judge.processes={self.processes} judge.optim.accumulate={even}"
            )
        if self.accumulate not in (None, optim.accumulate):
            raise ConfigError(
                f"{self.name} accumulates {self.accumulate} passes, the recipe "
                f"{optim.accumulate}; leave gradient_accumulation_steps out of {self.name}"
            )

    def fsdp_layers(self, model: nn.Module) -> dict[str, int]:
        """Number of layers that FSDP wraps, by class; empty under another launcher.

        Raises:
            ConfigError: The model has no layer of a named class.
        """
        if self.sharding != "fsdp":
            return {}
        names = self.blocks or sorted(getattr(model, "_no_split_modules", None) or ())
        classes = [type(module).__name__ for module in model.modules()]
        absent = [name for name in names if name not in classes]
        if absent:
            stacks = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
            repeated = sorted({type(stack[0]).__name__ for stack in stacks if len(stack) > 1})
            raise ConfigError(
                f"{self.name}: the model has no layer of class {', '.join(absent)}; set "
                f"fsdp_transformer_layer_cls_to_wrap, to some of {', '.join(repeated)}"
            )
        return {name: classes.count(name) for name in names}

    def width(self, dtype: Literal["float32", "bfloat16"]) -> int:
        """Bytes of a weight that is not trained; ZeRO casts all to two."""
        return 2 if dtype == "bfloat16" else _BYTES[self.sharding][0]

    def memory_gib(self, frozen: int, trained: int, states: int) -> dict[str, float]:
        """Memory of one process on its GPU between two steps, without activations, in GiB.

        Args:
            frozen: Bytes of the weights that are not trained, of all processes if sharded.
            trained: Number of trained weights.
            states: Bytes of the optimiser's moments.
        """
        per_weight, per_gradient, per_copy = _BYTES[self.sharding]
        shards = 1 if self.sharding == "none" else self.processes
        weights = frozen + trained * per_weight
        sizes = {
            "weights": weights / (1 if self.sharding == "zero2" else shards),
            "gradients": trained * per_gradient / shards,
            "optimiser": (states + trained * per_copy) / shards,
        }
        sizes["total"] = sum(sizes.values())
        return {name: round(size / _GIB, 3) for name, size in sizes.items()}


def read_launch_config(reference: str) -> LaunchConfig:
    """Read and check a configuration for ``accelerate launch --config_file``.

    Args:
        reference: A YAML file, or the name of a shipped one.

    Raises:
        ConfigError: It does not exist, or accelerate would refuse or ignore something in it.
    """
    folder = Path(str(resources.files("unified_reward") / "recipes" / "launch"))
    path = Path(reference) if is_file(reference) else folder / f"{reference}.yaml"
    if not is_file(path):
        names = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
        raise ConfigError(f"{reference} is neither a file nor a shipped launcher: {names}")
    try:
        read: Any = load_config_from_file(str(path))
        if not isinstance(read, ClusterConfig):
            raise ConfigError(f"{path} starts no processes of this machine")
        _check_keys([*(read.fsdp_config or {}), *(read.deepspeed_config or {})], path)
        return _launch(read, reference)
    except (ValueError, TypeError, KeyError, ImportError, yaml.YAMLError) as error:
        raise ConfigError(f"accelerate cannot launch with {path}: {one_line(error)}") from error


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
        steps = plugin.gradient_accumulation_steps
        accumulate = None if steps == "auto" else int(steps)
        return LaunchConfig(name, n, stages[plugin.zero_stage], accumulate=accumulate)
    return LaunchConfig(name, n)
