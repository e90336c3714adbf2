"""A twin of VisionReward-Image in SAT's layout: one pickle, other names, VQAScore beside it."""

import re

import torch

from tests.unified_reward.scorers import vqa_twins
from tests.unified_reward.scorers.cogvlm_twins import VOCABULARY, WORDS, llama_tokenizer
from tests.unified_reward.scorers.equations.cogvlm import make_cogvlm


FILE = "1/mp_rank_00_model_states.pt"
SIZES = {"tower_width": 112, "tower_layers": 2, "patch": 112, "grid": 12, "expert": True}
"""1344 pixels a side, 36 image tokens."""
QUESTIONS = "\n".join(f" Is it {i}? " for i in range(30))
"""Made up, with blanks around; the official ones are not part of this repository."""
_LLM = {
    "input_layernorm": "transformer.layers.{}.input_layernorm",
    "post_attention_layernorm": "transformer.layers.{}.post_attention_layernorm",
    "self_attn.language_expert_query_key_value": "transformer.layers.{}.attention.query_key_value",
    "self_attn.language_expert_dense": "transformer.layers.{}.attention.dense",
    "self_attn.vision_expert_query_key_value": "mixins.rotary.vision_query_key_value_list.{}",
    "self_attn.vision_expert_dense": "mixins.rotary.vision_dense_list.{}",
    "mlp.language_mlp.up_proj": "transformer.layers.{}.mlp.dense_h_to_4h",
    "mlp.language_mlp.down_proj": "transformer.layers.{}.mlp.dense_4h_to_h",
    "mlp.language_mlp.gate_proj": "mixins.mlp.gate_proj.{}",
    "mlp.vision_mlp.up_proj": "mixins.mlp.vision_dense_h_to_4h_list.{}",
    "mlp.vision_mlp.gate_proj": "mixins.mlp.vision_gate_proj.{}",
    "mlp.vision_mlp.down_proj": "mixins.mlp.vision_dense_4h_to_h_list.{}",
}
_VIT = "mixins.eva.vit_model"
_TOWER = {
    "input_layernorm": "input_layernorm",
    "post_attention_layernorm": "post_attention_layernorm",
    "attention.query_key_value": "attention.query_key_value",
    "attention.dense": "attention.dense",
    "mlp.fc1": "mlp.dense_h_to_4h",
    "mlp.fc2": "mlp.dense_4h_to_h",
}
_WHOLE = {
    "model.embed_tokens.weight": "transformer.word_embeddings.weight",
    "model.norm.weight": "transformer.final_layernorm.weight",
    "lm_head.weight": "mixins.lm.lm_head.weight",
    "model.vision.boi": "mixins.eva.boi",
    "model.vision.eoi": "mixins.eva.eoi",
    "model.vision.patch_embedding.cls_embedding": f"{_VIT}.transformer.word_embeddings.weight",
    "model.vision.patch_embedding.position_embedding.weight": (
        f"{_VIT}.transformer.position_embeddings.weight"
    ),
}


def sat_name(name):
    """Name of a tensor in SAT, given that of the released safetensors of its relatives."""
    if name in _WHOLE:
        return _WHOLE[name]
    stem, _, end = name.rpartition(".")
    if name.startswith("model.layers."):
        _, _, number, part = stem.split(".", 3)
        return f"{_LLM[part].format(number)}.{end}"
    if found := re.fullmatch(r"model\.vision\.transformer\.layers\.(\d+)\.(.*)", stem):
        return f"{_VIT}.transformer.layers.{found[1]}.{_TOWER[found[2]]}.{end}"
    if stem == "model.vision.patch_embedding.proj":
        return f"{_VIT}.mixins.patch_embedding.proj.{end}"
    return name.replace("model.vision.", "mixins.eva.")


def as_sat(state):
    """A state under SAT's names, which has one table of frequencies."""
    kept = {name: x for name, x in state.items() if not name.endswith("rotary_emb.inv_freq")}
    table = state["model.layers.0.self_attn.rotary_emb.inv_freq"]
    return {sat_name(name): x for name, x in kept.items()} | {
        "mixins.rotary.rotary_emb.inv_freq": table
    }


def visionreward_image(folder, seed=1, *, with_vqascore=True, **sizes):
    """The files of a twin: both states, under the names of safetensors and of clip-flant5."""
    state = make_cogvlm(seed, vocabulary=VOCABULARY, **SIZES | sizes)
    head = state["lm_head.weight"]
    head[[256, 258]] *= 200
    head[257] = -head[256]
    (folder / FILE).parent.mkdir(parents=True, exist_ok=True)
    entries = {"module": as_sat(state), "optimizer": None, "global_steps": 1500, "ds_version": "0"}
    torch.save(entries, folder / FILE)
    (folder / "latest").write_text("1")
    (folder / "model_config.json").write_text('{"model_class": "CogVLM2Model"}')
    llama_tokenizer(folder / "tokenizer.json", WORDS)
    inner = vqa_twins.vqascore(folder / "clip-flant5-xxl") if with_vqascore else {}
    return state, inner
