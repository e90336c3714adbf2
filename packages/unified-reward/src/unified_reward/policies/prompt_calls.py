"""The call of a pipeline's network for a prompt: found, proven, and made for other prompts.

A run of the pipeline is observed. Of each step the outputs of the networks are compared with what
the scheduler gets, which shows guidance and the call that is conditioned on the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor

from unified_reward.core.errors import ModelError, one_line
from unified_reward.policies.latent_maps import LatentMap, find_latent_map
from unified_reward.policies.layouts import (
    KeyPath,
    at,
    close,
    differing,
    explain,
    factor,
    find_layout,
    is_certain,
    rows,
    select,
    walk,
)
from unified_reward.policies.observation import Call, Step, networks, observe
from unified_reward.policies.packing import Repeat, flatten, pack, strip


BROKEN = (
    *(ValueError, TypeError, RuntimeError),
    *(LookupError, AttributeError, AssertionError),
)
"""Errors of a pipeline or network that is called with what it does not take."""
Run = Callable[[int], object]
"""Samples for one prompt with a pipeline, as many as the argument says."""


@dataclass(frozen=True)
class PromptCall:
    """The call of a network for the prompt, among the calls of a step for one sample."""

    repeat: Repeat
    number: int
    """Calls of the network before it in a step."""
    index: int
    """Its place among the samples of the call, which may have others for guidance."""
    pieces: int
    """Samples of the call."""
    shape: tuple[int, ...]
    """Shape of the latents of a sample."""
    output_shape: tuple[int, ...]
    """Shape of the output of the network for one sample, without the batch."""
    tensors: frozenset[KeyPath]
    """Arguments that are tensors; for other prompts there may be more, such as masks."""
    scales: tuple[float, ...] = field(default=(), compare=False)
    """Factors from the scheduler's noisy latents to the network's, of each step of the run; empty
    on the meta device."""

    def answer(self, _: str, arguments: Mapping[str, Any]) -> Any:
        """Zeros in place of the output of the network."""
        noisy = at(arguments, self.repeat.layout.noisy)
        like = noisy[0] if self.repeat.is_list else noisy
        zeros = like.new_zeros(len(noisy), *self.output_shape)
        return _Output([[*zeros] if self.repeat.is_list else zeros])

    def encode(self, pipeline: Any, run: Run) -> dict[str, Tensor]:
        """Condition of a run's prompt, see `packing.pack`; its networks are not run.

        Raises:
            ModelError: The network gets something that cannot be kept.
        """
        seen = observe(pipeline, lambda: run(1), answer=self.answer, max_calls=self.number + 1)
        call = seen.calls[-1]
        found = self._with_tensors(call)
        return pack(found.condition(call), found.repeat)

    def _with_tensors(self, call: Call) -> PromptCall:
        """This call where another prompt has tensors in place of None."""
        layout = self.repeat.layout
        n = len(at(call.arguments, layout.noisy))
        more = {
            path
            for path, value in walk(call.arguments)
            if isinstance(value, Tensor) and value.ndim and len(value) == n
        }
        batched = layout.batched | (more - self.tensors)
        return replace(self, repeat=self.repeat._replace(layout=layout._replace(batched=batched)))

    def condition(self, call: Call) -> dict[str, Any]:
        """Arguments of a call for one sample, for the prompt alone, see `packing.strip`."""
        batched = self.repeat.layout.batched
        arguments = select(call.arguments, batched, self.index, self.pieces)
        return strip(arguments, self.repeat.layout, self.shape)

    def latent_map(self, pipeline: Any, run: Run) -> LatentMap:
        """Find how latents reach the decoder, with other networks' outputs in their place.

        Raises:
            ModelError: They do not, or not one by one.
        """

        def decode(latents: Tensor) -> Tensor:
            seen = observe(
                pipeline,
                lambda: run(2),
                answer=self.answer,
                result=lambda like: latents.to(like.device, like.dtype),
            )
            if seen.decoded is None:
                raise ModelError(f"a {type(pipeline).__name__} does not decode by its vae")
            return seen.decoded

        return find_latent_map(decode, self.shape)


class _Output(tuple[Any]):
    """An output of a network by index or, as other classes of diffusers, by name."""

    @property
    def sample(self) -> Any:
        return self[0]


def find_prompt_call(
    pipeline: Any,
    run: Run,
    guidance: Sequence[float] = (),
    network_at: Callable[[float], str] | None = None,
) -> PromptCall:
    """Observe a run and find the call for the prompt; proves that it can be repeated alone.

    Args:
        pipeline: A diffusers pipeline.
        run: Samples with it, in three steps or more.
        guidance: Scales of guidance that may be in use.
        network_at: Name of the network that belongs to a timestep; None for any.

    Raises:
        ModelError: The pipeline samples in a way that cannot be understood; the message says why.
    """
    seen, name = observe(pipeline, lambda: run(1)), type(pipeline).__name__
    _check_steps(seen.steps, name)
    for step in seen.steps:
        explain(step, guidance)
        network, t = step.calls[0].network, float(step.timestep)
        if network_at and network_at(t) != network:
            raise ModelError(f"a {name} calls its {network} at timestep {t}, not {network_at(t)}")
    for call in seen.calls:
        flatten(call.arguments)
    both = observe(pipeline, lambda: run(2), answer=_repeated(seen.steps[0]))
    parts: dict[str, PromptCall] = {}
    for network in {step.calls[0].network: None for step in seen.steps}:
        steps = [step for step in seen.steps if step.calls[0].network == network]
        twins = [call for call in both.calls if call.network == network]
        parts[network] = _find(pipeline, steps, twins, guidance)
    for step in seen.steps:
        _prove(pipeline, parts[step.calls[0].network], step)
    found = parts[seen.steps[0].calls[0].network]
    calls = [found.condition(step.calls[found.number]) for step in seen.steps]
    if any(part != found for part in parts.values()) or any(
        [*differing(calls[0], call)] for call in calls
    ):
        raise ModelError(f"the networks of a {name} take different arguments")
    pairs = [(_noisy(found, step), step.sample) for step in seen.steps]
    is_meta = pairs[0][1].is_meta
    return replace(found, scales=() if is_meta else tuple(factor(*pair) for pair in pairs))


def _noisy(found: PromptCall, step: Step) -> Tensor:
    """Noisy latents as the network gets them for the prompt, in the shape of the scheduler's."""
    layout, call = found.repeat.layout, step.calls[found.number]
    batch = cast("Tensor", rows(at(call.arguments, layout.noisy)))
    return layout.place.take(batch[found.index : found.index + 1], (1, *found.shape))


