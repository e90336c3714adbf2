"""Random tiny editing pipelines, which take a source image, built without any download."""

from contextlib import contextmanager

import pytest
import torch
from diffusers import (
    AutoencoderKLQwenImage,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionXLInstructPix2PixPipeline,
)
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus
from transformers import CLIPTextModel, CLIPTextModelWithProjection, T5Config, T5EncoderModel

from tests import tiny
from tests.unified_reward.policies import pipelines


WIDTH = pipelines.WIDTH
KINDS = ("pix2pix", "sdxl_pix2pix", "kontext", "qwen_edit", "qwen_edit_plus")
MULTIPLES = dict(zip(KINDS, (2, 2, 4, 8, 8), strict=True))
"""Sides of edits are multiples of this, in pixels."""


@contextmanager
def small_sources():
    """Let Qwen-Image-Edit give a source 128 x 128 pixels, where it gives a megapixel."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
            fit = module.calculate_dimensions
            patch.setattr(
                module,
                "calculate_dimensions",
                lambda area, ratio, fit=fit: fit(area / 64, ratio),
            )
        yield


def pix2pix(folder):
    """InstructPix2Pix; sides of images are multiples of 2 pixels."""
    parts = pipelines.parts() | {"unet": pipelines.unet(in_channels=8)}
    pipeline = StableDiffusionInstructPix2PixPipeline(**parts, **pipelines.UNCHECKED)
    return _save(pipeline, folder)


def sdxl_pix2pix(folder):
    """InstructPix2Pix of SDXL; sides of images are multiples of 2 pixels."""
    torch.manual_seed(0)
    pipeline = StableDiffusionXLInstructPix2PixPipeline(
        tokenizer=pipelines.tokenizer(),
        tokenizer_2=pipelines.tokenizer(),
        text_encoder=pipelines.text(CLIPTextModel),
        text_encoder_2=pipelines.text(CLIPTextModelWithProjection),
        unet=pipelines.unet(
            in_channels=8,
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=6 * 8 + WIDTH,
        ),
        vae=pipelines.vae(latents_mean=[0.1, -0.2, 0.3, 0.0], latents_std=[1.5, 0.5, 2.0, 1.0]),
        scheduler=EulerDiscreteScheduler(
            prediction_type="v_prediction", timestep_spacing="trailing"
        ),
        add_watermarker=False,
        is_cosxl_edit=True,
    )
    return _save(pipeline, folder)


def kontext(folder):
    """FLUX.1 Kontext with embedded guidance; sides of images are multiples of 4 pixels."""
    return _save(FluxKontextPipeline(**flux_parts()), folder)


def flux_parts(**changes):
    """FLUX.1 as in its dev version.

    Args:
        **changes: Parts that replace these.
    """
    torch.manual_seed(0)
    t5 = T5Config(
        vocab_size=len(pipelines.tokenizer()),
        d_model=WIDTH,
        d_kv=8,
        d_ff=WIDTH,
        num_layers=1,
        num_heads=2,
        pad_token_id=1,
        eos_token_id=1,
    )
    return {
        "tokenizer": pipelines.tokenizer(),
        "tokenizer_2": pipelines.tokenizer(),
        "text_encoder": pipelines.text(CLIPTextModel),
        "text_encoder_2": T5EncoderModel(t5).eval(),
        "transformer": flux_transformer(),
        "vae": pipelines.vae(scaling_factor=1.5, shift_factor=0.06),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
    } | changes


def flux_transformer(*, guidance_embeds=True):
    return FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        guidance_embeds=guidance_embeds,
        axes_dims_rope=(4, 6, 6),
    )


def qwen_edit(folder):
    """Qwen-Image-Edit; sides of images are multiples of 8 pixels."""
    return _save(QwenImageEditPipeline(**_qwen_edit_parts()), folder)


def qwen_edit_plus(folder):
    """Qwen-Image-Edit 2511, whose source tokens have timestep 0; multiples of 8 pixels."""
    parts = _qwen_edit_parts(zero_cond_t=True)
    return _save(QwenImageEditPlusPipeline(**parts), folder)


def _qwen_edit_parts(**changes):
    _, processor = tiny.qwen2_5_vl_parts()
    return qwen_parts(**changes) | {"processor": processor}


def qwen_parts(**changes):
    """Qwen-Image.

    Args:
        **changes: Settings of the transformer.
    """
    torch.manual_seed(0)
    model, processor = tiny.qwen2_5_vl_parts()
    return {
        "tokenizer": processor.tokenizer,
        "text_encoder": tiny.enlarge(model),
        "transformer": QwenImageTransformer2DModel(
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            **changes,
        ),
        "vae": qwen_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    }


def qwen_vae():
    return AutoencoderKLQwenImage(
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.5, 2.0, 1.0],
    )


def varied(pipeline):
    """Draw the matrices of the transformer anew, so that it depends on all that it is given."""
    network = getattr(pipeline, "transformer", None)
    if network is not None:
        for weight in network.parameters():
            torch.nn.init.normal_(weight, std=0.3) if weight.ndim > 1 else None
    return pipeline


def _save(pipeline, folder):
    varied(pipeline).save_pretrained(folder, safe_serialization=True)
    return folder
