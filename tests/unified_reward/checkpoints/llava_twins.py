"""Tiny LLaVA-OneVision models, and the same weights as their authors' own code lays them out.

The names are mapped by hand here, from what is published about the original layout.
"""

import json
import math

import numpy as np
import PIL.Image
import torch
from safetensors.torch import save_file
from tokenizers import pre_tokenizers
from transformers import LlavaOnevisionConfig, LlavaOnevisionForConditionalGeneration


MERGES = ["t h", "th e", "Ġ a", "S c", "o r", "Sc or", "Scor e"]
BYTES = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *(item.replace(" ", "") for item in MERGES)]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PAD, START, END = range(len(BYTES), len(BYTES) + 3)
IMAGE, VIDEO = END + 1, END + 2
ROWS = VIDEO + 6
"""More rows than tokens, as the released ones have."""
SIDE, PATCH, WIDTH, LAYERS = 28, 14, 72, 2
TOWER = "model.vision_tower.vision_tower.vision_model"

CONFIG = {
    "architectures": ["LlavaQwenForCausalLM"],
    "model_type": "llava_qwen",
    "bos_token_id": PAD,
    "eos_token_id": END,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "image_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": "(1x1),...,(2x2)",
    "image_token_index": IMAGE,
    "intermediate_size": 96,
    "max_position_embeddings": 4096,
    "mm_newline_position": "one_token",
    "mm_patch_merge_type": "spatial_unpad",
    "mm_projector_type": "mlp2x_gelu",
    "mm_resampler_type": None,
    "mm_use_im_start_end": False,
    "mm_vision_select_feature": "patch",
    "mm_vision_select_layer": -2,
    "mm_vision_tower": "google/siglip-so400m-patch14-384",
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_scaling": None,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "use_sliding_window": False,
    "vision_config": {"image_size": SIDE, "num_attention_heads": 1, "num_hidden_layers": 3},
    "vocab_size": ROWS,
}


def reference(*, rows=ROWS, tied=False):
    """A model of transformers with random weights; every tensor of one shape is another."""
    config = LlavaOnevisionConfig(
        text_config={
            "model_type": "qwen2",
            "vocab_size": rows,
            "hidden_size": WIDTH,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
            "pad_token_id": PAD,
        },
        vision_config={
            "model_type": "siglip_vision_model",
            "hidden_size": WIDTH,
            "intermediate_size": 96,
            "num_hidden_layers": LAYERS,
            "num_attention_heads": 1,
            "image_size": SIDE,
            "patch_size": PATCH,
            "vision_use_head": False,
        },
        image_token_index=IMAGE,
        video_token_index=VIDEO,
        image_grid_pinpoints=[[28, 28], [56, 28], [28, 56], [56, 56]],
        tie_word_embeddings=tied,
    )
    model = LlavaOnevisionForConditionalGeneration(config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.2)
    return model


def original_name(name):
    """Name in the authors' code of a tensor of transformers."""
    if name in ("lm_head.weight", "model.image_newline"):
        return name
    part, rest = name.removeprefix("model.").split(".", 1)
    if part == "multi_modal_projector":
        layer, kind = rest.split(".")
        return f"model.mm_projector.{ {'linear_1': 0, 'linear_2': 2}[layer] }.{kind}"
    return {"language_model": "model", "vision_tower": TOWER}[part] + "." + rest


def original_state(model, *, whole_tower=True):
    """The tensors of a model under the original names, and those that nobody reads."""
    state = {original_name(name): item.clone() for name, item in model.state_dict().items()}
    assert len(state) == len(model.state_dict())
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.rand(9)
    if whole_tower:
        last = f"{TOWER}.encoder.layers.{LAYERS - 1}."
        behind = {name: item for name, item in state.items() if name.startswith(last)}
        for name, item in behind.items():
            state[name.replace(last, f"{TOWER}.encoder.layers.{LAYERS}.")] = torch.randn_like(item)
        state[f"{TOWER}.head.probe"] = torch.randn(1, 1, WIDTH)
        state[f"{TOWER}.head.attention.in_proj_weight"] = torch.randn(3 * WIDTH, WIDTH)
        state[f"{TOWER}.head.mlp.fc1.bias"] = torch.randn(96)
    return state


