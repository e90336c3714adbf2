"""Pipelines of several networks, each of which denoises latents of its own."""

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DDPMWuerstchenScheduler,
    KandinskyCombinedPipeline,
    KandinskyV22CombinedPipeline,
    PriorTransformer,
    StableCascadeCombinedPipeline,
    StableCascadeUNet,
    StableUnCLIPPipeline,
    UnCLIPScheduler,
    VQModel,
)
from diffusers.pipelines.deprecated.wuerstchen import PaellaVQModel
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


def stable_cascade():
    """Stable Cascade: a prior of 42 pixels a latent, and a decoder that follows its latents."""
    torch.manual_seed(0)
    return StableCascadeCombinedPipeline(
        tokenizer=pipelines.tokenizer(),
        text_encoder=pipelines.text(CLIPTextModelWithProjection),
        decoder=cascade_unet(
            in_channels=4,
            out_channels=4,
            effnet_in_channels=8,
            timestep_conditioning_type=("sca",),
        ),
        scheduler=DDPMWuerstchenScheduler(),
        vqgan=PaellaVQModel(
            bottleneck_blocks=1, embed_dim=8, num_vq_embeddings=16, scale_factor=0.7
        ),
        prior_prior=cascade_unet(
            in_channels=8, out_channels=8, clip_text_in_channels=WIDTH, clip_image_in_channels=WIDTH
        ),
        prior_text_encoder=pipelines.text(CLIPTextModelWithProjection),
        prior_tokenizer=pipelines.tokenizer(),
        prior_scheduler=DDPMWuerstchenScheduler(),
    )


def cascade_unet(**changes):
    layers = ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")
    return StableCascadeUNet(
        timestep_ratio_embedding_dim=8,
        conditioning_dim=WIDTH,
        block_out_channels=(WIDTH, WIDTH),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        block_types_per_layer=(layers, layers),
        clip_text_pooled_in_channels=WIDTH,
        switch_level=(False,),
        **changes,
    )


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
REFUSED = {
    "StableCascadeCombinedPipeline": Tiny(
        stable_cascade, Denoising(steps=3, height=42 * 4, width=42 * 2)
    ),
}
"""Pipelines that diffusers saves in folders from which it cannot load them."""
