"""Shapes of the released tensors of scorers, and the files beside them, made offline."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts import models


Sizes = Mapping[str, tuple[int, ...]]
"""Shapes of the tensors that a scorer's ``skeleton`` reads, by their released names."""
_TOWER = {"L": (1024, 4096, 24, 16), "H": (1280, 5120, 32, 16)}
_TEXT = {"L": (768, 3072, 12, 12), "H": (1024, 4096, 24, 16)}
_PROJECTION = {"L": 768, "H": 1024}
_TINY_TOWER = (64, 128, 2, 1)
_VOCABULARY = 49_408


def _clip(folder: Path, size: str, *, tiny: bool) -> Sizes:
    names = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    vision, text = ((_TINY_TOWER,) * 2) if tiny else (_TOWER[size], _TEXT[size])
    act = "quick_gelu" if size == "L" else "gelu"
    config = {
        "model_type": "clip",
        "projection_dim": 32 if tiny else _PROJECTION[size],
        "vision_config": dict(zip(names, vision, strict=True))
        | {"patch_size": 56 if tiny else 14, "image_size": 224, "hidden_act": act},
        "text_config": dict(zip(names, text, strict=True))
        | {"vocab_size": _VOCABULARY, "max_position_embeddings": 77, "hidden_act": act}
        | {"bos_token_id": _VOCABULARY - 2, "eos_token_id": _VOCABULARY - 1, "pad_token_id": 1},
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    _clip_tokenizer(folder)
    return {}


def _clip_tokenizer(folder: Path) -> None:
    """A token for every byte, and CLIP's control tokens at the end of a vocabulary of its size."""
    from tokenizers import AddedToken, Tokenizer, pre_tokenizers, processors
    from tokenizers import models as kinds

    ends = ["<|startoftext|>", "<|endoftext|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    filler = [f"<{i}>" for i in range(len(alphabet), _VOCABULARY - len(ends))]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *filler, *ends])}
    made = Tokenizer(kinds.BPE(vocabulary, [], fuse_unk=False))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.add_special_tokens([AddedToken(token, normalized=False) for token in ends])
    made.post_processor = processors.RobertaProcessing(
        (ends[1], _VOCABULARY - 1), (ends[0], _VOCABULARY - 2), trim_offsets=False
    )
    _save(made, folder, pad_token=ends[1], eos_token=ends[1], bos_token=ends[0])


def _save(tokenizer: Any, folder: Path, **tokens: str) -> None:
    from transformers import PreTrainedTokenizerFast

    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)


def _hps(folder: Path, *, tiny: bool) -> Sizes:
    width, wide, depth, _ = (80, 160, 2, 1) if tiny else _TOWER["H"]
    text, _, text_depth, _ = _TINY_TOWER if tiny else _TEXT["H"]
    patch = 56 if tiny else 14
    block = "transformer.resblocks"
    return {
        "visual.conv1.weight": (width, 3, patch, patch),
        "visual.positional_embedding": ((224 // patch) ** 2 + 1, width),
        f"visual.{block}.{depth - 1}.mlp.c_fc.weight": (wide, width),
        f"visual.{block}.0.mlp.c_fc.weight": (wide, width),
        f"{block}.{text_depth - 1}.mlp.c_fc.weight": (4 * text, text),
        f"{block}.0.mlp.c_fc.weight": (4 * text, text),
        "positional_embedding": (77, text),
        "token_embedding.weight": (_VOCABULARY, text),
        "text_projection": (text, 32 if tiny else _PROJECTION["H"]),
    }


def _imagereward(folder: Path, *, tiny: bool) -> Sizes:
    width, wide, depth, _ = _TINY_TOWER if tiny else _TOWER["L"]
    text = 64 if tiny else 768
    patch = 56 if tiny else 16
    med = {
        "hidden_act": "gelu",
        "hidden_size": text,
        "intermediate_size": 4 * text,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "num_attention_heads": 4 if tiny else 12,
        "num_hidden_layers": 2 if tiny else 12,
        "vocab_size": 30_522,
        "encoder_width": width,
        "add_cross_attention": True,
    }
    (folder / "med_config.json").write_text(json.dumps(med), "utf-8")
    letters = [chr(i) for i in range(33, 127)]
    control = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = [*control, *letters, *(f"##{letter}" for letter in letters)]
    (folder / "vocab.txt").write_text("\n".join(vocabulary), "utf-8")
    vision = "blip.visual_encoder"
    layers = (text, 1024, 128, 64, 16, 1)
    return {
        f"{vision}.patch_embed.proj.weight": (width, 3, patch, patch),
        f"{vision}.pos_embed": (1, (224 // patch) ** 2 + 1, width),
        f"{vision}.blocks.0.mlp.fc1.weight": (wide, width),
        f"{vision}.blocks.{depth - 1}.mlp.fc1.weight": (wide, width),
        "blip.text_encoder.embeddings.word_embeddings.weight": (30_524, text),
        **{
            f"mlp.layers.{place}.weight": (rows, columns)
            for place, columns, rows in zip((0, 2, 4, 6, 7), layers, layers[1:], strict=False)
        },
    }


_QWEN = {
    "model_type": "qwen2_vl",
    "hidden_size": 3584,
    "intermediate_size": 18_944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152_064,
    "max_position_embeddings": 32_768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {
        "depth": 32,
        "embed_dim": 1280,
        "hidden_size": 3584,
        "num_heads": 16,
        "mlp_ratio": 4,
        "patch_size": 14,
    },
}
_TINY_QWEN = {
    "hidden_size": 256,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 1024,
    "vision_config": {"depth": 2, "embed_dim": 160, "hidden_size": 256, "num_heads": 2},
}


def _qwen(folder: Path, *, tiny: bool, head: Sizes) -> Sizes:
    config = _QWEN | (_TINY_QWEN if tiny else {}) | {"bos_token_id": None, "eos_token_id": None}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    processor, _ = models.build_chat("Qwen2.5-VL-7B")
    processor.tokenizer.save_pretrained(folder)
    return {"model.embed_tokens.weight": (config["vocab_size"], config["hidden_size"]), **head}


def _hpsv3(folder: Path, *, tiny: bool) -> Sizes:
    width = 256 if tiny else 3584
    layers = {0: (1024, width), 3: (16, 1024), 5: (2, 16)}
    head = {f"rm_head.{place}.weight": shape for place, shape in layers.items()}
    biases = {f"rm_head.{place}.bias": shape[:1] for place, shape in layers.items()}
    return _qwen(folder, tiny=tiny, head=head | biases)


def _videoscore_qwen(folder: Path, *, tiny: bool) -> Sizes:
    return _qwen(folder, tiny=tiny, head={"score.weight": (5, 256 if tiny else 3584)})


def _videoscore(folder: Path, *, tiny: bool) -> Sizes:
    from transformers import Idefics2Config

    marks = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    rows = 1024 if tiny else 32_003
    width = 64 if tiny else 4096
    vision = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27}
    vision |= {"num_attention_heads": 16}
    perceiver = {"resampler_n_latents": 64, "resampler_depth": 3, "resampler_n_heads": 16}
    perceiver |= {"resampler_head_dim": 96, "num_key_value_heads": 4, "hidden_size": width}
    text = {"intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32}
    text |= {"num_key_value_heads": 8}
    if tiny:
        vision |= {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
        vision |= {"num_attention_heads": 4}
        perceiver |= {"resampler_n_latents": 4, "resampler_depth": 2, "resampler_n_heads": 4}
        perceiver |= {"resampler_head_dim": 16, "num_key_value_heads": 2}
        text |= {"intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
        text |= {"num_key_value_heads": 2}
    text |= {"model_type": "mistral", "hidden_size": width, "vocab_size": rows}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "rms_norm_eps": 1e-5}
    processor, _ = models.build_chat("Qwen2.5-VL-7B")
    tokenizer = processor.tokenizer
    tokenizer.add_tokens(marks, special_tokens=True)
    tokenizer.save_pretrained(folder)
    config = Idefics2Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_config=vision | {"patch_size": 14, "image_size": 980, "layer_norm_eps": 1e-6},
        perceiver_config=perceiver,
        text_config=text,
    ).to_dict()
    config["perceiver_config"].pop("rms_norm_eps", None)
    (folder / "config.json").write_text(json.dumps(config, default=str), "utf-8")
    return {"score.weight": (5, width)}


def _vqascore(folder: Path, *, tiny: bool) -> Sizes:
    from sentencepiece import SentencePieceTrainer

    letters = [chr(i) for i in range(33, 127)]
    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(letters)] * 4),
        model_writer=written,
        model_type="char",
        vocab_size=len(letters) + 4,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    (folder / "spiece.model").write_bytes(written.getvalue())
    config: dict[str, Any] = {
        "model_type": "clip_t5",
        "d_model": 4096,
        "d_kv": 64,
        "d_ff": 10_240,
        "num_layers": 24,
        "num_decoder_layers": 24,
        "num_heads": 64,
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
    }
    if tiny:
        config |= {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4}
        config |= {"num_layers": 2, "num_decoder_layers": 2}
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    width, wide, depth, _ = _TINY_TOWER if tiny else _TOWER["L"]
    patch = 56 if tiny else 14
    return {
        "shared.weight": (1024 if tiny else 32_128, config["d_model"]),
        "vision_model.embeddings.patch_embedding.weight": (width, 3, patch, patch),
        "vision_model.embeddings.position_embedding.weight": ((336 // patch) ** 2 + 1, width),
        "vision_model.encoder.layers.0.mlp.fc1.weight": (wide, width),
        f"vision_model.encoder.layers.{depth - 1}.mlp.fc1.weight": (wide, width),
    }


def _clip_of(size: str) -> Any:
    def make(folder: Path, *, tiny: bool) -> Sizes:
        return _clip(folder, size, tiny=tiny)

    return make


MAKERS = {
    "clip-cosine": _clip_of("L"),
    "pickscore": _clip_of("H"),
    "hpsv2": _hps,
    "imagereward": _imagereward,
    "hpsv3": _hpsv3,
    "vqascore": _vqascore,
    "videoscore-qwen2-vl": _videoscore_qwen,
    "videoscore": _videoscore,
}
"""By the name of the scorer."""
