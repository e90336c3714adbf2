"""The call of a network for a prompt as named tensors, which a file keeps and a batch stacks.

Knows no pipeline. A call is packed without noisy latents and timestep, and repeated with others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from unified_reward.core.errors import ModelError
from unified_reward.policies.layouts import Layout, Place, at, merge, replaced, rows


FORM = "form"
"""Name under which `pack` keeps everything but the tensors, as JSON in a tensor of bytes."""


class Repeat(NamedTuple):
    """Facts by which a packed call is repeated for other latents."""

    layout: Layout
    argument_shape: tuple[int, ...]
    """Shape of the noisy argument without the batch, where all of it is noisy."""
    is_list: bool
    """True where the noisy argument and the output are lists with an item for each row."""
    timestep_shape: tuple[int, ...]
    """Shape of the timestep without the batch; () where it has a number for each sample."""
    is_float: bool
    """True where the network gets its timestep as a real number."""
    output: Place
    """Place of the prediction in the output."""
    sign: float
    """1 or -1, by which the output is multiplied."""

    def arguments(self, calls: Sequence[Any], noisy: Tensor, timestep: Tensor) -> dict[str, Any]:
        """Arguments for B samples.

        Args:
            calls: Arguments of the call for each, with the other latents in place of the noisy.
            noisy: Noisy latents, shape (B, ...).
            timestep: Timesteps of the scheduler, shape (B,).
        """
        layout = self.layout
        arguments = merge(calls, layout.batched)
        if layout.place.dim is None:
            latents = noisy.reshape(len(noisy), *self.argument_shape)
        else:
            behind = rows(at(arguments, layout.noisy))
            latents = torch.cat([noisy, cast("Tensor", behind)], layout.place.dim)
        steps = layout.network_timestep(timestep).view(-1, *[1] * len(self.timestep_shape))
        steps = steps.expand(-1, *self.timestep_shape)
        steps = steps.float() if self.is_float else steps
        given = [*latents.unbind()] if self.is_list else latents
        return replaced(replaced(arguments, layout.noisy, given), layout.timestep, steps)

    def prediction(self, output: Any, shape: Sequence[int]) -> Tensor:
        """Prediction of shape (B, *shape) from the first output of the network."""
        batch = torch.stack(output) if self.is_list else output
        part = self.output.take(batch, (len(batch), *shape))
        return part if self.sign == 1 else -part


def strip(arguments: Mapping[str, Any], layout: Layout, shape: Sequence[int]) -> dict[str, Any]:
    """Arguments with the latents behind the noisy ones in their place, and without timestep."""
    whole = at(arguments, layout.noisy)
    rest = None
    if layout.place.dim is not None:
        rest = layout.place.rest(whole, (len(whole), *shape))
    return replaced(replaced(dict(arguments), layout.noisy, rest), layout.timestep, None)


def pack(arguments: Mapping[str, Any], repeat: Repeat) -> dict[str, Tensor]:
    """Keep a call for one sample, see `strip`, as tensors; equal forms may share a batch.

    Raises:
        ModelError: There is something else than tensors, collections and plain values.
    """
    form, tensors = flatten(arguments)
    batched = {".".join(map(str, path)) for path in repeat.layout.batched}
    stacked = {
        name: any(name == path or name.startswith(f"{path}.") for path in batched)
        for name in tensors
    }
    known = {
        "arguments": form,
        "repeat": _to_json(repeat),
        # A batch shares every tensor that has no row for each of its samples.
        "tensors": {
            name: [*value.shape] if stacked[name] else _digest(value)
            for name, value in tensors.items()
        },
    }
    text = json.dumps(known, sort_keys=True, allow_nan=False).encode()
    kept = {name: value if value.is_meta else value.cpu() for name, value in tensors.items()}
    return {**kept, FORM: torch.frombuffer(bytearray(text), dtype=torch.uint8)}


class Packed(NamedTuple):
    """Calls of one form in a batch."""

    repeat: Repeat
    indices: list[int]
    """Indices of their samples in the batch."""
    arguments: list[Any]
    """Arguments of each."""


def unpack(condition: Mapping[str, Tensor | Sequence[Tensor]]) -> list[Packed]:
    """Calls of a batch by their forms, from what `pack` returned, by name and stacked."""
    groups: dict[str, list[int]] = {}
    for i, form in enumerate(condition[FORM]):
        groups.setdefault(bytes(form.cpu().numpy()).decode(), []).append(i)
    calls: list[Packed] = []
    for text, indices in groups.items():
        form, names, repeat = _parse(text)
        arguments = [unflatten(form, {name: condition[name][i] for name in names}) for i in indices]
        calls.append(Packed(repeat, indices, arguments))
    return calls


@lru_cache(maxsize=64)
def _parse(text: str) -> tuple[Any, list[str], Repeat]:
    known = json.loads(text)
    return known["arguments"], [*known["tensors"]], _from_json(known["repeat"])


def _to_json(repeat: Repeat) -> dict[str, Any]:
    layout = repeat.layout._asdict() | {"batched": sorted(repeat.layout.batched, key=str)}
    return {**repeat._asdict(), "layout": layout}


def _from_json(facts: Mapping[str, Any]) -> Repeat:
    layout: dict[str, Any] = facts["layout"]
    known: dict[str, Any] = {name: tuple(layout[name]) for name in ("noisy", "timestep")}
    known["place"], output = Place(*layout["place"]), Place(*facts["output"])
    known["batched"] = frozenset(tuple(path) for path in layout["batched"])
    shapes: dict[str, Any] = {k: tuple(facts[k]) for k in ("argument_shape", "timestep_shape")}
    return Repeat(**{**facts, **shapes, "output": output, "layout": Layout(**{**layout, **known})})


def flatten(value: Any, name: str = "") -> tuple[Any, dict[str, Tensor]]:
    """Split arguments into a form, which JSON can write, and the tensors in it by dotted names."""
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
    raise ModelError(f"the network gets a {type(value).__name__} as {name}, which cannot be kept")


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


def _digest(tensor: Tensor) -> str:
    content = b"" if tensor.is_meta else tensor.cpu().flatten().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(repr((tensor.dtype, tensor.shape)).encode() + content).hexdigest()
