"""Table of docs/reference/architectures.md: each cell is measured on a random tiny checkpoint.

``python -m tests.architectures.table`` writes it anew.
"""

import copy
import json
import sys
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import PIL.Image
import torch

from tests.architectures import ARCHITECTURES
from unified_reward.backends.choices import score_tails
from unified_reward.backends.hf_vlm import load_vlm
from unified_reward.backends.value_head import ValueHead, ValueHeadModel, width_of
from unified_reward.core.errors import ModelError
from unified_reward.core.requests import Request
from unified_reward.train.dpo_vlm import VLMDPO, align_vlm
from unified_reward.train.optim import OptimConfig
from unified_reward.train.padding import choose_padding
from unified_reward.train.sft import ChatExample, fit


PAGE = Path(__file__).parents[2] / "docs" / "reference" / "architectures.md"
COLUMNS = (
    *("architecture", "published models", "judge", "value head", "SFT", "DPO"),
    *("images", "batches", "choices", "prefixes", "float32", "bfloat16"),
)
PUBLISHED = {
    "qwen2_5_vl": "Qwen2.5-VL, UnifiedReward-qwen, -Think-qwen, -2.0-qwen",
    "qwen3_vl": "Qwen3-VL, UnifiedReward-2.0-qwen3vl",
    "llava_onevision": "LLaVA-OneVision, LLaVA-Critic, UnifiedReward-7b",
    "aya_vision": "Aya Vision",
    "cohere2_vision": "Command A Vision",
    "ernie4_5_vl_moe": "ERNIE 4.5 VL",
    "kimi_k25": "Kimi K2.5, K2.6",
    "gemma3": "Gemma 3",
    "gemma4": "Gemma 4 with inputs of each layer (E2B)",
    "gemma4_moe": "Gemma 4 with experts",
    "glm4v": "GLM-4.1V",
    "glm46v": "GLM-4.6V-Flash",
    "glm4v_moe": "GLM-4.5V",
    "minicpmv4_6": "MiniCPM-V 4.6",
    "lfm2_vl": "LFM2-VL",
    "internvl": "InternVL 3, 3.5 (the `-hf` folders)",
    "llava": "LLaVA 1.5",
    "llava_next": "LLaVA 1.6 (LLaVA-NeXT)",
    "llava_pixtral": "Pixtral 12B",
    "mllama": "Llama 3.2 Vision",
    "mistral3": "Mistral Small 3.1, 3.2",
    "qwen2_vl": "Qwen2-VL",
    "qwen3_vl_moe": "Qwen3-VL-30B-A3B, -235B-A22B",
    "qwen3_5": "Qwen3.5, UnifiedReward-2.0-qwen35",
    "qwen3_5_moe": "Qwen3.5-35B-A3B",
    "hunyuan_vl": "HunyuanOCR",
    "idefics2": "Idefics2",
    "idefics3": "Idefics3",
    "smolvlm": "SmolVLM, SmolVLM2",
    "molmo2": "Molmo2",
    "ovis2": "Ovis2 (the `-hf` folders)",
    "perception_lm": "Perception-LM",
}
BOUNDS = ((1e-5, 1e-4), (1e-2, 2e-2))
"""Differences in float32 and in bfloat16 are rounded up to one of these, so that another processor
gives the same table."""
_OPTIM = OptimConfig(steps=1, batch_size=2, accumulate=1, lr=1e-3, warmup=0.0)


def row(name, models, out):
    """Cells of an architecture.

    Args:
        name: Its name in `ARCHITECTURES`.
        models: Its random tiny checkpoint in float32 and in bfloat16.
        out: An empty folder.
    """
    model = models[0]
    cells = [_title(name, model), PUBLISHED[name], _judges(model), _values(model)]
    trained = [_fine_tunes(model, out), _aligns(model.name, out)]
    ways = [_joined(pair) for pair in zip(*map(_ways, models), strict=True)]
    tested = [_bound(model.ways, bounds) for model, bounds in zip(models, BOUNDS, strict=True)]
    return dict(zip(COLUMNS, [*cells, *trained, *ways, *tested], strict=True))


def _cell(check):
    """Turn a check into a cell; what is refused is a ``no``."""

    @wraps(check)
    def measure(*arguments):
        try:
            return "yes" if check(*arguments) else "wrong"
        except ModelError:
            return "no"

    return measure


def _title(name, model):
    kind = model.model.config.model_type
    variant = name.removeprefix(kind).strip("_")
    return f"`{kind}`, {variant}" if variant else f"`{kind}`"


