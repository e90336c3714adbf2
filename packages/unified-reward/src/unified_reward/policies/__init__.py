"""Policies: models that generate candidates, as text, images or videos.

A candidate is a function of the prompt, its context and a seed. Knows neither files of rows nor
the use of the candidates.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.extensions import checkpoint_path, extra, missing_hint
from unified_reward.core.paths import is_file, is_folder
from unified_reward.io.atomic import write_json
from unified_reward.io.text import read_json


if TYPE_CHECKING:
    from unified_reward.policies.diffusion import DiffusionPolicy
    from unified_reward.policies.vlm import VLMPolicy

    Policy = VLMPolicy | DiffusionPolicy


DEFAULTS = "sampling.json"
"""File in a policy's folder with its default sampling options."""


@dataclass(frozen=True)
class Sampling:
    """Sampling options of a vision-language model."""

    temperature: float = 0.7
    """Divides the logits, >= 0; 0 takes the most probable token."""
    max_new_tokens: int = 256
    """Longest answer, in tokens."""

    def __post_init__(self) -> None:
        _check_numbers(self)
        if not 0 <= self.temperature < math.inf:
            raise ConfigError(f"temperature must be finite and >= 0, not {self.temperature}")


@dataclass(frozen=True)
class Denoising:
    """Sampling options of a diffusers pipeline; None takes the pipeline's own default."""

    steps: int | None = None
    """Denoising steps."""
    guidance: float | None = None
    """Scale of classifier-free guidance."""
    height: int | None = None
    """In pixels. An editing pipeline takes height and width together, or neither."""
    width: int | None = None
    """In pixels."""
    frames: int | None = None
    """Frames of a video."""
    fps: float | None = None
    """Frames per second of a video, > 0; None for 8."""
    prompt_tokens: int | None = None
    """Longest prompt in tokens, for pipelines with ``max_sequence_length``."""

    def __post_init__(self) -> None:
        _check_numbers(self)


class Size(NamedTuple):
    """Size of a generated image or video."""

    height: int
    """In pixels, as the width."""
    width: int
    frames: int | None = None
    """Frames of a video; None for an image."""


_REAL = ("temperature", "guidance", "fps")


def _check_numbers(options: Sampling | Denoising) -> None:
    """Refuse options that are no finite numbers, and counts that are not whole numbers >= 1."""
    for name, value in vars(options).items():
        is_real = name in _REAL and type(value) in (int, float) and math.isfinite(value)
        is_count = name not in _REAL and type(value) is int and value >= 1
        if not (value is None or is_real or is_count):
            wanted = "a finite number" if name in _REAL else "a whole number >= 1"
            raise ConfigError(f"{name} is {wanted}, not {value!r}")


_Options = TypeVar("_Options", Sampling, Denoising)


def seeds(name: str, n: int, seed: int) -> list[int]:
    """64-bit seeds of the candidates of a prompt; the i-th is the same for every ``n``.

    Args:
        name: Id of the prompt.
        n: Number of candidates.
        seed: Seed of the run.
    """
    keys = [json.dumps([name, i, seed], allow_nan=False).encode() for i in range(n)]
    return [int.from_bytes(hashlib.sha256(key).digest()[:8]) for key in keys]


def load(
    source: str | Path,
    options: Mapping[str, Any] | None = None,
    *,
    device: str | None = None,
    dtype: str | None = None,
    vae_dtype: str | None = None,
    batch_size: int | None = None,
) -> Policy:
    """Load a vision-language model, or a diffusers pipeline where there is a ``model_index.json``.

    Args:
        source: A folder, the name of a registered policy, or a hub id (which reaches the network).
        options: Fields of `Sampling` for a vision-language model, of `Denoising` for a pipeline,
            by name; a missing one, or None, is taken from ``sampling.json`` in the folder, else
            from the dataclass.
        device: ``cpu``, ``cuda``, …; default the fastest available.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        vae_dtype: Type of a pipeline's autoencoder whose config says ``force_upcast``; default
            that of the others.
        batch_size: Candidates per forward pass; default 16 answers, or 4 images or videos.

    Raises:
        ConfigError: There is no such policy, or it does not take one of the options.
        ModelError: The policy cannot be loaded, or is neither text-to-image nor text-to-video, and
            edits no images.
    """
    source = checkpoint_path(source)
    if not is_folder(source) and re.fullmatch(r"[\w-]+", str(source)):
        raise ConfigError(
            f"there is no policy {str(source)!r}{missing_hint(str(source))}; give a folder, a hub "
            "id (org/name) or a registered name"
        )
    if is_pipeline(source):
        with extra("diffusion"):
            from unified_reward.policies.diffusion import DiffusionPolicy, load_pipeline

        denoising = sampling_options(source, Denoising, options)
        pipeline = load_pipeline(source, device=device, dtype=dtype, vae_dtype=vae_dtype)
        return DiffusionPolicy(pipeline, denoising, name=str(source), batch_size=batch_size or 4)
    with extra("local"):
        from unified_reward.backends.hf_vlm import load_vlm
        from unified_reward.policies.vlm import VLMPolicy

    sampling = sampling_options(source, Sampling, options)
    return VLMPolicy(load_vlm(source, device=device, dtype=dtype, batch_size=batch_size), sampling)


def write_defaults(options: Sampling | Denoising, folder: Path) -> None:
    """Write the default sampling options of a policy into its folder."""
    given = {name: value for name, value in vars(options).items() if value is not None}
    write_json(folder / DEFAULTS, given)


def sampling_options(
    source: str | Path, kind: type[_Options], options: Mapping[str, Any] | None = None
) -> _Options:
    """Sampling options of a policy: as given, else those of its folder, else the defaults.

    Raises:
        ConfigError: This kind of policy does not take one of the options.
    """
    given = {name: value for name, value in (options or {}).items() if value is not None}
    given = _defaults(source) | given
    known = [field.name for field in fields(kind)]
    if unknown := given.keys() - known:
        what = "a diffusers pipeline" if kind is Denoising else "a vision-language model"
        raise ConfigError(
            f"{source} is {what}, which takes no {', '.join(sorted(unknown))}; "
            f"it takes {', '.join(known)}"
        )
    return kind(**given)


def _defaults(source: str | Path) -> dict[str, Any]:
    """Options in a policy's folder, by name; empty without a ``sampling.json``."""
    file = Path(source) / DEFAULTS
    try:
        return read_json(file) if is_file(file) else {}
    except DataError as error:
        raise ConfigError(f"{file} must be a JSON object of options: {error}") from error


def is_pipeline(source: str | Path) -> bool:
    """True if the folder or hub repository has the ``model_index.json`` of a diffusers pipeline."""
    if is_folder(source):
        return (Path(source) / "model_index.json").is_file()
    with extra("local"):
        from huggingface_hub import hf_hub_download

        from unified_reward.backends.http_settings import check_route_to_hub

    check_route_to_hub()
    try:
        return bool(hf_hub_download(str(source), "model_index.json"))
    except (OSError, ValueError):  # no such file or model; loading it reports which
        return False
