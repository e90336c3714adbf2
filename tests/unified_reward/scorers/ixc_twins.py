"""A tiny twin of IXC-2.5-Reward in the released layout, with tokens of its own."""

import json

import torch
from sentencepiece import sentencepiece_model_pb2

from tests.unified_reward.scorers.equations.ixc import make_ixc


SPECIAL = [f"[UNUSED_TOKEN_{n}]" for n in (3, 130, 145, 146)]
CHARACTERS = ["\n", "▁", *map(chr, range(33, 127))]
PIECES = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *CHARACTERS, *SPECIAL]
IDS = {piece: i for i, piece in enumerate(PIECES)}
"""A token for every byte and every printable character, whitespace kept, as InternLM2's."""
CONFIG = {
    "architectures": ["InternLMXComposer2ForRewardModel"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "max_length": 16384,
    "max_position_embeddings": 24576,
    "model_type": "internlmxcomposer2",
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 2,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {"factor": 2.0, "type": "dynamic"},
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "vocab_size": len(PIECES),
}
_SHARDS = {"model.layers.0": 1, "plora": 1, "model.tok": 1, "model.layers.1": 2}


def ixc(folder, state=None, *, seed=0):
    """The files of a twin; returns its tensors."""
    state = state or make_ixc(seed, vocab=len(PIECES))
    shards = {i: {} for i in (1, 2, 3)}
    for name, value in state.items():
        place = next((i for stem, i in _SHARDS.items() if name.startswith(stem)), 3)
        shards[place][name] = value
    weight_map = {}
    for i, tensors in shards.items():
        file = f"pytorch_model-{i:05}-of-00003.bin"
        torch.save(tensors, folder / file)
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {"total_size": 2 * sum(value.numel() for value in state.values())}}
    write(index | {"weight_map": weight_map}, folder / "pytorch_model.bin.index.json")
    write(CONFIG, folder / "config.json")
    write(
        {"<|im_start|>": len(PIECES), "<|im_end|>": len(PIECES) + 1}, folder / "added_tokens.json"
    )
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    write(special, folder / "special_tokens_map.json")
    tokenizer(folder / "tokenizer.model")
    return state


def write(content, file):
    file.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def tokenizer(file, pieces=tuple(PIECES)):
    """A SentencePiece file of the released kind: BPE, bytes, no blank in front, marks by name."""
    made = sentencepiece_model_pb2.ModelProto()
    kinds = made.SentencePiece
    for i, text in enumerate(pieces):
        kind = kinds.BYTE if text.startswith("<0x") else kinds.NORMAL
        kind = {"<unk>": kinds.UNKNOWN, "<s>": kinds.CONTROL, "</s>": kinds.CONTROL}.get(text, kind)
        kind = kinds.USER_DEFINED if text in SPECIAL else kind
        made.pieces.add(piece=text, score=-float(i), type=kind)
    made.trainer_spec.model_type = made.trainer_spec.BPE
    made.trainer_spec.byte_fallback = True
    made.trainer_spec.unk_id, made.trainer_spec.bos_id, made.trainer_spec.eos_id = 0, 1, 2
    made.trainer_spec.vocab_size = len(pieces)
    made.normalizer_spec.name = "identity"
    made.normalizer_spec.add_dummy_prefix = False
    made.normalizer_spec.remove_extra_whitespaces = False
    made.normalizer_spec.escape_whitespaces = True
    file.write_bytes(made.SerializeToString())


def token_ids(text):
    """By hand: a token for every character, for each of its bytes, or for a mark."""
    ids = []
    while text:
        mark = next((mark for mark in SPECIAL if text.startswith(mark)), None)
        if mark:
            ids.append(IDS[mark])
            text = text.removeprefix(mark)
            continue
        letter, text = text[0].replace(" ", "▁"), text[1:]
        ids += [IDS[letter]] if letter in IDS else [IDS[f"<0x{b:02X}>"] for b in letter.encode()]
    return ids