def _ways(model):
    described = model.ways.describe()
    images = "once" if described["images"] == "encoded once" else "each time"
    end = "" if described["prefixes_end"] == "anywhere" else f" {described['prefixes_end']}"
    return images, described["batches"], described["choices"], described["prefixes"] + end


def _joined(pair):
    return pair[0] if pair[0] == pair[1] else " / ".join(pair)


def _bound(ways, bounds):
    """Upper bound of the differences of the ways in use."""
    used = {
        "padding": ways.padding,
        "batches": ways.batches != "of one",
        "features": ways.images == "encoded once",
        ways.choices: True,
    }
    found = [
        value
        for name, value in ways.differences.items()
        if (used.get(name.partition(" ")[0].strip(",")) and isinstance(value, float))
        or name.startswith(f"prefixes, {ways.prefixes}, {ways.prefixes_end},")
    ]
    worst = max(found, default=0.0)
    return f"{min(bound for bound in bounds if worst <= bound):.0e}".replace("e-0", "e-")


def _image(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels)


_TURNS = [
    ChatExample(Request((_image(0), "rate picture")), "a red circle"),
    ChatExample(Request((_image(1), "rate picture: which colour is it?")), "first"),
]


@_cell
def _judges(model):
    """Score choices, and choices behind generated text."""
    image, choices = _image(2), ("1", "10", "second tie")
    queries = [
        Request((image, "rate"), choices),
        Request((image, "first or", image, "second?"), choices),
        Request((image, "rate"), max_new_tokens=4),
    ]
    answers = model.generate(queries)
    return [len(answer.choice_logprobs or ()) for answer in answers] == [3, 3, 0]


@_cell
def _values(model):
    """Values of requests in a batch are those of each alone."""
    torch.manual_seed(0)
    scorer = ValueHeadModel(model, ValueHead(width_of(model), 1, uncertain=False))
    requests = [turn.request for turn in _TURNS]
    together = scorer.values(requests)
    alone = [scorer.values([request])[0] for request in requests]
    return np.allclose([v.means for v in together], [v.means for v in alone], rtol=0, atol=1e-4)


@_cell
def _fine_tunes(model, out):
    """The first loss of training is that of the answers as the judge reads them."""
    tails = [model.chat.closed(turn.answer) for turn in _TURNS]
    with torch.inference_mode():
        scored = score_tails(
            model, [(turn.request, ()) for turn in _TURNS], [[tail] for tail in tails], "whole"
        )
    wanted = -sum(sums[0] for sums in scored) / sum(map(len, tails))
    own = model.chat.padding_side
    try:
        choose_padding(model.model, model.chat)
        _, losses = fit(copy.deepcopy(model.model), model.chat, _TURNS, _OPTIM, out / "sft")
    finally:
        model.chat.padding_side = own
    return abs(losses[0][1] - wanted) < 1e-3


@_cell
def _aligns(folder, out):
    """The first loss of alignment is the logarithm of 2."""
    _image(0).save(out / "a.png")
    pair = {
        "id": "p",
        "status": "kept",
        "task": "image_understanding",
        "prompt": "rate picture",
        "context": [{"image": "a.png"}],
        "chosen": {"text": "a red circle"},
        "rejected": {"text": "first"},
    }
    path = out / "pairs.jsonl"
    path.write_text(json.dumps(pair) + "\n")
    report = align_vlm(folder, path, VLMDPO(_OPTIM), out / "dpo", lambda _: None)
    return abs(report["losses"][0][1] - np.log(2)) < 1e-5


def read():
    """Cells of the page by the title of their architecture."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in _table()]
    return {cells[0]: dict(zip(rows[0], cells, strict=True)) for cells in rows[2:]}


def _table():
    """Lines of the page's first table."""
    lines = PAGE.read_text("utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    return lines[start : lines.index("", start)]


def write(rows):
    """Put rows in place of those of the page."""
    made = [COLUMNS, ["---"] * len(COLUMNS), *([cells[name] for name in COLUMNS] for cells in rows)]
    table = [f"| {' | '.join(cells)} |" for cells in made]
    before, after = PAGE.read_text("utf-8").split("\n".join(_table()), 1)
    PAGE.write_text(before + "\n".join(table) + after, "utf-8")


def main(names):
    rows = []
    for name in names or ARCHITECTURES:
        with TemporaryDirectory() as root:
            folder = ARCHITECTURES[name](Path(root) / name)
            models = [
                load_vlm(folder, device="cpu", dtype=dtype) for dtype in ("float32", "bfloat16")
            ]
            rows.append(row(name, models, Path(root)))
        sys.stderr.write(f"{rows[-1]}\n")
    if not names:
        write(rows)


if __name__ == "__main__":
    main(sys.argv[1:])
