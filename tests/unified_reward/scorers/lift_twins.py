"""A tiny twin of LiFT-Critic in the released layout, with words and tokens of its own."""

import hashlib
import json
from itertools import pairwise

import torch
from safetensors.torch import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from tests.unified_reward.scorers.equations.lift import PEFT, make_lift


HEADS, VISION_HEADS, PATCH, THETA = 4, 4, 42, 1e5
LORA = {"r": 4, "lora_alpha": 8}
CHARACTERS = [*("<unk>", "<s>", "</s>"), *(f"<0x{i:02X}>" for i in range(256)), "▁"]
CHARACTERS += [chr(i) for i in range(33, 127)]
"""A token for every byte and for every printable character, as in Llama's vocabulary."""
IDS = {item: i for i, item in enumerate(CHARACTERS)}
END = IDS["</s>"]
WORDS = {
    "LIFT-SEMANTIC": f" Does it fit? {'Look at all of it. ' * 40}Say Good, Normal or Bad.",
    "LIFT-FIDELITY": " Is it real?",
    "LIFT-MOTION": " Does it move well?\n",
}
"""Made up, the first much longer; the official words are not part of this repository."""


def install_words(home):
    """A pack with made-up words under the official names."""
    rows = [
        {
            "name": name,
            "task": "video_generation",
            "form": "score",
            "text": text,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        for name, text in WORDS.items()
    ]
    pack = home / "packs" / "lift.json"
    pack.parent.mkdir(parents=True, exist_ok=True)
    pack.write_text(json.dumps({"schema": 1, "wordings": rows}))


def token_ids(text):
    """A token for every character, one for the space that Llama puts before every text."""
    ids = []
    for item in "▁" + text.replace(" ", "▁"):
        ids += [IDS[item]] if item in IDS else [IDS[f"<0x{byte:02X}>"] for byte in item.encode()]
    return ids


def lift(folder, seed=0, *, parts=None):
    """The files of a twin; its tensors by what is a file of its own."""
    parts = parts or make_lift(seed, vocab=len(CHARACTERS))
    for name in ("llm", "vision_tower", "mm_projector", "lora"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    _write_llm(folder / "llm", parts["llm"])
    save(parts["vision_tower"], folder / "vision_tower" / "model.safetensors")
    save(parts["mm_projector"], folder / "mm_projector" / "model.safetensors")
    save(parts["adapter"], folder / "lora" / "adapter_model.safetensors")
    torch.save(parts["own"], folder / "lora" / "non_lora_trainables.bin")
    layers = {name.removeprefix(PEFT).partition(".lora_")[0] for name in parts["adapter"]}
    tower = {
        "architectures": ["SiglipVisionModel"],
        "model_type": "siglip_vision_model",
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 32,
        "image_size": 384,
        "intermediate_size": 48,
        "layer_norm_eps": 1e-6,
        "num_attention_heads": VISION_HEADS,
        "num_channels": 3,
        "num_hidden_layers": 3,
        "patch_size": PATCH,
    }
    projector = {"mm_projector_type": "mlp_downsample", "model_type": "v2l_projector"}
    adapter = {"peft_type": "LORA", "bias": "none", "target_modules": sorted(layers), **LORA}
    write(tower, folder / "vision_tower" / "config.json")
    write(projector, folder / "mm_projector" / "config.json")
    write(adapter, folder / "lora" / "adapter_config.json")
    return parts


def _write_llm(folder, state):
    shards = [{}, {}]
    for i, (name, item) in enumerate(state.items()):
        shards[i % 2][name] = item
    index = {}
    for i, kept in enumerate(shards, 1):
        save(kept, folder / f"model-0000{i}-of-00002.safetensors")
        index |= dict.fromkeys(kept, f"model-0000{i}-of-00002.safetensors")
    write({"metadata": {}, "weight_map": index}, folder / "model.safetensors.index.json")
    config = {
        "_name_or_path": "./llm",
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 96,
        "max_position_embeddings": 4096,
        "model_max_length": 4096,
        "num_attention_heads": HEADS,
        "num_hidden_layers": 2,
        "num_key_value_heads": HEADS,
        "pad_token_id": 0,
        "rms_norm_eps": 1e-5,
        "rope_scaling": None,
        "rope_theta": THETA,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 999,
    }
    write(config, folder / "config.json")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model())
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>", "unk_token": "<unk>"}
    write(tokens, folder / "special_tokens_map.json")
    write({"legacy": False, "tokenizer_class": "LlamaTokenizer", **tokens}, folder / TOKENIZER)


TOKENIZER = "tokenizer_config.json"


def sentencepiece_model(characters=CHARACTERS, *, collapses=False):
    """Llama's kind of `tokenizer.model`: pieces in order, no blank lost.

    Args:
        characters: The pieces.
        collapses: Blanks in a row are one, as where nothing else is said to SentencePiece.
    """
    model, kinds = ModelProto(), ModelProto.SentencePiece
    for i, item in enumerate(characters):
        kind = kinds.BYTE if item.startswith("<0x") else kinds.NORMAL
        kind = {"<unk>": kinds.UNKNOWN, "<s>": kinds.CONTROL, "</s>": kinds.CONTROL}.get(item, kind)
        model.pieces.add(piece=item, score=-i, type=kind)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = collapses
    return model.SerializeToString()


def save(state, file):
    save_file({name: item.contiguous() for name, item in state.items()}, file)


def write(row, file):
    file.write_text(json.dumps(row))


def change(file, **values):
    """Other values in a JSON object; None takes one out."""
    row = json.loads(file.read_text()) | values
    write({name: item for name, item in row.items() if item is not None}, file)


def speaks(parts, text):
    """Make the twin generate a text of different characters after a colon.

    No layer of the language model adds anything, and the head knows which follows which.
    """
    state, adapter = ({**parts[name]} for name in ("llm", "adapter"))
    for kept in (state, adapter):
        for name, value in kept.items():
            if ("o_proj" in name or "down_proj" in name) and "lora_A" not in name:
                kept[name] = torch.zeros_like(value)
    table = state["model.embed_tokens.weight"]
    head = torch.zeros_like(state["lm_head.weight"])
    result = [IDS[":"], *(IDS[item] for item in text), END]
    for before, after in pairwise(result):
        head[after] = table[before]
    return parts | {"llm": state | {"lm_head.weight": head}, "adapter": adapter}
