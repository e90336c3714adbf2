"""Memory that models need, by arithmetic: parameters times bytes, and a stated room.

Nothing is measured. With P parameters, E of them in embeddings and output layer, L layers of width
D, H key-value heads of width W, and a vocabulary of V:

    inference  weights + cache + pass + 1 GiB
        weights  P x 4 in float32, P x 2 in bfloat16; with the E at 2 bytes, the others x 1 in
                 8bit, x 0.5625 in 4bit: half a byte, and a float32 for every 64 weights
        cache    2 x L x H x W x b for each of 16,384 tokens, such as 16 requests of 1,024
        pass     24 x D x b for each of them: activations of the layer being computed
    lora       P x 2 + P / 100 x 16 + training pass + 1 GiB
    full       P x 16 + training pass + 1 GiB
        training pass  (L + 24) x D x 2 + V x 8 for each of 4,096 tokens: the input of every layer,
                       the layer being computed, logits and their gradients in float32

b is 4 in float32, else 2. A trained weight takes 16 bytes with AdamW: itself, its gradient and two
moments in float32; P / 100 are adapters of about rank 32 on all linear layers. Weights under
adapters are bfloat16, as in a dry run. 1 GiB is for the context of CUDA and what else lives on the
device. An encoder such as CLIP has no cache, and its pass lies within that GiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args


Use = Literal["inference", "lora", "full"]
USES: tuple[Use, ...] = get_args(Use)
Dtype = Literal["bfloat16", "float32", "8bit", "4bit"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
Fit = Literal["yes", "if empty", "no", "unknown"]
GIB = 2**30
TOKENS = 16_384
"""Tokens in flight of inference."""
TRAINED_TOKENS = 4_096
"""Tokens of a training pass."""
_LAYER = 24
"""Activations of a layer, in widths of it for each token: attention, a gated MLP, residuals."""
_TRAINED = 16
"""Bytes of a trained weight with AdamW."""
_FROZEN = 2
"""Bytes of a weight under adapters."""
_ADAPTERS = 0.01
"""Weights of adapters for each parameter."""


@dataclass(frozen=True)
class Language:
    """Sizes of the language model that decide caches and activations."""

    layers: int
    kv_heads: int
    head_dim: int
    width: int
    vocabulary: int
    tied: bool = False
    """True where the output layer is the embedding."""

    @property
    def embeddings(self) -> int:
        """Weights of embedding and output layer."""
        return self.vocabulary * self.width * (1 if self.tied else 2)


@dataclass(frozen=True)
class Size:
    """A model by its sizes."""

    name: str
    parameters: float | None
    """None where nobody published it."""
    language: Language | None = None
    """None for an encoder, or where it is unknown."""
    like: str = ""
    """Model whose architecture it has."""


_QWEN2_7B = Language(28, 4, 128, 3584, 152_064)
_LLAMA_13B = Language(40, 40, 128, 5120, 32_064)
JUDGES = (
    Size("0.5B", 893_675_552, Language(24, 2, 64, 896, 152_000, tied=True), "LLaVA-OneVision-0.5B"),
    Size(
        "3B",
        3_754_622_976,
        Language(36, 2, 128, 2048, 151_936, tied=True),
        "Qwen2.5-VL-3B-Instruct",
    ),
    Size("7B", 8_292_166_656, _QWEN2_7B, "Qwen2.5-VL-7B-Instruct"),
    Size("8B", 8_767_123_696, Language(36, 8, 128, 4096, 151_936), "Qwen3-VL-8B-Instruct"),
    Size("13B", 13_351_494_656, _LLAMA_13B, "LLaVA-1.5-13B"),
    Size("32B", 33_452_718_336, Language(64, 8, 128, 5120, 152_064), "Qwen2.5-VL-32B-Instruct"),
    Size("72B", 73_410_777_344, Language(80, 8, 128, 8192, 152_064), "Qwen2.5-VL-72B-Instruct"),
)
"""Common sizes of judges, by the parameters of a base that has them."""

_CLIP_B, _CLIP_L, _CLIP_H = 151_277_313, 427_616_513, 986_109_441
_FLAN_XXL = 11.46e9
"""Flan-T5-XXL with CLIP ViT-L/14 at 336 pixels."""
SYSTEMS = {
    size.name: size
    for size in (
        Size("pickscore", _CLIP_H, like="CLIP ViT-H/14"),
        Size("hpsv1", _CLIP_L, like="CLIP ViT-L/14"),
        Size("hpsv2", _CLIP_H, like="CLIP ViT-H/14"),
        Size("hpsv2.1", _CLIP_H, like="CLIP ViT-H/14"),
        Size("imagereward", 0.45e9, like="BLIP ViT-L"),
        Size("clipscore", _CLIP_B, like="CLIP ViT-B/32"),
        Size("clip-cosine", _CLIP_L, like="CLIP ViT-L/14"),
        Size("aesthetic-v2", _CLIP_L, like="CLIP ViT-L/14"),
        Size("hpsv3", 8.29e9, _QWEN2_7B, "Qwen2-VL-7B"),
        Size("editreward", 8.29e9, _QWEN2_7B, "Qwen2.5-VL-7B"),
        Size("videoscore", 8.4e9, Language(32, 8, 128, 4096, 32_003), "Idefics2-8B"),
        Size("videoscore-v1.1", 8.4e9, Language(32, 8, 128, 4096, 32_003), "Idefics2-8B"),
        Size("videoscore-qwen2-vl", 7.75e9, _QWEN2_7B, "Qwen2-VL-7B"),
        Size("videoreward", 2.21e9, Language(28, 2, 128, 1536, 151_936, tied=True), "Qwen2-VL-2B"),
        Size("lift-critic-13b", 13.5e9, _LLAMA_13B, "VILA1.5-13B"),
        Size("vqascore", _FLAN_XXL, like="CLIP-Flan-T5-XXL"),
        Size("visionreward-image", 19.5e9 + _FLAN_XXL, like="CogVLM2-19B with VQAScore"),
        Size("visionreward-image-without-vqascore", 19.5e9, like="CogVLM2-19B"),
        Size("visionreward-video", 12.5e9, like="CogVLM2-Video-12B"),
    )
}
"""Published systems, by the parameters that their authors or the architecture give."""


def size_of(name: str) -> Size:
    """Size of a published system; of unknown parameters where nobody published them.

    >>> size_of("ixc-2.5-reward").parameters is None
    True
    """
    return SYSTEMS.get(name, Size(name, None))


def needed_bytes(size: Size, use: Use, dtype: Dtype = "bfloat16") -> int | None:
    """Memory of a model on one device, see the formula of this module; None where it is unknown.

    Args:
        size: The model. One without `Language` has no cache here; only inference of it is known.
        use: Asking it, or training it with AdamW, by adapters or in full.
        dtype: Dtype of the weights for inference; training has dtypes of its own.

    >>> needed_bytes(Size("encoder", 10**9), "inference") == 2 * 10**9 + GIB
    True
    """
    p, language = size.parameters, size.language
    if p is None:
        return None
    if use == "inference":
        width = 4 if dtype == "float32" else 2
        cache = language_bytes(language, width) * TOKENS if language else 0
        return round(_weights(p, language, dtype) + cache + GIB)
    if language is None:
        return None
    weights = p * _TRAINED if use == "full" else p * (_FROZEN + _ADAPTERS * _TRAINED)
    a_token = (language.layers + _LAYER) * language.width * 2 + language.vocabulary * 8
    return round(weights + TRAINED_TOKENS * a_token + GIB)


def language_bytes(language: Language, width: int) -> int:
    """Bytes of cache and activations for each token in flight.

    Args:
        language: The language model.
        width: Bytes of a number.
    """
    keys_and_values = 2 * language.layers * language.kv_heads * language.head_dim
    return (keys_and_values + _LAYER * language.width) * width


def _weights(p: float, language: Language | None, dtype: Dtype) -> float:
    embeddings = language.embeddings if language else 0
    match dtype:
        case "float32":
            return p * 4
        case "bfloat16":
            return p * 2
        case "8bit":
            return p - embeddings + embeddings * 2
        case "4bit":
            return (p - embeddings) * 0.5625 + embeddings * 2


def fit(needed: int | None, free: int | None, total: int | None) -> Fit:
    """Compare the memory that a model needs with what a device has.

    >>> fit(6, free=8, total=10), fit(9, free=8, total=10), fit(11, free=8, total=10)
    ('yes', 'if empty', 'no')
    >>> fit(None, free=8, total=10), fit(9, free=8, total=None)
    ('unknown', 'unknown')
    """
    if needed is None or (free is None and total is None):
        return "unknown"
    if free is not None and needed <= free:
        return "yes"
    if total is None:
        return "unknown"
    return "if empty" if needed <= total else "no"
