"""Images and videos, generated from a prompt or edited by it, by a diffusers pipeline."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import diffusers
import numpy as np
import torch
import transformers
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.auto_pipeline import (
    AUTO_IMAGE2IMAGE_PIPELINES_MAPPING,
    AUTO_TEXT2IMAGE_PIPELINES_MAPPING,
)
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import ImageOps
from PIL.Image import Image as PILImage
from torch import nn
from transformers import PreTrainedModel

from unified_reward import media
from unified_reward.backends.devices import resolve_device, resolve_dtype
from unified_reward.checkpoints.pretrained import check_fit, load_errors, refuse_pipeline_code
from unified_reward.core.errors import ConfigError, ModelError
from unified_reward.core.paths import is_folder
from unified_reward.core.samples import Image, Task, Video
from unified_reward.policies import Denoising, Size
from unified_reward.policies.autoencoders import isolate, mixing, needs_precision
from unified_reward.policies.observation import networks


_REQUIRED = {"prompt", "generator", "output_type", "height", "width"}
_EDIT_INPUTS = {"prompt", "image", "generator", "output_type", "num_images_per_prompt"}
_NO_EDITS = {
    "strength": "it redraws an image from its noised latents and takes no instruction",
    "mask_image": "it fills a mask",
    "layers": "it splits an image into layers",
}
"""Inputs of pipelines that take a prompt and an image, and are no editors, with the reason."""
_MEDIA_INPUTS = {"image", "images", "video", "mask_image", "reference_images"}
_FRAMES = ("num_frames", "frames", "video_length")
_TEMPORAL_FACTORS = (
    "vae_scale_factor_temporal",
    "vae_temporal_compression_ratio",
    "vae_temporal_scale_factor",
)
"""Attributes of a pipeline that hold the frames per latent frame, after the first."""
_FPS = 8.0
_ALONE = {
    "AutoencoderKLHunyuanVideo15": ("enable_slicing",),
    "AutoencoderKLAllegro": ("enable_tiling", "enable_slicing"),
}
"""Autoencoders that diffusers 0.42 runs on a batch only after these methods, not saved."""
_MEDIA_KINDS = ("image", "video")


class DiffusionPolicy:
    """Generates or edits images, or generates videos, each from its own generator on the CPU."""

    def __init__(self, pipeline: Any, options: Denoising, *, name: str, batch_size: int) -> None:
        """Detect the task of a pipeline and check its options.

        Args:
            pipeline: A loaded diffusers pipeline.
            options: Sampling options.
            name: Folder or hub id, for messages and rows.
            batch_size: Candidates in one call.

        Raises:
            ModelError: The pipeline is neither text-to-image nor text-to-video, and edits nothing.
            ConfigError: The pipeline does not take one of the options.
        """
        self.pipeline = pipeline
        self.options = options
        self.name = name
        self.batch_size = batch_size
        self.dtype = str(pipeline.dtype)
        kind = type(pipeline)
        self.takes = takes = inspect.signature(kind.__call__).parameters
        self._frames = frames = next((name for name in _FRAMES if name in takes), "")
        self.tasks = _tasks_of(kind, takes, name)
        edits = Task.IMAGE_EDITING in self.tasks
        arguments = {"steps": "num_inference_steps", "guidance": "guidance_scale"}
        arguments |= {"frames": frames or "frames", "prompt_tokens": "max_sequence_length"}
        # These ignore guidance_scale, and true_cfg_scale too without a negative prompt.
        is_led = (
            "true_cfg_scale" in takes
            and getattr(takes.get("guidance_scale"), "default", None) is None
        )
        if is_led:
            arguments["guidance"] = "true_cfg_scale"
        given = {key: value for key, value in vars(options).items() if value is not None}
        unknown = {key for key in given if arguments.get(key, key) not in takes}
        if "guidance" in unknown and _set_guider(pipeline, given["guidance"]):
            unknown.remove("guidance")
            del given["guidance"]
        if edits:
            unknown -= {"height", "width"}
            self._check_edit_size()
        self.arguments = {arguments.get(key, key): given[key] for key in given.keys() - unknown}
        guidance = options.guidance
        if is_led and (takes["true_cfg_scale"].default if guidance is None else guidance) > 1:
            self.arguments["negative_prompt"] = " "
        if guidance is not None and "guidance_schedule" in takes:
            self.arguments["guidance_schedule"] = None
        if frames and options.frames:
            self.arguments[frames] = options.frames + (1 - options.frames) % _frames_per_latent(
                pipeline
            )
        if unknown := unknown - ({"fps"} if frames else set()):
            raise ConfigError(
                f"{name} is a {kind.__name__}, which takes no {', '.join(sorted(unknown))}"
            )

    def with_options(self, changes: Denoising) -> DiffusionPolicy:
        """Policy of the same pipeline with other sampling options, where they are given.

        Raises:
            ConfigError: The pipeline does not take one of them, or has a guider, which all share.
        """
        given = {name: value for name, value in vars(changes).items() if value is not None}
        if not given:
            return self
        if "guidance" in given and getattr(self.pipeline, "guider", None) is not None:
            raise ConfigError(f"{self.name} has a guider, so that there is only one guidance")
        options = replace(self.options, **given)
        return DiffusionPolicy(self.pipeline, options, name=self.name, batch_size=self.batch_size)

    @property
    def steps(self) -> int | None:
        """Denoising steps, from the options or the pipeline's default; None if not known."""
        default = getattr(self.takes.get("num_inference_steps"), "default", None)
        steps = self.options.steps or default
        return steps if isinstance(steps, int) else None

    @property
    def size_multiple(self) -> int:
        """Height and width are multiples of this, in pixels."""
        processors = (getattr(self.pipeline, f"{kind}_processor", None) for kind in _MEDIA_KINDS)
        factors = [part.config.get("vae_scale_factor", 1) for part in processors if part]
        if Task.IMAGE_EDITING in self.tasks:
            return factors[0]
        for part in networks(self.pipeline).values():
            config: Any = part.config
            patch = config.get("patch_size") or 1
            factors.append(self.vae_scale_factor * (patch if isinstance(patch, int) else patch[-1]))
        return math.lcm(*factors)

    @property
    def vae_scale_factor(self) -> int:
        """Pixels along a side of one latent position."""
        names = ("vae_scale_factor_spatial", "vae_scale_factor")
        return next((getattr(self.pipeline, n) for n in names if hasattr(self.pipeline, n)), 1)

    @property
    def temporal_stride(self) -> int | None:
        """A video has k * stride + 1 frames; None for images."""
        return _frames_per_latent(self.pipeline) if self._frames else None

    @property
    def guidance_scales(self) -> list[float]:
        """Scales of guidance that may be in use, from the options or the pipeline's defaults."""
        named = [name for name in self.takes if "guidance" in name or "cfg" in name]
        scales = (self.arguments.get(name, self.takes[name].default) for name in named)
        return [scale for scale in scales if isinstance(scale, int | float)]

    def _check_edit_size(self) -> None:
        size = (self.options.height, self.options.width)
        if (size[0] is None) != (size[1] is None):
            raise ConfigError(f"{self.name} edits images: give height and width, or neither")
        if size[0] and any(side and side % self.size_multiple for side in size):
            raise ConfigError(
                f"height and width of {self.name} must be multiples of {self.size_multiple}, not "
                f"{size[0]} and {size[1]}"
            )

    def sample(
        self, prompt: str, context: Sequence[Image | Video], seeds: Sequence[int]
    ) -> list[Image | Video | None]:
        """Generate an image or video, or an edit of the context, for each seed, in one batch.

        Args:
            prompt: A caption, or the instruction of an edit.
            context: The source image of an edit; empty for generation.
            seeds: Seeds of the candidates.

        Returns:
            One a seed; None where a safety checker withheld it.

        Raises:
            ValueError: The context is not what the pipeline takes, the pipeline refuses an option,
                or the prompt spells a control token of a tokenizer.
            MediaError: The source image cannot be opened.
            RuntimeError: The pipeline broke, or its output is not finite RGB.
        """
        with torch.inference_mode():
            return self.generate(prompt, context, seeds)

    def generate(
        self, prompt: str, context: Sequence[Image | Video], seeds: Sequence[int]
    ) -> list[Image | Video | None]:
        """`sample` without inference mode, so that its tensors may take part in training."""
        is_edit = context or self.tasks == (Task.IMAGE_EDITING,)
        inputs = self.inputs(prompt, len(seeds), self.open_source(context) if is_edit else None)
        refuse_control(self.pipeline, prompt)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        with mixing(self.pipeline):
            out = self.pipeline(generator=generators, output_type="np", **inputs)
        is_video = self.tasks == (Task.VIDEO_GENERATION,)
        unit: Any = np.asarray(getattr(out, "frames" if is_video else "images", ()))
        if unit.ndim == 4 and unit.shape[-1] == 4:
            unit = _on_white(unit)
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

    def open_source(self, context: Sequence[Image | Video]) -> PILImage:
        """Open the source image of an edit.

        Raises:
            ValueError: The pipeline edits nothing, or the context is not exactly one image.
            MediaError: The image cannot be opened.
        """
        if Task.IMAGE_EDITING not in self.tasks:
            raise ValueError("the pipeline generates from a prompt alone and takes no context")
        if len(context) != 1:
            raise ValueError(f"an edit has one source image, not {len(context) or 'none'}")
        if not isinstance(context[0], Image):
            raise ValueError("the source of an edit is an image, not a video")
        return media.open_image(context[0])

    def inputs(
        self, prompt: str, n: int, source: PILImage | None = None, size: Size | None = None
    ) -> dict[str, Any]:
        """Arguments of the pipeline, without generators.

        Args:
            prompt: A caption, or the instruction of an edit.
            n: Number of samples.
            source: The image to edit; None for generation.
            size: Size of the samples; None for that of the options, and without any for the
                pipeline's own rule.

        Raises:
            ValueError: The source is too small.
        """
        if source is not None:
            return self._edit_inputs(source, n, size) | {"prompt": prompt}
        inputs: dict[str, Any] = self.arguments | {"prompt": [prompt] * n}
        if "negative_prompt" in inputs:
            inputs["negative_prompt"] = [inputs["negative_prompt"]] * n
        if size:
            inputs |= {"height": size.height, "width": size.width}
        if "max_area" in self.takes and inputs.get("height") and inputs.get("width"):
            inputs["max_area"] = inputs["height"] * inputs["width"]
        if size and "use_resolution_binning" in self.takes:
            inputs["use_resolution_binning"] = False
        if size and size.frames:
            inputs[self._frames] = size.frames
        return inputs

    def _edit_inputs(self, source: PILImage, n: int, size: Size | None) -> dict[str, Any]:
        """Arguments of the pipeline for n edits of a source, without the instruction.

        Raises:
            ValueError: The source is too small.
        """
        own, inputs = (self.options.height, self.options.width), dict(self.arguments)
        height, width = size[:2] if size else own
        if height and width:
            inputs |= {"height": height, "width": width, "max_area": height * width}
            if "height" not in self.takes:
                source = ImageOps.fit(source, (width, height))
        if all(own) and "_auto_resize" in self.takes:
            # Resized by the pipeline itself, the source would have a megapixel beside any edit.
            source = _scaled_to_area(source, cast("int", own[0]) * cast("int", own[1]))
            inputs["_auto_resize"] = False
        if min(source.size) < self.size_multiple:
            raise ValueError(
                f"a source of {source.width} x {source.height} pixels is too small: the pipeline "
                f"needs {self.size_multiple}"
            )
        # Pipelines that concatenate source and noise will stop repeating a single source.
        inputs["image"] = [source] * n if "image_guidance_scale" in self.takes else source
        inputs = {key: value for key, value in inputs.items() if key in self.takes}
        return inputs | {"num_images_per_prompt": n}

    def _medium(self, pixels: Any) -> Image | Video:
        if pixels.ndim == 4:
            return Video(pixels, "THWC", self.options.fps or _FPS)
        return Image(pixels, "HWC")


