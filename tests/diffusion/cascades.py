"""Pipelines of several networks, each of which denoises latents of its own."""

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    KandinskyCombinedPipeline,
    KandinskyV22CombinedPipeline,
    PriorTransformer,
    StableUnCLIPPipeline,
    UnCLIPScheduler,
    VQModel,
)
from diffusers.pipelines.kandinsky.text_encoder import MCLIPConfig, MultilingualCLIP
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from tests.diffusion.older import randomise, unet_of_pixels
from tests.diffusion.tiny import Tiny
from tests.unified_reward.policies import pipelines
from tests.unified_reward.policies.pipelines import TOKENS, WIDTH
from unified_reward.policies import Denoising


def kandinsky():
    torch.manual_seed(0)
    config = MCLIPConfig(
        vocab_size=len(pipelines.tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=80,
        pad_token_id=1,
        transformerDimSize=WIDTH,
        imageDimSize=WIDTH,
    )
    return KandinskyCombinedPipeline(
        text_encoder=MultilingualCLIP(config).eval(),
        tokenizer=pipelines.tokenizer(),
        unet=unet_of_pixels(
            in_channels=4,
            out_channels=8,
            addition_embed_type="text_image",
            encoder_hid_dim_type="text_image_proj",
            encoder_hid_dim=WIDTH,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
        ),
        movq=movq(),
        **kandinsky_prior(),
    )


def kandinsky_2_2():
    torch.manual_seed(0)
    return KandinskyV22CombinedPipeline(
        unet=unet_of_pixels(
            in_channels=4,
            out_channels=8,
            addition_embed_type="image",
            encoder_hid_dim_type="image_proj",
            encoder_hid_dim=WIDTH,
        ),
        scheduler=DDPMScheduler(
            beta_schedule="linear",
            beta_start=0.00085,
            beta_end=0.012,
            clip_sample=False,
            variance_type="learned_range",
            clip_sample_range=2.0,
        ),
        movq=movq(),
        **kandinsky_prior(),
    )


def kandinsky_prior():
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    return {
        "prior_prior": prior(),
        "prior_image_encoder": CLIPVisionModelWithProjection(vision),
        "prior_text_encoder": pipelines.text(CLIPTextModelWithProjection),
        "prior_tokenizer": pipelines.tokenizer(),
        "prior_scheduler": unclip_scheduler(),
        "prior_image_processor": CLIPImageProcessor(crop_size=8, size=8),
    }


def stable_unclip():
    torch.manual_seed(0)
    normalizer = StableUnCLIPImageNormalizer(embedding_dim=WIDTH)
    torch.nn.init.uniform_(normalizer.std, 0.5, 2)
    return StableUnCLIPPipeline(
        prior_tokenizer=pipelines.tokenizer(),
        prior_text_encoder=pipelines.text(CLIPTextModelWithProjection),
        prior=prior(),
        prior_scheduler=unclip_scheduler(),
        image_normalizer=normalizer,
        image_noising_scheduler=DDPMScheduler(beta_schedule="squaredcos_cap_v2"),
        tokenizer=pipelines.tokenizer(),
        text_encoder=pipelines.text(CLIPTextModel),
        unet=pipelines.unet(
            class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            set_alpha_to_one=False,
            clip_sample=False,
            steps_offset=1,
        ),
        vae=pipelines.vae(),
    )


def prior():
    network = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=1,
        embedding_dim=WIDTH,
        num_embeddings=TOKENS,
    )
    randomise(network)
    return network


def unclip_scheduler():
    return UnCLIPScheduler(
        variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=5.0
    )


def movq():
    """Autoencoder of Kandinsky, the norms of which read the latents too, in 32 groups."""
    return VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        latent_channels=4,
        norm_num_groups=32,
        norm_type="spatial",
        num_vq_embeddings=12,
        vq_embed_dim=4,
    )


_PICTURE = Denoising(steps=3, guidance=3.0, height=16, width=24)
PIPELINES = {
    "KandinskyCombinedPipeline": Tiny(kandinsky, _PICTURE),
    "KandinskyV22CombinedPipeline": Tiny(kandinsky_2_2, _PICTURE),
    "StableUnCLIPPipeline": Tiny(stable_unclip, _PICTURE),
}
