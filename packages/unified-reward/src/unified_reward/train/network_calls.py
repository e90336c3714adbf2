"""Calls of a pipeline's network: intercepted while the pipeline samples, kept as tensors, repeated.

Everything that conditions a network is in its call as the pipeline itself makes it: embeddings,
positions, sizes, guidance and a source image. Knows no pipeline and no loss.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from unified_reward.core.errors import ModelError


FORM = "form"
"""Name under which `pack_call` keeps the form of a call, as JSON in a tensor of bytes."""


class _Intercepted(Exception):  # noqa: N818  stops the pipeline, and is no error
    def __init__(self, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.arguments = arguments


def intercept_call(network: nn.Module, run: Callable[[], object]) -> dict[str, Any]:
    """Arguments by name of a network's first call; neither the network nor the rest is run.

    Args:
        network: The network.
        run: Runs the pipeline.

    Raises:
        ModelError: The network is not called.
    """
    signature = inspect.signature(network.forward)

    def stop(_: nn.Module, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        raise _Intercepted(dict(signature.bind(*positional, **named).arguments))

    hook = network.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        run()
    except _Intercepted as intercepted:
        return intercepted.arguments
    finally:
        hook.remove()
    raise ModelError(f"the pipeline does not call its {type(network).__name__}")


def flatten(value: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split arguments into a form, which JSON can write, and the tensors in it by dotted names.

    Raises:
        ModelError: There is something else than tensors, collections and plain values.
    """
    if isinstance(value, Tensor):
        return {"tensor": name}, {name: value}
    if isinstance(value, Mapping | list | tuple):
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        pairs = {str(key): flatten(item, f"{name}.{key}".lstrip(".")) for key, item in items}
        tensors = {key: tensor for _, found in pairs.values() for key, tensor in found.items()}
        forms = {key: form for key, (form, _) in pairs.items()}
        kind = next(kind for kind in (Mapping, list, tuple) if isinstance(value, kind))
        return {kind.__name__.lower(): forms}, tensors
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}, {}
    raise ModelError(f"a network that takes a {type(value).__name__} as {name} cannot be aligned")


def unflatten(form: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Any:
    """Arguments from their form and tensors, see `flatten`."""
    ((kind, content),) = form.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "value":
        return content
    items = {key: unflatten(item, tensors) for key, item in content.items()}
    if kind in ("tuple", "list"):
        return tuple(items.values()) if kind == "tuple" else [*items.values()]
    return items


def pack_call(
    arguments: Mapping[str, Any], batched: Sequence[str], **facts: Any
) -> dict[str, Tensor]:
    """Keep a call with a batch of one as tensors, of which equal forms may share a batch.

    Args:
        arguments: Arguments by name.
        batched: Dotted names of the tensors whose first dimension is the batch.
        facts: Further facts about the call, which JSON can write.
    """
    form, tensors = flatten(arguments)
    rows = {name: value[0] if name in batched else value for name, value in tensors.items()}
    known: dict[str, Any] = {"arguments": form, "batched": [*batched], **facts}
    known["tensors"] = {
        name: [*value.shape] if name in batched else _digest(value) for name, value in rows.items()
    }
    text = json.dumps(known, sort_keys=True, allow_nan=False).encode()
    rows = {name: value if value.is_meta else value.cpu() for name, value in rows.items()}
    return {**rows, FORM: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


def _digest(tensor: Tensor) -> str:
    content = b"" if tensor.is_meta else tensor.cpu().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(repr((tensor.dtype, tensor.shape)).encode() + content).hexdigest()


def group_calls(forms: Sequence[Tensor]) -> dict[str, list[int]]:
    """Indices of the calls of each form."""
    groups: dict[str, list[int]] = {}
    for i, form in enumerate(forms):
        groups.setdefault(bytes(form.cpu().numpy()).decode(), []).append(i)
    return groups
