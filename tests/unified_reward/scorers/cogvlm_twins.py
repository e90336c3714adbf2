"""Twins of VisionReward-Video as it is released: six shards, an index, a tokenizer of Llama 3."""

import json

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from tests.unified_reward.scorers.equations.cogvlm import make_cogvlm


LLAMA = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Pieces of text in Llama 3; a piece that is in the vocabulary is one token."""
WORDS = ("yes", "no", "Yes", "No", "Ġyes", "Ġno", "Question", "ĠAnswer", "?Ċ", "ĠIs", "Ġit")
SPECIALS = ("<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>")
RELEASED_WORDS = {"yes": 9891, "no": 2201, "Question": 14924, ":": 25, "Ġa": 264, "ĠAnswer": 22559}
"""Some tokens of Llama 3 with their ids."""
VOCABULARY = 320
N_SHARDS = 6
CONFIG = {
    "architectures": ["CogVLMVideoForCausalLM"],
    "auto_map": {"AutoModelForCausalLM": "modeling_cogvlm.CogVLMVideoForCausalLM"},
    "template_version": "base",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_multi_query_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 400,
    "rms_norm_eps": 1e-5,
    "bos_token_id": 256 + len(WORDS),
    "vision_config": {
        "hidden_size": 224,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_heads": 2,
        "image_size": 224,
        "patch_size": 56,
        "num_positions": 17,
    },
}


def llama_tokenizer(file, words, specials=SPECIALS):
    """A token for each byte and for each of the words, which may have ids of their own."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    taken = {*words.values()} if isinstance(words, dict) else set()
    free = iter(i for i in range(10**6) if i not in taken)
    vocabulary = {letter: next(free) for letter in letters if letter not in words}
    vocabulary |= words if isinstance(words, dict) else {word: next(free) for word in words}
    made = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(item, normalized=False) for item in specials])
    first = made.token_to_id(specials[0])
    made.post_processor = processors.TemplateProcessing(
        single=f"{specials[0]} $A", special_tokens=[(specials[0], first)]
    )
    made.save(str(file))


def shards(n_bytes, most):
    """Names by shard, filled in their order up to so many bytes, as transformers did."""
    parts, size = [[]], 0
    for name, n in n_bytes.items():
        if parts[-1] and size + n > most:
            parts.append([])
            size = 0
        parts[-1].append(name)
        size += n
    return parts


def visionreward_video(folder, seed=0, *, dtype=torch.bfloat16, **sizes):
    """Random weights but for yes, no and Yes, one of which is the likeliest token."""
    state = make_cogvlm(seed, vocabulary=VOCABULARY, **sizes)
    state = {name: item.to(dtype) for name, item in state.items()}
    head = state["lm_head.weight"]
    head[[256, 258]] *= 200
    head[257] = -head[256]
    n_bytes = {name: item.numel() * item.itemsize for name, item in state.items()}
    parts = shards(n_bytes, sum(n_bytes.values()) // (N_SHARDS - 1))
    index = {}
    for i, names in enumerate(parts, 1):
        file = f"model-{i:05}-of-{len(parts):05}.safetensors"
        kept = {name: state[name].contiguous() for name in names}
        save_file(kept, folder / file, metadata={"format": "pt"})
        index |= dict.fromkeys(names, file)
    content = {"metadata": {"total_size": sum(n_bytes.values())}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content, indent=2))
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    llama_tokenizer(folder / "tokenizer.json", WORDS)
    return state
