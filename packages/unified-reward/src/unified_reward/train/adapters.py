"""LoRA adapters of a network: added, switched off for the reference, saved and merged."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.peft import PeftAdapterMixin
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from torch import nn

from unified_reward.train.optim import OptimConfig, check_lora_targets


class Adapters:
    """Adapters in the layers of one network."""

    def __init__(self, network: Any, config: LoraConfig) -> None:
        """Add adapters in place, with new random weights.

        Args:
            network: A network of diffusers. PEFT itself adapts those that have no methods for it.
            config: Rank and layers.
        """
        self.network = network
        self._is_native = isinstance(network, PeftAdapterMixin)
        if self._is_native:
            network.add_adapter(config)
        else:
            self._peft: Any = get_peft_model(network, config)
        # PEFT gives some the type of a network in half precision, in which small steps are lost.
        for weight in network.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()

    def enable(self, *, on: bool) -> None:
        """Switch the adapters on or off."""
        target = self.network if self._is_native else self._peft.base_model
        end = "adapters" if self._is_native else "adapter_layers"
        getattr(target, f"{'enable' if on else 'disable'}_{end}")()

    def save(self, folder: Path, pipeline: Any, component: str) -> None:
        """Write the adapters as ``load_lora_weights`` of the pipeline reads them, or as PEFT does.

        Args:
            folder: Folder of the files.
            pipeline: The pipeline of the network.
            component: Name of its component that the adapters are loaded into.
        """
        if not self._is_native:
            self._peft.save_pretrained(folder)
        elif hasattr(pipeline, "save_lora_weights"):
            weights: dict[str, Any] = {
                f"{component}_lora_layers": get_peft_model_state_dict(self.network),
                f"{component}_lora_adapter_metadata": self.network.peft_config["default"].to_dict(),
            }
            pipeline.save_lora_weights(folder, **weights)
        else:
            self.network.save_lora_adapter(folder, safe_serialization=True)

    def merge(self) -> None:
        """Merge the adapters into the weights, in float32 and main memory, and remove them."""
        if self._is_native:
            _widen(self.network)
            self.network.fuse_lora()
            self.network.unload_lora()
        else:
            merge_peft(self._peft)


def merge_peft(model: Any) -> Any:
    """Merge the adapters of PEFT into a model, as `Adapters.merge` does, and return it."""
    _widen(model)
    return model.merge_and_unload()


def _widen(network: nn.Module) -> None:
    # Half precision would round small changes away, and a card may not hold float32.
    if all(each.dtype == torch.float32 for each in network.parameters()):
        return
    # One by one, as FSDP does not let a module be moved that it has spread. In processes other than
    # the first such weights are on the meta device.
    for each in (*network.parameters(), *network.buffers()):
        if not each.is_meta:
            each.data = each.data.to("cpu", torch.float32 if each.is_floating_point() else None)


def add_adapters(network: Any, lora: LoraConfig, optim: OptimConfig) -> Adapters:
    """Add adapters whose random weights depend on the seed alone.

    Raises:
        ConfigError: A name in ``lora_targets`` matches no layer.
    """
    check_lora_targets(network, optim)
    torch.manual_seed(optim.seed)
    return Adapters(network, lora)


def merge_adapters(adapters: Mapping[str, Adapters], folder: Path, pipeline: Any) -> None:
    """Write the adapters of networks by name, and merge them.

    Those of a second network are in a folder of its name: they are loaded by an argument, under
    the name of the first.
    """
    first = next(iter(adapters), "")
    for name, each in adapters.items():
        each.save(folder if name == first else folder / name, pipeline, first)
        each.merge()
