"""Policies: models that make candidates, in words, pictures or clips.

A candidate is a function of the prompt, what the prompt is about, and a seed. Knows neither files
of rows nor what the candidates are for.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from unified_reward.core.errors import ConfigError


if TYPE_CHECKING:
    from unified_reward.policies.diffusion import DiffusionPolicy
    from unified_reward.policies.vlm import VLMPolicy

    Policy = VLMPolicy | DiffusionPolicy


DEFAULTS = "sampling.json"
"""File in the folder of a policy with the options that it is sampled with if none are given."""


@dataclass(frozen=True)
class Sampling:
    """How a vision-language model speaks."""

    temperature: float = 0.7
    """Divides the log-odds of tokens, >= 0; 0 takes the most probable token."""
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature is a number, 0 or more, not {self.temperature}")


@dataclass(frozen=True)
class Denoising:
    """How a diffusers pipeline draws; None leaves it to the pipeline."""

    steps: int | None = None
    guidance: float | None = None
    """Scale of classifier-free guidance."""
    height: int | None = None
    """In pixels, as is the width."""
    width: int | None = None
    frames: int | None = None
    """Of a clip."""
    fps: float | None = None
    """Frames per second of a clip, > 0; None for 8."""
    prompt_tokens: int | None = None
    """Of a prompt that the text encoder is shown, for pipelines that let one choose."""


_How = TypeVar("_How", Sampling, Denoising)


def seeds(name: str, n: int, seed: int) -> list[int]:
    """A seed of 64 bits for each candidate of a prompt, whatever their number.

    Args:
        name: Of the prompt.
        n: Candidates.
        seed: Of the run.
    """
    told = [json.dumps([name, i, seed]).encode() for i in range(n)]
    return [int.from_bytes(hashlib.sha256(one).digest()[:8]) for one in told]


def load(
    source: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    batch_size: int | None = None,
) -> Policy:
    """Load a vision-language model, or a diffusers pipeline where there is a ``model_index.json``.

    Args:
        source: A folder, or a hub id (which reaches the network).
        options: Fields of `Sampling` for a vision-language model, of `Denoising` for a pipeline,
            by name; None is the default, that of ``sampling.json`` in the folder if it has one.
        device: ``cpu``, ``cuda``, …; default the best there is.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        batch_size: Candidates in one pass; default 16 answers, or 4 pictures or clips.

    Raises:
        ConfigError: It does not take the options.
        ModelError: It cannot be loaded, or is neither text-to-image nor text-to-video.
    """
    if is_pipeline(source):
        from unified_reward.policies.diffusion import DiffusionPolicy, load_pipeline

        denoising = sampling_options(source, Denoising, options)
        pipeline = load_pipeline(source, device=device, dtype=dtype)
        return DiffusionPolicy(pipeline, denoising, name=str(source), batch_size=batch_size or 4)
    from unified_reward.backends.hf_vlm import load_vlm
    from unified_reward.policies.vlm import VLMPolicy

    sampling = sampling_options(source, Sampling, options)
    return VLMPolicy(load_vlm(source, device=device, dtype=dtype, batch_size=batch_size), sampling)


def write_defaults(options: Sampling | Denoising, folder: Path) -> None:
    """Keep how a policy is sampled in its folder."""
    told = {name: value for name, value in vars(options).items() if value is not None}
    (folder / DEFAULTS).write_text(json.dumps(told, indent=1) + "\n", "utf-8")


def sampling_options(
    source: str | Path, kind: type[_How], options: Mapping[str, Any] | None = None
) -> _How:
    """How a policy is sampled: by these options, or else those of its folder, or the defaults.

    Raises:
        ConfigError: Its kind does not take the options.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    given = _defaults(source) | given
    unfit = given.keys() - {one.name for one in fields(kind)}
    if unfit:
        what = "a diffusers pipeline" if kind is Denoising else "no diffusers pipeline"
        raise ConfigError(f"{source} is {what} and takes no {', '.join(sorted(unfit))}")
    return kind(**given)


def _defaults(source: str | Path) -> dict[str, Any]:
    """The options that a policy's folder comes with."""
    file = Path(source) / DEFAULTS
    try:
        told: Any = json.loads(file.read_bytes()) if file.is_file() else {}
    except ValueError as error:
        raise ConfigError(f"{file} is no JSON object of options: {error}") from error
    if not isinstance(told, dict):
        raise ConfigError(f"{file} is no JSON object of options, but {told!r:.40}")
    return cast("dict[str, Any]", told)


def is_pipeline(source: str | Path) -> bool:
    """Whether there is a ``model_index.json``, as pipelines of diffusers have one."""
    if Path(source).is_dir():
        return (Path(source) / "model_index.json").is_file()
    from huggingface_hub import hf_hub_download

    try:
        return bool(hf_hub_download(str(source), "model_index.json"))
    except (OSError, ValueError):  # no such file, or no such model: loading it tells
        return False