def _on_white(unit: Any) -> Any:
    """Put transparent images, such as those of Qwen-Image 2.1, on a white background."""
    alpha = unit[..., 3:].clip(0, 1)
    return unit[..., :3] * alpha + 1 - alpha


def refuse_control(pipeline: Any, prompt: str) -> None:
    """Refuse a prompt that spells a control token, at which a text encoder would end it.

    Raises:
        ValueError: It spells one of a tokenizer of the pipeline.
    """
    for part in ("tokenizer", "tokenizer_2", "tokenizer_3", "processor"):
        tokenizer = getattr(pipeline, part, None)
        # A processor, such as that of FLUX.2, has its tokenizer inside.
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = [str(token) for token in added if token.special]
        for token in (*getattr(tokenizer, "all_special_tokens", ()), *special):
            # Stable Diffusion 2 pads with "!".
            if len(token) > 1 and token in prompt:
                raise ValueError(f"the prompt spells {token}, a control token of its {part}")


def _set_guider(pipeline: Any, guidance: float) -> bool:
    """Replace the guider of a pipeline by a copy of another scale; False if it has none."""
    guider = getattr(pipeline, "guider", None)
    if "guidance_scale" not in getattr(guider, "config", {}):
        return False
    pipeline.guider = cast("Any", guider).new(guidance_scale=guidance)
    return True


