"""Layouts of observed calls: where noisy latents and timestep are, and what becomes of the output.

Everything is found by comparing numbers of a run, and nothing is known of a family of pipelines.
What cannot be rebuilt to rounding is refused.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unified_reward.core.errors import ModelError
from unified_reward.policies.observation import Call, Step


KeyPath = tuple[str | int, ...]
"""Keys that lead to an argument, through dictionaries and lists."""


class Place(NamedTuple):
    """Place of a tensor within a larger one, or the same elements in another shape."""

    dim: int | None
    """Dimension in which it is the first part; None where all elements belong to it."""

    def take(self, whole: Tensor, shape: Sequence[int]) -> Tensor:
        """Elements of the place, in the given shape."""
        part = whole if self.dim is None else whole.narrow(self.dim, 0, shape[self.dim])
        return part.reshape(*shape)

    def rest(self, whole: Tensor, shape: Sequence[int]) -> Tensor:
        """Elements behind the place; none where all belong to it."""
        if self.dim is None:
            return whole[:, :0]
        taken = shape[self.dim]
        return whole.narrow(self.dim, taken, whole.shape[self.dim] - taken)


class Mixture(NamedTuple):
    """Prediction from the B-row outputs of a step: ``sign * sum_k weight_k output_k``."""

    place: Place
    """Place of the prediction in an output, before they are mixed."""
    sign: float
    weights: tuple[float, ...]
    """Weights of the outputs, which sum to 1; ``(1 - g, g)`` for guidance of scale g."""
    is_normed: bool = False
    """True where the mixture gets the norm of the conditional output, along the last dimension."""
    base: int = 0
    """Index of the output from which the others are subtracted, which decides the rounding."""
    is_float: bool = False
    """True where outputs of half precision are mixed in float32."""

    @property
    def conditional(self) -> int:
        """Index of the output for the prompt.

        Raises:
            ModelError: None stands out, or several do.
        """
        found = [k for k, weight in enumerate(self.weights) if weight >= 1 - 1e-6]
        if len(found) != 1:
            raise ModelError(
                f"the scheduler gets outputs of the network weighted by {self.weights}, of which "
                f"{'more than one may be' if found else 'none is'} that of the prompt"
            )
        return found[0]

    def mix(self, outputs: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
        """Prediction of the given shape from the outputs of a step, in the order of the weights."""
        parts = [self.place.take(output, shape) for output in outputs]
        parts = [part.float() for part in parts] if self.is_float else parts
        mixed = base = parts[self.base]
        for k, (weight, part) in enumerate(zip(self.weights, parts, strict=True)):
            if k != self.base:
                mixed = mixed + weight * (part - base)
        if self.is_normed:
            wanted = parts[self.conditional].norm(dim=-1, keepdim=True)
            mixed = mixed * (wanted / mixed.norm(dim=-1, keepdim=True))
        return self.sign * mixed


class Layout(NamedTuple):
    """Places of the inputs of a network's call."""

    noisy: KeyPath
    place: Place
    """Place of the noisy latents in the argument, behind which other latents may follow."""
    timestep: KeyPath
    divisor: float
    """Divides the scheduler's timestep, or what is left to ``top``, for the network."""
    top: float
    """Highest timestep where the network's timestep falls with the noise; else 0."""
    batched: frozenset[KeyPath]
    """Tensors whose first dimension is the batch, and lists with an item for each row."""

    def network_timestep(self, timestep: Tensor) -> Tensor:
        """Timestep of the network for one of the scheduler."""
        if self.top:
            timestep = self.top - timestep
        return timestep if self.divisor == 1 else timestep.float() / self.divisor


def rows(value: Any) -> Tensor | None:
    """A tensor with a batch dimension, also of a list with a tensor for each row; else None."""
    if isinstance(value, Tensor):
        return value if value.ndim else None
    is_list = isinstance(value, list) and value and all(isinstance(v, Tensor) for v in value)
    if is_list and len({v.shape for v in value}) == 1:
        return torch.stack(value)
    return None


