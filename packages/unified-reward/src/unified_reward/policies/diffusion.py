"""Images and videos, generated from a prompt by a diffusers pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import torch
import transformers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from transformers import PreTrainedModel

from unified_reward.backends.devices import resolve_device, resolve_dtype
from unified_reward.checkpoints.pretrained import check_fit, load_errors, refuse_pipeline_code
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.paths import is_folder
from unified_reward.core.samples import Image, Task, Video
from unified_reward.policies import Denoising


_REQUIRED = {"prompt", "generator", "output_type", "height", "width"}
_MEDIA_INPUTS = {"image", "images", "video", "mask_image", "reference_images"}
_FRAMES = ("num_frames", "frames", "video_length")
_TEMPORAL_FACTORS = (
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_temporal_scale_factor",
)
"""Attributes of a pipeline that hold the frames per latent frame, after the first."""
_FPS = 8.0


class DiffusionPolicy:
    """Generates images or videos, each from its own generator on the CPU."""

    def __init__(self, pipeline: Any, options: Denoising, *, name: str, batch_size: int) -> None:
        """Detect the task of a pipeline and check its options.

        Args:
            pipeline: A loaded diffusers pipeline.
            options: Sampling options.
            name: Folder or hub id, for messages and rows.
            batch_size: Candidates in one call.

        Raises:
            ModelError: The pipeline is neither text-to-image nor text-to-video.
            ConfigError: The pipeline does not take one of the options.
        """
        self.pipeline = pipeline
        self.options = options
        self.name = name
        self.batch_size = batch_size
        self.dtype = str(pipeline.dtype)
        kind = type(pipeline)
        takes = inspect.signature(kind.__call__).parameters
        if not _is_text_to_media(kind, takes):
            raise ModelError(
                f"{name} is a {kind.__name__}, which is neither text-to-image nor text-to-video"
            )
        frames = next((name for name in _FRAMES if name in takes), None)
        self.tasks = (Task.VIDEO_GENERATION if frames else Task.IMAGE_GENERATION,)
        arguments = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
        arguments |= {"frames": frames or "frames", "prompt_tokens": "max_sequence_length"}
        given = {key: value for key, value in vars(options).items() if value is not None}
        unknown = {key for key in given if arguments.get(key, key) not in takes}
        self._arguments = {arguments.get(key, key): given[key] for key in given.keys() - unknown}
        if frames and options.frames:
            self._arguments[frames] = options.frames + (1 - options.frames) % _frames_per_latent(
                pipeline
            )
        if unknown := unknown - ({"fps"} if frames else set()):
            raise ConfigError(
                f"{name} is a {kind.__name__}, which takes no {', '.join(sorted(unknown))}"
            )

    @torch.inference_mode()
    def sample(
        self, prompt: str, context: Sequence[Image | Video], seeds: Sequence[int]
    ) -> list[Image | Video | None]:
        """Generate an image or video for each seed, in one batch.

        Returns:
            One a seed; None where a safety checker withheld it.

        Raises:
            ValueError: There is a context, the pipeline refuses an option, or the prompt spells a
                control token of a tokenizer.
            RuntimeError: The pipeline broke, or its output is not finite RGB.
        """
        if context:
            raise ValueError("the pipeline generates from a prompt alone and takes no context")
        refuse_control(self.pipeline, prompt)
        out = self.pipeline(
            prompt=[prompt] * len(seeds),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
            **self._arguments,
        )
        is_video = self.tasks == (Task.VIDEO_GENERATION,)
        unit: Any = np.asarray(getattr(out, "frames" if is_video else "images", ()))
        if unit.ndim != 4 + is_video or len(unit) != len(seeds) or unit.shape[-1] != 3:
            raise RuntimeError(
                f"the pipeline returned an array of shape {unit.shape} for {len(seeds)} prompts"
            )
        if not np.isfinite(unit).all():
            raise RuntimeError(
                "the pipeline returned values that are not finite; try another dtype"
            )
        # A latent may stand for several frames, so that there are more than were asked for.
        unit = unit[:, : self.options.frames] if is_video else unit
        pixels = (unit.clip(0, 1) * 255).round().astype(np.uint8)
        withheld = getattr(out, "nsfw_content_detected", None) or [False] * len(seeds)
        pairs = zip(pixels, withheld, strict=True)
        return [None if unsafe else self._medium(array) for array, unsafe in pairs]

    def _medium(self, pixels: Any) -> Image | Video:
        if pixels.ndim == 4:
            return Video(pixels, "THWC", self.options.fps or _FPS)
        return Image(pixels, "HWC")


def refuse_control(pipeline: Any, prompt: str) -> None:
    """Refuse a prompt that spells a control token, at which a text encoder would end it.

    Raises:
        ValueError: It spells one of a tokenizer of the pipeline.
    """
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
        tokenizer = getattr(pipeline, part, None)
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = [str(token) for token in added if token.special]
        for token in (*getattr(tokenizer, "all_special_tokens", ()), *special):
            # Stable Diffusion 2 pads with "!".
            if len(token) > 1 and token in prompt:
                raise ValueError(f"the prompt spells {token}, a control token of its {part}")


def _frames_per_latent(pipeline: Any) -> int:
    """Temporal compression k of the pipeline, 1 if it has none; a video has m * k + 1 frames."""
    names = (name for name in _TEMPORAL_FACTORS if hasattr(pipeline, name))
    return next((getattr(pipeline, name) for name in names), 1)


def _is_text_to_media(kind: type, takes: Any) -> bool:
    required = {name for name, argument in takes.items() if argument.default is argument.empty}
    required -= {name for name, argument in takes.items() if argument.kind is argument.VAR_KEYWORD}
    # Some text-to-image pipelines take an image as an option too.
    needs_media = (
        takes.keys() & _MEDIA_INPUTS and kind not in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
    )
    return takes.keys() >= _REQUIRED and required <= {"self", "prompt"} and not needs_media


def load_pipeline(
    source: str | Path, *, device: str | None = None, dtype: str | None = None
) -> Any:
    """Load a pipeline; its weights must be safetensors, and no code of its own is run.

    Args:
        source: A folder, or a hub id (which reaches the network).
        device: ``cpu``, ``cuda``, …; default the fastest available.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.

    Raises:
        ModelError: The pipeline cannot be loaded.
    """
    device = resolve_device(device)
    is_local = is_folder(source)
    if is_local:
        refuse_pipeline_code(Path(source))
    with load_errors(f"{source} cannot be loaded as a diffusers pipeline"):
        index: Any = DiffusionPipeline.load_config(str(source), local_files_only=is_local)
        options: dict[str, Any] = {
            "dtype": resolve_dtype(dtype, device),
            "use_safetensors": True,
            "local_files_only": is_local,
        }
        pipeline = DiffusionPipeline.from_pretrained(
            str(source),
            **options,
            **_load_networks(str(source), index, options),
            trust_remote_code=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)


def _load_networks(
    source: str, index: Mapping[str, Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Networks of a pipeline, of which no weight is missing: diffusers would make it up.

    A part that the pipeline was saved without, such as T5 of Stable Diffusion 3, is None.
    """
    libraries: dict[Any, Any] = {"diffusers": diffusers, "transformers": transformers}
    networks: dict[str, Any] = {}
    for name, part in index.items():
        if not isinstance(part, list) or len(part) != 2:
            continue
        kind = getattr(libraries.get(part[0]), part[1] or "", None)
        if part == [None, None]:
            networks[name] = None
        elif isinstance(kind, type) and issubclass(kind, ModelMixin | PreTrainedModel):
            strict = {"ignore_mismatched_sizes": True} if part[0] == "transformers" else {}
            networks[name], info = cast("Any", kind).from_pretrained(
                source,
                subfolder=name,
                output_loading_info=True,
                trust_remote_code=False,
                **strict,
                **options,
            )
            info = {key: info.get(key) for key in ("missing_keys", "mismatched_keys")}
            check_fit(info, f"the weights of {name} in {source} do not fit its config")
    return networks