def _frames_per_latent(pipeline: Any) -> int:
    """Temporal compression k of the pipeline, 1 if it has none; a video has m * k + 1 frames."""
    names = (name for name in _TEMPORAL_FACTORS if hasattr(pipeline, name))
    return next((getattr(pipeline, name) for name in names), 1)


def _required(takes: Any) -> set[str]:
    """Arguments of a call that have no default."""
    return {
        name
        for name, argument in takes.items()
        if argument.default is argument.empty and argument.kind is not argument.VAR_KEYWORD
    }


def _tasks_of(kind: type, takes: Any, name: str) -> tuple[Task, ...]:
    made = Task.VIDEO_GENERATION if takes.keys() & {*_FRAMES} else Task.IMAGE_GENERATION
    generates, edits = _is_text_to_media(kind, takes), _is_editor(kind, takes)
    if not (generates or edits):
        reasons = "".join(f": {why}" for word, why in _NO_EDITS.items() if word in takes)
        raise ModelError(
            f"{name} is a {kind.__name__}, which is neither text-to-image nor text-to-video, "
            f"and no editor of images{reasons}"
        )
    return (made,) * generates + (Task.IMAGE_EDITING,) * edits


def _is_text_to_media(kind: type, takes: Any) -> bool:
    # Some text-to-image pipelines take an image as an option too.
    needs_media = (
        takes.keys() & _MEDIA_INPUTS and kind not in AUTO_TEXT2IMAGE_PIPELINES_MAPPING.values()
    )
    is_complete = takes.keys() >= _REQUIRED and _required(takes) <= {"self", "prompt"}
    return is_complete and not needs_media