def walk(value: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Arguments and the items in them, each with its path."""
    yield path, value
    if isinstance(value, Mapping | list | tuple):
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in pairs:
            yield from walk(item, (*path, key))


def at(arguments: Any, path: KeyPath) -> Any:
    """The item at a path."""
    for key in path:
        arguments = arguments[key]
    return arguments


def replaced(arguments: Any, path: KeyPath, value: Any) -> Any:
    """Arguments with another item at a path."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(arguments, Mapping):
        return {**arguments, key: replaced(arguments[key], rest, value)}
    items = [replaced(item, rest, value) if i == key else item for i, item in enumerate(arguments)]
    return type(arguments)(items)


def select(
    arguments: Any, batched: frozenset[KeyPath], index: int, n: int, path: KeyPath = ()
) -> Any:
    """Arguments of the index-th of n samples in a call."""
    if path in batched and arguments is not None:
        size = len(arguments) // n
        return arguments[index * size : (index + 1) * size]
    if isinstance(arguments, Mapping):
        return {k: select(v, batched, index, n, (*path, k)) for k, v in arguments.items()}
    if isinstance(arguments, list | tuple):
        items = (select(v, batched, index, n, (*path, i)) for i, v in enumerate(arguments))
        return type(arguments)(items)
    return arguments


def merge(calls: Sequence[Any], batched: frozenset[KeyPath], path: KeyPath = ()) -> Any:
    """Arguments of one call for several samples, from those of a call for each."""
    first = calls[0]
    if path in batched and first is not None:
        if isinstance(first, Tensor):
            return torch.cat([*calls])
        return [item for call in calls for item in call]
    if isinstance(first, Mapping):
        return {k: merge([c[k] for c in calls], batched, (*path, k)) for k in first}
    if isinstance(first, list | tuple):
        items = (merge([c[i] for c in calls], batched, (*path, i)) for i in range(len(first)))
        return type(first)(items)
    return first


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """True where the largest difference is rounding, relative to the largest value."""
    return _excess(a, b, tolerance) <= 1


def _excess(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> float:
    """Largest difference of two tensors, by the one that counts as rounding."""
    if a.is_meta or b.is_meta:
        return 0.0 if a.shape == b.shape else math.inf
    if a.shape != b.shape or not len(a):
        return math.inf
    eps = max(torch.finfo(x.dtype).eps if x.is_floating_point() else 0.0 for x in (a, b))
    a, b = a.double(), b.double()
    allowed = max(tolerance, 4 * eps) * max(float(a.abs().max()), float(b.abs().max()))
    error = float((a - b).abs().max())
    return error / allowed if allowed else (math.inf if error else 0.0)


def find_place(whole: Tensor, part: Tensor) -> list[Place]:
    """Places that a part of this shape may have, by the shapes alone."""
    if whole.numel() == part.numel():
        return [Place(None)]
    if whole.ndim != part.ndim:
        return []
    larger = [d for d in range(part.ndim) if whole.shape[d] != part.shape[d]]
    fits = len(larger) == 1 and larger[0] and whole.shape[larger[0]] > part.shape[larger[0]]
    return [Place(larger[0])] if fits else []


def _find_noisy(call: Call, sample: Tensor) -> tuple[KeyPath, Place]:
    """Find the argument that holds the noisy latents, perhaps scaled, and their place in it."""
    n = len(sample)
    for path, value in walk(call.arguments):
        batch = rows(value)
        if batch is None or len(batch) % n or not batch.is_floating_point():
            continue
        for place in find_place(batch[:n], sample):
            part = place.take(batch[:n], sample.shape)
            scale = 1.0 if part.is_meta else factor(part, sample)
            if scale and (part.is_meta or close(part, scale * sample)):
                return path, place
    raise ModelError(f"the {call.network} gets the noisy latents in a form that is not known")


def factor(part: Tensor, whole: Tensor) -> float:
    """Factor by which the second comes nearest to the first."""
    a, b = part.double().flatten(), whole.double().flatten()
    return float(a @ b) / max(float(b @ b), 1e-300)


def find_layout(
    calls: Sequence[Call],
    twin: Call,
    samples: Sequence[Tensor],
    timesteps: Sequence[float],
    train_steps: int,
) -> Layout:
    """Find the layout of a network's calls.

    Args:
        calls: The same call of several steps, for one sample.
        twin: The first of them for two samples.
        samples: Noisy latents in the scheduler, of each step.
        timesteps: Timesteps of the scheduler, of each step.
        train_steps: Timesteps that the network was trained on.

    Raises:
        ModelError: The calls cannot be understood; the message says why.
    """
    first, name = calls[0].arguments, calls[0].network
    noisy, place = _find_noisy(calls[0], samples[0])
    doubled = dict(walk(twin.arguments))
    batched = frozenset(
        path for path, value in walk(first) if _is_doubled(value, doubled.get(path))
    )
    varying = {
        path
        for call in calls[1:]
        for path in differing(first, call.arguments)
        if path[: len(noisy)] != noisy
    } or {(key,) for key in first if key in ("timestep", "timesteps", "t")}
    if len(varying) != 1:
        names = ", ".join(sorted(".".join(map(str, path)) for path in varying)) or "nothing"
        raise ModelError(
            f"beside noisy latents the {name} gets {names} that changes from step to step, where "
            "a timestep is expected"
        )
    timestep = varying.pop()
    given = [at(call.arguments, timestep) for call in calls]
    layout = Layout(noisy, place, timestep, 1.0, 0.0, batched)
    return _with_scale(name, layout, given, timesteps, float(train_steps))


def _is_doubled(single: Any, double: Any) -> bool:
    if isinstance(single, Tensor) and isinstance(double, Tensor) and single.ndim and len(single):
        return double.shape == (2 * len(single), *single.shape[1:])
    are_lists = isinstance(single, list) and isinstance(double, list)
    return are_lists and 0 < 2 * len(single) == len(double)


def differing(first: Any, other: Any) -> Iterator[KeyPath]:
    """Paths of the tensors and plain values that differ."""
    others = dict(walk(other))
    for path, value in walk(first):
        if isinstance(value, Mapping | list | tuple):
            continue
        second = others.get(path)
        if isinstance(value, Tensor) and isinstance(second, Tensor):
            if value.shape != second.shape or not (value.is_meta or torch.equal(value, second)):
                yield path
        elif value is not second and (isinstance(value, Tensor) or value != second):
            yield path


def _with_scale(
    name: str, layout: Layout, given: Sequence[Any], timesteps: Sequence[float], train_steps: float
) -> Layout:
    """Layout with the scale of the network's timesteps, of those that are common."""
    tensors = [torch.as_tensor(value) for value in given]
    if any(value.is_meta for value in tensors):
        return layout
    if any((value != value.flatten()[0]).any() for value in tensors):
        raise ModelError(f"the {name} gets several timesteps for the latents of a sample")
    values = torch.tensor([float(value.flatten()[0]) for value in tensors])
    eps = [torch.finfo(value.dtype).eps for value in tensors if value.is_floating_point()]
    for top, divisor in itertools.product((0.0, train_steps), (1.0, train_steps)):
        layout = layout._replace(divisor=divisor, top=top)
        wanted = layout.network_timestep(torch.tensor(timesteps))
        if close(values, wanted, max(1e-4, *(4 * e for e in eps), 0)):
            return layout
    raise ModelError(
        f"the {name} gets timesteps of an unknown scale: {values.tolist()} where the scheduler "
        f"has {[*timesteps]}"
    )


def explain(step: Step, guidance: Sequence[float] = ()) -> Mixture:
    """Find how the scheduler's input comes from the outputs of the networks in a step.

    Args:
        step: A step with all calls for it.
        guidance: Scales of guidance that may be in use, tried where the norm is kept.

    Raises:
        ModelError: It cannot be rebuilt to rounding.
    """
    wanted = step.prediction
    if not (wanted.is_meta or wanted.isfinite().all()):
        raise ModelError("the scheduler gets numbers that are not finite; try another dtype")
    outputs = split_outputs(step)
    best, least = None, 1.0
    for place in find_place(outputs[0], wanted) if outputs else []:
        if wanted.is_meta:
            return Mixture(place, 1.0, (0.0,) * (len(outputs) - 1) + (1.0,))
        for mixture in _candidates(outputs, place, wanted, guidance):
            # A scale that is only near the true one may pass for rounding in half precision.
            excess = _excess(mixture.mix(outputs, wanted.shape), wanted)
            if excess < least or (best is None and excess <= least):
                best, least = mixture, excess
            if not excess:
                return mixture
    if best:
        return best
    raise ModelError(
        f"the scheduler gets something that {len(outputs)} outputs of the network and a scale of "
        "guidance do not explain, so that a step cannot be repeated"
    )


def split_outputs(step: Step) -> list[Tensor]:
    """Outputs of the calls of a step, each cut into batches of as many rows as samples."""
    n, outputs = len(step.sample), list[Tensor]()
    for call in step.calls:
        batch = rows(call.output)
        if batch is None or len(batch) % n:
            raise ModelError(f"the {call.network} returns no prediction for each of {n} samples")
        outputs += batch.split(n)
    return outputs


def _candidates(
    outputs: Sequence[Tensor], place: Place, wanted: Tensor, guidance: Sequence[float]
) -> Iterator[Mixture]:
    """Mixtures that may explain what the scheduler gets."""
    parts = [place.take(output, wanted.shape) for output in outputs]
    if len(parts) == 1:
        yield from (Mixture(place, sign, (1.0,)) for sign in (1.0, -1.0))
        return
    known = [scale + more for scale in guidance for more in (0, 1)] if len(parts) == 2 else []
    pairs = [(1 - scale, scale)[::turn] for scale in known for turn in (1, -1)]
    apart = torch.stack([(part - parts[0]).double().flatten() for part in parts[1:]], 1)
    is_half = parts[0].dtype.itemsize < 4
    for sign in (1.0, -1.0):
        rest = (sign * wanted.double() - parts[0].double()).flatten()
        solved = torch.linalg.lstsq(apart, rest[:, None]).solution.flatten().tolist()
        # Scales are decimal numbers, which the outputs give to a few digits only.
        rounded = [[float(f"{x:.{digits}g}") for x in solved] for digits in range(1, 8)]
        found = [(1 - sum(weights), *weights) for weights in rounded]
        tried = [(w, False) for w in dict.fromkeys((*pairs, *found))]
        tried += [(w, True) for w in pairs if max(w) >= 1]
        for weights, is_normed in tried:
            for base, is_float in itertools.product(
                range(len(parts)), (False, True)[: 1 + is_half]
            ):
                yield Mixture(place, sign, weights, is_normed, base, is_float)


def is_certain(mixture: Mixture, step: Step) -> bool:
    """True where another output in place of the conditional would not explain the step."""
    outputs, first = split_outputs(step), mixture.conditional
    for k in range(len(outputs)):
        order = [*range(len(outputs))]
        order[first], order[k] = k, first
        swapped = mixture.mix([outputs[i] for i in order], step.prediction.shape)
        if k != first and not step.prediction.is_meta and close(swapped, step.prediction):
            return False
    return True
