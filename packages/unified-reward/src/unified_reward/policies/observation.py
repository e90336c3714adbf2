"""Sampling of a diffusers pipeline, observed while it runs unmodified.

Records the calls of its networks, the steps of its scheduler and the input of its autoencoder's
decoder. Knows no family of pipelines.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import update_wrapper
from types import MethodType
from typing import Any, NamedTuple

from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn


class Call(NamedTuple):
    """A call of a network."""

    network: str
    """Name of the pipeline's component."""
    arguments: dict[str, Any]
    """Arguments by name."""
    output: Any
    """First of the outputs: a tensor, or a list with a tensor for each row of the batch."""


class Step(NamedTuple):
    """A step of the scheduler, after the calls of the network that lead to it."""

    calls: Sequence[Call]
    timestep: Tensor
    """Timestep of the scheduler, a scalar."""
    sample: Tensor
    """Noisy latents before the step, shape (B, ...)."""
    prediction: Tensor
    """Output of the network as the scheduler takes it, of the shape of ``sample``."""


@dataclass
class Observation:
    """Everything that was recorded in a run."""

    calls: list[Call] = field(default_factory=list)
    """Every call of a network."""
    steps: list[Step] = field(default_factory=list)
    decoded: Tensor | None = None
    """Input of the autoencoder's decoder; None where it was not called."""


class _Stop(Exception):  # noqa: N818  ends a run, and is no error
    """Ends a run of a pipeline."""


class _Stepped(tuple[Tensor]):
    """Output of a scheduler's step, by index or by name."""

    @property
    def prev_sample(self) -> Tensor:
        return self[0]


def networks(pipeline: Any) -> dict[str, nn.Module]:
    """Denoising networks of a pipeline, by the names of their components."""
    return {
        name: part
        for name, part in pipeline.components.items()
        if re.search("(^|_)(unet|transformer)(_|$)", name) and isinstance(part, ModelMixin)
    }


Answer = Callable[[str, dict[str, Any]], Any]
"""Stands in for a network: gets its name and arguments by name, returns its output."""


def observe(
    pipeline: Any,
    run: Callable[[], object],
    *,
    answer: Answer | None = None,
    result: Callable[[Tensor], Tensor] | None = None,
    max_calls: int | None = None,
) -> Observation:
    """Run a pipeline up to its decoder, which is not run, and record.

    On the meta device, where no scheduler works, the run ends with its first step unless there is
    a ``result``.

    Args:
        pipeline: A diffusers pipeline.
        run: Calls it.
        answer: Stands in for its networks; None runs them.
        result: Replaces the latents that a step of the scheduler returns.
        max_calls: End the run after so many calls of the networks.
    """
    seen, pending = Observation(), list[Call]()

    def on_call(call: Call) -> None:
        seen.calls.append(call)
        pending.append(call)
        if len(seen.calls) == max_calls:
            raise _Stop

    def on_step(step: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        seen.steps.append(step_of(pending, arguments))
        pending.clear()
        sample = seen.steps[-1].sample
        if sample.is_meta:
            if result is None:
                raise _Stop
            return _Stepped([result(sample)])
        stepped = step(**arguments)
        if result is None:
            return stepped
        if isinstance(stepped, tuple):
            return (result(stepped[0]), *stepped[1:])
        stepped.prev_sample = result(stepped.prev_sample)
        return stepped

    def on_decode(latents: Tensor) -> None:
        seen.decoded = latents
        raise _Stop

    with watching(pipeline, on_call, on_step, on_decode, answer), suppress(_Stop):
        run()
    return seen


def step_of(calls: Sequence[Call], arguments: Mapping[str, Any]) -> Step:
    """Step with these calls before it, and the arguments of the scheduler's step by name.

    Tensors that share memory with the latents are copied, since some pipelines write into it.
    """
    sample: Tensor = arguments["sample"]

    def copied(value: Any) -> Any:
        is_shared = isinstance(value, Tensor) and not value.is_meta
        if is_shared and value.untyped_storage().data_ptr() == sample.untyped_storage().data_ptr():
            return value.clone()
        return value

    kept = tuple(
        call._replace(arguments={key: copied(value) for key, value in call.arguments.items()})
        for call in calls
    )
    return Step(kept, arguments["timestep"], copied(sample), arguments["model_output"])


@contextmanager
def watching(
    pipeline: Any,
    on_call: Callable[[Call], None],
    on_step: Callable[[Callable[..., Any], dict[str, Any]], Any],
    on_decode: Callable[[Tensor], None] | None = None,
    answer: Answer | None = None,
) -> Iterator[None]:
    """Watch a pipeline while it samples.

    Args:
        pipeline: A diffusers pipeline.
        on_call: Gets each call of a network.
        on_step: Takes the place of the scheduler's ``step``; gets it, and its arguments by name.
        on_decode: Gets the input of each call of the decoder.
        answer: Stands in for the networks; None runs them.
    """

    def watch_network(name: str) -> Callable[..., Any]:
        def call(forward: Callable[..., Any], arguments: dict[str, Any]) -> Any:
            output = answer(name, arguments) if answer else forward(**arguments)
            on_call(Call(name, arguments, output[0]))
            return output

        return call

    def watch_decoder(decode: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        if on_decode:
            on_decode(next(iter(arguments.values())))
        return decode(**arguments)

    with ExitStack() as stack:
        for name, network in networks(pipeline).items():
            stack.enter_context(_replaced(network, "forward", watch_network(name)))
        stack.enter_context(_replaced(pipeline.scheduler, "step", on_step))
        if hasattr(getattr(pipeline, "vae", None), "decode"):
            stack.enter_context(_replaced(pipeline.vae, "decode", watch_decoder))
        yield


@contextmanager
def _replaced(
    owner: Any, name: str, call: Callable[[Callable[..., Any], dict[str, Any]], Any]
) -> Iterator[None]:
    """Let a method of one object be called through ``call``, with its arguments by name."""
    own = vars(owner).get(name)
    setattr(owner, name, _Method(owner, name, call))
    try:
        yield
    finally:
        if own is None:
            delattr(owner, name)
        else:
            setattr(owner, name, own)


class _Method:
    """Takes the place of a method of an object; copies of the object have the method itself."""

    def __init__(self, owner: Any, name: str, call: Callable[..., Any]) -> None:
        self._owner, self._name, self._call = owner, name, call
        self._original = getattr(owner, name)
        # Pipelines look for their options in the signature, which follows __wrapped__.
        update_wrapper(self, self._original)
        self._signature = inspect.signature(self._original)
        kinds = {p.kind: p.name for p in self._signature.parameters.values()}
        self._spread = kinds.get(inspect.Parameter.VAR_KEYWORD)

    def __call__(self, *positional: Any, **named: Any) -> Any:
        arguments = dict(self._signature.bind(*positional, **named).arguments)
        if self._spread:
            arguments |= arguments.pop(self._spread, {})
        return self._call(self._original, arguments)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        copied = memo.get(id(self._owner))
        return self if copied is None else MethodType(getattr(type(copied), self._name), copied)