def _check_steps(steps: Sequence[Step], name: str) -> None:
    """Raise unless there are steps, each with as many calls of one network."""
    if not steps:
        raise ModelError(f"a {name} does not call the step of its scheduler")
    if any(not step.calls for step in steps):
        raise ModelError(f"a {name} calls its network in some steps only")
    if len(counts := sorted({len(step.calls) for step in steps})) > 1:
        text = " or ".join(map(str, counts))
        raise ModelError(f"a {name} calls its network {text} times a step, which are not alike")
    if any(len({call.network for call in step.calls}) > 1 for step in steps):
        raise ModelError(f"a {name} calls several networks in one step")


def _repeated(step: Step) -> Callable[[str, Mapping[str, Any]], Any]:
    """Answers of networks for two samples, of the form of those for one."""
    output = step.calls[0].output

    def answer(_: str, __: Mapping[str, Any]) -> Any:
        return _Output([output * 2 if isinstance(output, list) else torch.cat([output] * 2)])

    return answer


def _find(
    pipeline: Any, steps: Sequence[Step], twins: Sequence[Call], guidance: Sequence[float]
) -> PromptCall:
    mixture = explain(steps[0], guidance)
    if not any(is_certain(mixture, step) for step in steps):
        raise ModelError(
            f"the {steps[0].calls[0].network} predicts the same with and without the prompt"
        )
    index, number = mixture.conditional, 0
    while index >= (pieces := len(steps[0].calls[number].output)):
        index, number = index - pieces, number + 1
    calls = [step.calls[number] for step in steps]
    layout = find_layout(
        calls,
        twins[number],
        [step.sample for step in steps],
        [float(step.timestep) for step in steps],
        pipeline.scheduler.config.num_train_timesteps,
    )
    noisy = at(calls[0].arguments, layout.noisy)
    timestep = torch.as_tensor(at(calls[0].arguments, layout.timestep))
    repeat = Repeat(
        layout,
        tuple(noisy[0].shape),
        isinstance(noisy, list),
        tuple(timestep.shape[1:]),
        timestep.is_floating_point(),
        mixture.place,
        mixture.sign,
    )
    shape, output_shape = tuple(steps[0].sample.shape[1:]), tuple(calls[0].output[0].shape)
    tensors = frozenset(
        path for path, value in walk(calls[0].arguments) if isinstance(value, Tensor)
    )
    return PromptCall(repeat, number, index, pieces, shape, output_shape, tensors)


def _prove(pipeline: Any, found: PromptCall, step: Step) -> None:
    """Check that the network, called for the prompt alone, predicts what it did in the run.

    Raises:
        ModelError: It does not.
    """
    call, noisy = step.calls[found.number], _noisy(found, step)
    timestep = step.timestep.reshape(1).to(noisy.device)
    arguments = found.repeat.arguments([found.condition(call)], noisy, timestep)
    try:
        output = networks(pipeline)[call.network](**arguments)[0]
    except BROKEN as error:
        raise ModelError(
            f"the {call.network} cannot be called for a prompt alone, outside of a batch of "
            f"guidance: {one_line(error)}"
        ) from error
    wanted = found.repeat.prediction(call.output[found.index : found.index + 1], found.shape)
    if not close(found.repeat.prediction(output, found.shape), wanted, 1e-4):
        raise ModelError(
            f"the {call.network} predicts something else for a prompt alone than within a batch "
            "of guidance"
        )
