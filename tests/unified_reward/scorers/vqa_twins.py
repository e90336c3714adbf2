"""A tiny twin of clip-flant5-xxl: shards, configuration and a SentencePiece model as released."""

import hashlib
import io
import json

import torch
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from tests.unified_reward.scorers.equations.flan_t5 import T5, make_clip_flant5


QUESTION = 'Can one see "{}" in it, yes or no?'
"""Made up; the official words are not part of this repository."""
LETTERS = [chr(i) for i in range(33, 127)]
SPARE = 7
"""Rows of the weights beyond the tokenizer, as flan-t5-xxl has 28."""
END = 1


def install_words(home, **others):
    """A pack with made-up words under the official names, by default of VQAScore alone."""
    rows = [
        {
            "name": name,
            "task": "image_generation",
            "form": "score",
            "text": text,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }
        for name, text in {"VQASCORE": QUESTION, **others}.items()
    ]
    pack = home / "packs" / "visionreward.json"
    pack.parent.mkdir(parents=True, exist_ok=True)
    pack.write_text(json.dumps({"schema": 1, "wordings": rows}), "utf-8")


def spiece(file):
    """A SentencePiece model of characters and one word, with T5's control tokens."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(LETTERS)] * 4),
        model_writer=model,
        model_type="char",
        vocab_size=3 + 1 + len(LETTERS) + 1,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        user_defined_symbols=["▁Yes"],
        minloglevel=2,
    )
    file.write_bytes(model.getvalue())


def token_ids(folder, text):
    """A token for every character, ``▁`` before every word, and the end; by hand."""
    made = SentencePieceProcessor(model_file=str(folder / "spiece.model"))
    written = "".join(f"▁{word}" for word in text.split())
    written = written.replace("▁Yes", "\0")
    return [made.piece_to_id("▁Yes" if item == "\0" else item) for item in written] + [END]


def vqascore(folder, seed=25):
    """The files of a twin; its tensors with the aliases that a pickle of T5 holds."""
    folder.mkdir(parents=True, exist_ok=True)
    spiece(folder / "spiece.model")
    n_pieces = len(SentencePieceProcessor(model_file=str(folder / "spiece.model")))
    state = make_clip_flant5(seed, rows=n_pieces + 100 + SPARE)
    state["lm_head.weight"][-SPARE:] *= 8  # beyond the tokenizer: must not count
    state["lm_head.weight"][token_ids(folder, "Yes")] *= 20
    saved = dict(state)
    for alias in ("encoder.embed_tokens", "decoder.embed_tokens", "embed_tokens"):
        saved[f"{alias}.weight"] = state["shared.weight"]
    names = [f"pytorch_model-{i:05d}-of-00002.bin" for i in (1, 2)]
    shards = {name: dict[str, torch.Tensor]() for name in names}
    for i, (name, tensor) in enumerate(saved.items()):
        shards[names[i >= len(saved) // 2]][name] = tensor
    for name, tensors in shards.items():
        torch.save(tensors, folder / name)
    index = {name: shard for shard, tensors in shards.items() for name in tensors}
    row = {"metadata": {"total_size": 0}, "weight_map": index}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(row), "utf-8")
    config = {
        "architectures": ["CLIPT5ForConditionalGeneration"],
        "model_type": "clip_t5",
        **T5,
        "num_decoder_layers": T5["num_layers"],
        "feed_forward_proj": "gated-gelu",
        "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "tie_word_embeddings": False,
        "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": 128,
        "vocab_size": 32128,
    }
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    return state
