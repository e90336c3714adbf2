"""Scorers to serve: random ones in the layout of PickScore, and a tiny vision-language judge."""

from __future__ import annotations

import gzip
from importlib import resources
from pathlib import Path
from typing import Any


SIZES = ("tiny", "deep", "vit", "vlm")
"""Random CLIPs in float32: two layers of width 64, whose pass costs two milliseconds; twelve of
them, bound by the number of calls as small batches on a GPU are; and the size of ViT-B/32. Last the
laboratory's ``tiny_scalar``, a vision-language model with a value head."""
POISON = "zyzzyva"
"""A word whose embedding is NaN: an image with it in its prompt has no finite score."""


def build(size: str, folder: Path, seed: int = 0) -> str:
    """Write a random scorer into a folder and return its reference."""
    if size == "vlm":
        return "tiny_scalar"
    import torch
    from transformers import CLIPModel

    tokenizer = _tokenizer()
    torch.manual_seed(seed)
    model = CLIPModel(_config(size))
    ids = tokenizer(POISON, add_special_tokens=False).input_ids
    # The first piece of the word may begin other words; its last does not occur in our prompts.
    model.text_model.embeddings.token_embedding.weight.data[ids[-1]] = torch.nan
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return f"pickscore:{folder}"


def _config(size: str) -> Any:
    from transformers import CLIPConfig

    if size == "vit":
        return CLIPConfig()
    n_layers = {"tiny": 2, "deep": 12}[size]
    small = {"num_hidden_layers": n_layers, "num_attention_heads": 2, "hidden_size": 64}
    small |= {"intermediate_size": 256}
    return CLIPConfig(
        vision_config=small | {"patch_size": 56}, text_config=small, projection_dim=32
    )


def _tokenizer() -> Any:
    """OpenAI's tokenizer, whose vocabulary the wheel of open_clip carries."""
    from open_clip.tokenizer import bytes_to_unicode
    from transformers import CLIPTokenizer

    file = resources.files("open_clip") / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = [*bytes_to_unicode().values()]
    words = [*letters, *(f"{item}</w>" for item in letters), *("".join(item) for item in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=merges)