def save_tokenizer(folder, special=SPECIAL, n=PAD):
    """Files as transformers 4.40 wrote those of Qwen2, with ``n`` tokens before the special."""
    vocabulary = {item: i for i, item in enumerate(BYTES)}
    vocabulary |= {f"word{i}": i for i in range(len(BYTES), n)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n", "utf-8")
    mark = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    added = {n + i: {"content": item, "special": True} | mark for i, item in enumerate(special)}
    result = {
        "add_prefix_space": False,
        "added_tokens_decoder": added,
        "additional_special_tokens": [item for item in special if item.startswith("<|im_")],
        "bos_token": None,
        "chat_template": "{{ 'another template' }}",
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|endoftext|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": "<|endoftext|>",
        "padding_side": "right",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(result), "utf-8")


def save_shards(folder, state, n=3):
    """Tensors in ``n`` files and an index."""
    names = [*state]
    weight_map = {}
    for i in range(n):
        file = f"model-{i + 1:05}-of-{n:05}.safetensors"
        part = names[i::n]
        weight_map |= dict.fromkeys(part, file)
        save_file(
            {name: state[name].contiguous() for name in part}, folder / file, {"format": "pt"}
        )
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def save_original(folder, state, **changes):
    """A folder as it was released."""
    folder.mkdir(parents=True)
    save_shards(folder, state)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    save_tokenizer(folder)
    return folder


def picture(seed=0, width=90, height=50):
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


def released_shapes(*, width, inner, layers, keys, rows):
    """Names and shapes of a released checkpoint: Qwen2 and a tower cut to 26 layers."""
    yield "model.embed_tokens.weight", (rows, width)
    for i in range(layers):
        stem = f"model.layers.{i}"
        for name, out in (("q_proj", width), ("k_proj", keys), ("v_proj", keys)):
            yield f"{stem}.self_attn.{name}.weight", (out, width)
            yield f"{stem}.self_attn.{name}.bias", (out,)
        yield f"{stem}.self_attn.o_proj.weight", (width, width)
        yield f"{stem}.mlp.gate_proj.weight", (inner, width)
        yield f"{stem}.mlp.up_proj.weight", (inner, width)
        yield f"{stem}.mlp.down_proj.weight", (width, inner)
        yield f"{stem}.input_layernorm.weight", (width,)
        yield f"{stem}.post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "model.image_newline", (width,)
    for i, cross in ((0, 1152), (2, width)):
        yield f"model.mm_projector.{i}.weight", (width, cross)
        yield f"model.mm_projector.{i}.bias", (width,)
    yield f"{TOWER}.embeddings.patch_embedding.weight", (1152, 3, 14, 14)
    yield f"{TOWER}.embeddings.patch_embedding.bias", (1152,)
    yield f"{TOWER}.embeddings.position_embedding.weight", (729, 1152)
    stems = [f"{TOWER}.encoder.layers.{i}" for i in range(26)]
    for name, out, cross in (
        *((f"self_attn.{item}_proj", 1152, 1152) for item in ("q", "k", "v", "out")),
        ("mlp.fc1", 4304, 1152),
        ("mlp.fc2", 1152, 4304),
    ):
        yield from ((f"{stem}.{name}.weight", (out, cross)) for stem in stems)
        yield from ((f"{stem}.{name}.bias", (out,)) for stem in stems)
    norms = [f"{stem}.layer_norm{i}" for stem in stems for i in (1, 2)]
    for norm in (*norms, f"{TOWER}.post_layernorm"):
        yield f"{norm}.weight", (1152,)
        yield f"{norm}.bias", (1152,)
    yield "lm_head.weight", (rows, width)


def save_sparse(file, shapes):
    """A file of bfloat16 zeros that takes no room."""
    result, end = {}, 0
    for name, shape in shapes:
        start, end = end, end + 2 * math.prod(shape)
        result[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    header = json.dumps(result).encode()
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(out.tell() + end)
