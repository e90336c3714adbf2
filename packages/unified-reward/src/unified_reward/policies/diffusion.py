"""Pictures and clips, drawn from a prompt by a diffusers pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.pipelines.auto_pipeline import AUTO_TEXT2IMAGE_PIPELINES_MAPPING
from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.samples import Image, Task, Video
from unified_reward.policies import Denoising


_NEEDED = {"prompt", "generator", "output_type", "height", "width"}
_SEEN = {"image", "images", "video", "mask_image", "reference_images"}
_FRAMES = ("num_frames", "frames", "video_length")
_PER_LATENT = (
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_temporal_scale_factor",
)
"""Of a pipeline: the frames that a latent stands for, if it is not that of the first frame."""
_FPS = 8.0


class DiffusionPolicy:
    """Draws pictures or clips, each from its own generator on the CPU."""

    def __init__(self, pipeline: Any, options: Denoising, *, name: str, batch_size: int) -> None:
        """Find out what the pipeline makes, and whether it takes the options.

        Raises:
            ModelError: It is neither text-to-image nor text-to-video.
            ConfigError: It has no such option.
        """
        self.pipeline = pipeline
        self.options = options
        self.name = name
        self.batch_size = batch_size
        kind = type(pipeline)
        takes = inspect.signature(kind.__call__).parameters
        if not _draws_from_text(kind, takes):
            raise ModelError(
                f"{name} is a {kind.__name__}, which is neither text-to-image nor text-to-video"
            )
        frames = next((one for one in _FRAMES if one in takes), None)
        self.tasks = (Task.VIDEO_GENERATION if frames else Task.IMAGE_GENERATION,)
        called = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
        called |= {"frames": frames or "frames", "prompt_tokens": "max_sequence_length"}
        given = {key: one for key, one in vars(options).items() if one is not None}
        unknown = {key for key in given if called.get(key, key) not in takes}
        self._given = {called.get(key, key): given[key] for key in given.keys() - unknown}
        if frames and options.frames:
            self._given[frames] = options.frames + (1 - options.frames) % _frames_per_latent(
                pipeline
            )
        if unknown := unknown - ({"fps"} if frames else set()):
            told = ", ".join(sorted(unknown))
            raise ConfigError(f"{name} is a {kind.__name__}, which takes no {told}")

    @torch.inference_mode()
    def sample(
        self, prompt: str, context: Sequence[Image | Video], seeds: Sequence[int]
    ) -> list[Image | Video | None]:
        """Draw once for each seed, in one pass; None is what a safety checker withholds.

        Raises:
            ValueError: There is a context, or the pipeline refuses an option.
            RuntimeError: The pipeline broke, or drew what is no picture.
        """
        if context:
            raise ValueError("it draws from a prompt alone and cannot see a context")
        out = self.pipeline(
            prompt=[prompt] * len(seeds),
            generator=[torch.Generator().manual_seed(one) for one in seeds],
            output_type="np",
            **self._given,
        )
        is_video = self.tasks == (Task.VIDEO_GENERATION,)
        drawn: Any = np.asarray(getattr(out, "frames" if is_video else "images", ()))
        if drawn.ndim != 4 + is_video or len(drawn) != len(seeds) or drawn.shape[-1] != 3:
            raise RuntimeError(f"for {len(seeds)} prompts it drew an array of shape {drawn.shape}")
        if not np.isfinite(drawn).all():
            raise RuntimeError("it drew values that are no finite numbers; try another dtype")
        # More than were asked for, where they come in latents of several.
        drawn = drawn[:, : self.options.frames] if is_video else drawn
        pixels = (drawn.clip(0, 1) * 255).round().astype(np.uint8)
        withheld = getattr(out, "nsfw_content_detected", None) or [False] * len(seeds)
        each = zip(pixels, withheld, strict=True)
        return [None if unsafe else self._medium(one) for one, unsafe in each]

    def _medium(self, pixels: Any) -> Image | Video:
        if pixels.ndim == 4:
            return Video(pixels, "THWC", self.options.fps or _FPS)
        return Image(pixels, "HWC")


def _frames_per_latent(pipeline: Any) -> int:
    """1 without a number of them; others draw one frame more than a multiple of it."""
    return next((getattr(pipeline, one) for one in _PER_LATENT if hasattr(pipeline, one)), 1)


def _draws_from_text(kind: type, takes: Any) -> bool:
    required = {name for name, one in takes.items() if one.default is one.empty}
    required -= {name for name, one in takes.items() if one.kind is one.VAR_KEYWORD}
    # Some that draw from a prompt may be shown a picture too.
    shown = takes.keys() & _SEEN and kind not in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
    return takes.keys() >= _NEEDED and required <= {"self", "prompt"} and not shown


def load_pipeline(
    source: str | Path, *, device: str | None = None, dtype: str | None = None
) -> Any:
    """Load a pipeline; its weights must be safetensors, and no code of its own is run.

    Args:
        source: A folder, or a hub id (which reaches the network).
        device: ``cpu``, ``cuda``, …; default the best there is.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.

    Raises:
        ModelError: It cannot be loaded.
    """
    best = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device = device or (best.type if best else "cpu")
    dtype = dtype or ("float32" if device == "cpu" else "bfloat16")
    is_local = Path(source).is_dir()
    try:
        index: Any = DiffusionPipeline.load_config(str(source), local_files_only=is_local)
        # One saved without a part, such as Stable Diffusion 3 without T5, loads if told so.
        absent = {name: None for name, part in index.items() if part == [None, None]}
        pipeline = DiffusionPipeline.from_pretrained(
            str(source),
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=is_local,
            **absent,
        )
    except (OSError, ValueError, ImportError, AttributeError, KeyError, TypeError) as error:
        raise ModelError(f"{source} cannot be loaded as a diffusers pipeline: {error}") from error
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to(device)