def _is_editor(kind: type, takes: Any) -> bool:
    # Diffusers' mapping lacks pipelines of the InstructPix2Pix kind.
    is_known = (
        kind in AUTO_IMAGE2IMAGE_PIPELINES_MAPPING.values() or "image_guidance_scale" in takes
    )
    is_other = takes.keys() & {*_NO_EDITS, *_FRAMES}
    is_complete = takes.keys() >= _EDIT_INPUTS and _required(takes) <= {"self", "prompt", "image"}
    return is_known and is_complete and not is_other


def _scaled_to_area(image: PILImage, area: int) -> PILImage:
    scale = math.sqrt(area / (image.width * image.height))
    return image.resize((round(image.width * scale), round(image.height * scale)))


def load_pipeline(
    source: str | Path,
    *,
    device: str | None = None,
    dtype: str | None = None,
    vae_dtype: str | None = None,
) -> Any:
    """Load a pipeline; its weights must be safetensors, and no code of its own is run.

    Args:
        source: A folder, or a hub id (which reaches the network).
        device: ``cpu``, ``cuda``, …; default the fastest available.
        dtype: ``float32``, ``bfloat16``, …; default float32 on a CPU, bfloat16 elsewhere.
        vae_dtype: Type of an autoencoder whose config says ``force_upcast``; default ``dtype``.

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
            **_load_networks(
                str(source), index, options, resolve_dtype(vae_dtype or dtype, device)
            ),
            trust_remote_code=False,
        )
    pipeline.set_progress_bar_config(disable=True)
    vae = getattr(pipeline, "vae", None)
    if vae is not None and vae.dtype != options["dtype"]:
        isolate(vae)
    for method in _ALONE.get(type(vae).__name__, ()):
        getattr(vae, method)()
    return pipeline.to(device)


def _load_networks(
    source: str, index: Mapping[str, Any], options: Mapping[str, Any], vae_dtype: torch.dtype
) -> dict[str, Any]:
    """Networks of a pipeline, of which no weight is missing: diffusers would make it up.

    A part that the pipeline was saved without, such as T5 of Stable Diffusion 3, is None. An
    autoencoder has its own dtype where its config says ``force_upcast``.
    """
    libraries: dict[Any, Any] = {"diffusers": diffusers, "transformers": transformers}
    networks: dict[str, Any] = {}
    for name, part in index.items():
        is_part = isinstance(part, list) and all(isinstance(one, str | None) for one in part)
        if not is_part or len(part) != 2:
            continue
        kind = getattr(libraries.get(part[0]), part[1] or "", None)
        if part == [None, None]:
            networks[name] = None
        elif isinstance(kind, type) and issubclass(kind, ModelMixin | PreTrainedModel):
            strict = {"ignore_mismatched_sizes": True} if part[0] == "transformers" else {}
            own = {"dtype": vae_dtype} if name == "vae" else {}
            networks[name], info = cast("Any", kind).from_pretrained(
                source,
                subfolder=name,
                output_loading_info=True,
                trust_remote_code=False,
                **strict,
                **{**options, **own},
            )
            if own and not needs_precision(networks[name]):
                # The method of diffusers warns of a loss that there is none of.
                nn.Module.to(networks[name], options["dtype"])
            info = {key: info.get(key) for key in ("missing_keys", "mismatched_keys")}
            check_fit(info, f"the weights of {name} in {source} do not fit its config")
    return networks
