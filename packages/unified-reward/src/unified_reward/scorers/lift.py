"""LiFT-Critic (Wang et al. 2024, arXiv:2412.04814): three questions about a generated video.

A VILA1.5 answers each in words, the first of which is a grade. The folder is that of
Efficient-Large-Model/VILA1.5-13b (``llm``, ``vision_tower``, ``mm_projector``) with
Fudan-FUXI/LiFT-Critic-13b-lora, or -v1.5, in its ``lora``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, LlamaForCausalLM, LogitsProcessorList, SiglipVisionModel

from unified_reward import media
from unified_reward.backends.hf_vlm import FiniteLogits
from unified_reward.checkpoints import tensor_keys
from unified_reward.checkpoints.tensor_keys import MappedTensor, State
from unified_reward.checkpoints.tokenizers import load_tokenizer
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.extensions import extra
from unified_reward.core.samples import Sample, Task, Video
from unified_reward.core.verdicts import Scale, Score, Scored, Unparsed, Verdict
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.card import ScoreCard
from unified_reward.scorers.qwen_vl import worded


_WORDINGS = ("LIFT-SEMANTIC", "LIFT-FIDELITY", "LIFT-MOTION")
_ASPECTS = ("semantic consistency", "fidelity", "motion")
_GRADES = {"Good": 0.9, "Normal": 0.2, "Bad": 0.05}
_SCALE = Scale(0.05, 0.9)
_FRAMES, _SIDE = 8, 384
_LAYER = -2
"""Index of the hidden state of the vision tower that is used."""
_MARK, _END = "<image>", "</s>"
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant "
    "gives helpful, detailed, and polite answers to the user's questions. USER: "
)
"""Begin of a conversation with Vicuna v1, and with LLaVA v1 and its relatives."""
_MARKS = (_MARK, "<image-placeholder>", "<s>", _END, "<unk>")
"""Tokens that the model, or the released code, does not treat as text."""
_FIRST_WORD = re.compile(r"\W*([\w'/|-]+)")
_PARTS = {
    "language model": ("llm/model.safetensors.index.json", "llm/model.safetensors"),
    "vision tower": ("vision_tower/model.safetensors",),
    "projector": ("mm_projector/model.safetensors",),
    "adapter": ("lora/adapter_model.safetensors", "lora/adapter_model.bin"),
    "further weights of the adapter": ("lora/non_lora_trainables.bin",),
}
"""In this order: what comes later replaces what it names again."""
_PEFT = "base_model."
_OWN = re.compile(r"(?!.*\.lora_)(base_model\.|(model\.)?(llm|mm_projector|vision_tower)\.)")
"""Begin of the names in ``non_lora_trainables.bin``."""
_KINDS = {
    "llm": ("model_type", "llama"),
    "vision_tower": ("model_type", "siglip_vision_model"),
    "mm_projector": ("mm_projector_type", "mlp_downsample"),
}
"""Later projectors have the same names and shapes, and another order of tokens."""
_RENAMES = (
    (r"^base_model\.(model\.)?", ""),
    (r"^model\.(?=(llm|mm_projector|vision_tower)\.)", ""),
    (r"^(vision_tower\.)*vision_model\.", "vision_tower."),
    (r"^(?=model\.|lm_head\.)", "llm."),
    (r"^layers\.", "mm_projector.layers."),
    (r"\.lora_([AB])\.weight$", r".lora_\1.default.weight"),
)


class Critic(nn.Module):
    """A VILA1.5: a vision tower, a projector that makes one token of four patches, a Llama."""

    def __init__(self, llm: Any, tower: Any) -> None:
        super().__init__()
        seen, width = 4 * tower.hidden_size, llm.hidden_size
        inner = nn.Linear(seen, width), nn.GELU(), nn.Linear(width, width)
        layers = nn.Sequential(nn.Identity(), nn.LayerNorm(seen), *inner)
        self.llm: Any = LlamaForCausalLM(llm)
        self.vision_tower = SiglipVisionModel(tower)
        self.mm_projector = nn.ModuleDict({"layers": layers})

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens of frames, shape (n, tokens, width)."""
        states = self.vision_tower(pixels, output_hidden_states=True).hidden_states
        return self.mm_projector["layers"](squares(states[_LAYER]))


class LiFTCritic(Scorer):
    """Grades by the first word of three answers, and their mean."""

    card = ScoreCard(
        name="lift-critic-13b",
        system="LiFT-Critic 13B",
        tasks=(Task.VIDEO_GENERATION,),
        paper="2412.04814",
        weights=("Efficient-Large-Model/VILA1.5-13b with Fudan-FUXI/LiFT-Critic-13b-lora as lora",),
        values="Good 0.9, Normal 0.2, Bad 0.05, as the authors' process_reward_score.py has it",
        aspects=_ASPECTS,
        overall="the mean of the three, by the same script",
        scale=_SCALE,
        frames="8, evenly from first to last, positions cut off",
        wording=_WORDINGS,
        code_licence="none stated: treat as non-commercial",
        weights_licence="none stated: treat as non-commercial, as VILA1.5's are",
        deviations=(
            "the likeliest token each time; the released code samples at temperature 0.2",
            "an answer that begins with no grade is unreadable; the authors' script looks for "
            "Normal, then Bad, anywhere, else takes Good: the verdict says where that differs",
            "the mean is not rounded to two decimals",
            "frames by PyAV, not OpenCV; a video of fewer than 8 shows some twice (fewer in the "
            "released code), and one that cannot be read fails (black frames)",
            "bfloat16 off a CPU, unless another dtype is given; released in float16",
        ),
        verified=(
            "tokens of a tiny twin in the released layout, seen and said, by float64 equations",
            "frame indices, pixels and the text before tokenising against golden values",
            "token ids against transformers 4.45.2's slow tokenizer, doubled blanks included",
        ),
        open_questions=(
            "whether the authors' two demo videos get Good Bad Good and Bad Bad Normal",
            "whether the adapter's tensors are named with llm. or without: both are read",
            "non_lora_trainables.bin: names that begin with base_model.model., as PEFT writes "
            "them, fit nothing in the released loader, which passes over them; so here, though "
            "they may be a trained projector. `scorers check` counts them",
        ),
    )
    weights: ClassVar = tuple(name for names in _PARTS.values() for name in names)
    needed: ClassVar = {
        **_PARTS,
        **{f"configuration of {part}": (f"{part}/config.json",) for part in _KINDS},
        "configuration of the adapter": ("lora/adapter_config.json",),
        "tokenizer": ("llm/tokenizer.json", "llm/tokenizer.model"),
    }
    ignored: ClassVar = {
        r"vision_model\.head\..*": "pools what is not read",
        r".*\.rotary_emb\.inv_freq|vision_model\.embeddings\.position_ids": "counted anew",
        rf"{_OWN.pattern}.*": "passed over by the released loader too",
    }
    max_new_tokens: ClassVar[int] = 512

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self.tokenizer: Any = _tokenizer(folder / "llm")

    @classmethod
    def files(cls, folder: Path) -> list[Path]:
        """Weight files of every part in a folder."""
        return [
            file for names in _PARTS.values() for file in tensor_keys.weight_files(folder, names)
        ]

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """A model of the sizes in each ``config.json``; another tokenizer is refused."""
        for part, (key, wanted) in _KINDS.items():
            file = folder / part / "config.json"
            if (kind := tensor_keys.read_json(file).get(key)) != wanted:
                raise ModelError(f"{file} is of a {kind}; LiFT-Critic 13B has a {wanted}")
        llm: Any = AutoConfig.from_pretrained(
            folder / "llm", local_files_only=True, trust_remote_code=False
        )
        llm.vocab_size = rows = tensor_keys.shape(state, "model.embed_tokens.weight")[0]
        tower: Any = AutoConfig.from_pretrained(
            folder / "vision_tower", local_files_only=True, trust_remote_code=False
        )
        tower.vision_use_head = False
        tokenizer = _tokenizer(folder / "llm")
        known, ends = len(tokenizer), (tokenizer.bos_token_id, tokenizer.eos_token_id)
        if None in ends or known > rows:
            raise ModelError(
                f"{folder}/llm has the tokenizer of other weights: {known} tokens, begin and end "
                f"{ends}; these weights know {rows}"
            )
        return Critic(llm, tower)

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """The three parts as one, their replacements in place, adapters merged."""
        tensors: dict[str, MappedTensor] = {}
        passed = passed_over(state)
        yield from (MappedTensor(name, state[name], (name,)) for name in passed)
        taken = {name: value for name, value in state.items() if name not in passed}
        for target, value, sources in tensor_keys.rename_keys(taken, _RENAMES):
            replaced = tensors[target].sources if target in tensors else ()
            tensors[target] = MappedTensor(target, value, replaced + sources)
        adapted = {name.partition(".lora_")[0] for name in tensors if ".lora_" in name}
        beside = {f"{stem}.weight": f"{stem}.base_layer.weight" for stem in adapted}
        pieces = [piece._replace(target=beside.get(name, name)) for name, piece in tensors.items()]
        scale = _adapter_scale(tensors, adapted, folder / "lora")
        yield from tensor_keys.merge_lora(pieces, scale)

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """Frames made square by PIL; three conversations, ``</s>`` between them."""
        video = sample.candidates[0]
        if not isinstance(video, Video):
            raise DataError(f"a video was expected, not a {type(video).__name__}")
        turns = [conversation(sample.prompt + worded(name, "")) for name in _WORDINGS]
        for mark in _MARKS:
            if mark in sample.prompt:
                raise DataError(f"the caption holds {mark!r}, which is not read as text")
        frames = media.sample_frames(video, _FRAMES)
        pixels = torch.stack([fitted(frame) for frame in frames.images()])
        note = f"the video has {frames.n_source} frames; some shown twice"
        return Prepared(_END.join(turns), pixels, notes=(note,) if frames.n_repeated else ())

    def answers(self, batch: Sequence[Prepared]) -> list[tuple[str, ...]]:
        """Answers to each question about each video; one video a pass."""
        ids = [self.generated(video).tolist() for video in batch]
        texts = [self.tokenizer.batch_decode(rows, skip_special_tokens=True) for rows in ids]
        return [tuple(text.strip() for text in rows) for rows in texts]

    def generated(self, video: Prepared) -> Tensor:
        """Token ids of the answers, shape (questions, tokens), end tokens behind each.

        Raises:
            ValueError: The caption is too long for the model, or a logit is not a number.
        """
        frames = self.module(video.pixels.to(self.device, self.dtype))
        rows = [self._embedded(one, frames) for one in video.text.split(_END)]
        longest, most = max(map(len, rows)), self.module.llm.config.max_position_embeddings
        if longest + self.max_new_tokens > most:
            raise ValueError(
                f"{longest} tokens and an answer of {self.max_new_tokens} are more than the "
                f"{most} that it reads; shorten the caption"
            )
        ones = [torch.ones(len(row), dtype=torch.long, device=self.device) for row in rows]
        return self.module.llm.generate(
            inputs_embeds=pad_sequence(rows, batch_first=True, padding_side="left"),
            attention_mask=pad_sequence(ones, batch_first=True, padding_side="left"),
            do_sample=False,
            max_new_tokens=self.max_new_tokens,
            logits_processor=LogitsProcessorList([FiniteLogits()]),
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.eos_token_id,
        )

    def _embedded(self, prompt: str, frames: Tensor) -> Tensor:
        """A conversation as embeddings; texts between frames are tokenised each by itself."""
        texts = prompt.split(_MARK)
        ids = [self.tokenizer(text, add_special_tokens=False).input_ids for text in texts]
        ids[0] = [self.tokenizer.bos_token_id, *ids[0]]
        embed = self.module.llm.get_input_embeddings()
        first, *others = (embed(torch.tensor(one, device=self.device)) for one in ids)
        pairs = zip(frames, others, strict=True)
        return torch.cat([first, *(part for pair in pairs for part in pair)])

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Values of the grades, shape (B, 3); not a number where an answer has none."""
        rows = self.answers(batch)
        return torch.tensor([[_GRADES.get(grade(x), math.nan) for x in row] for row in rows])

    def decode(self, raw: Sequence[float]) -> Scored:
        """Three aspects and their mean."""
        aspects = {name: Score(one, _SCALE) for name, one in zip(_ASPECTS, raw, strict=True)}
        return Scored(Score(math.fsum(raw) / len(raw), _SCALE), aspects)

    @torch.inference_mode()
    def _forward_batch(self, batch: list[Prepared]) -> list[Verdict]:
        pairs = zip(self.answers(batch), batch, strict=True)
        return [self.judged(answers, self.notes(prepared)) for answers, prepared in pairs]

    def judged(self, answers: Sequence[str], notes: Sequence[str] = ()) -> Scored | Unparsed:
        """Three answers as a verdict, with their words in its text."""
        by_aspect = dict(zip(_ASPECTS, answers, strict=True))
        lines = [f"{name}: {answer}" for name, answer in by_aspect.items()]
        for name, answer in by_aspect.items():
            if (other := anywhere(answer)) != grade(answer):
                lines.append(f"of {name} the authors' script would read {other}")
        text = "\n".join([*lines, *notes])
        lost = [name for name, answer in by_aspect.items() if not grade(answer)]
        if lost:
            begin = f"begins with none of {', '.join(_GRADES)}"
            return Unparsed(f"the answer about {' and about '.join(lost)} {begin}", text)
        return replace(self.decode([_GRADES[grade(one)] for one in answers]), text=text)


def conversation(question: str) -> str:
    """One turn of Vicuna v1 about eight frames."""
    return VICUNA + f"{_MARK}\n" * _FRAMES + f"{question} ASSISTANT:"


def fitted(frame: media.PILImage) -> Tensor:
    """A frame squeezed to 384 x 384 (bicubic), values from -1 to 1, shape (3, 384, 384)."""
    square = frame.resize((_SIDE, _SIDE), PIL.Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(square, np.float32)).permute(2, 0, 1)
    return (pixels / 255 - 0.5) / 0.5


def squares(patches: Tensor) -> Tensor:
    """Patches of a square grid as squares of four, column by column (later VILAs: row by row).

    Args:
        patches: Row by row, shape (n, side * side, channels). An odd side gets one more row and
            column, of zeros.

    Returns:
        In each square its upper row first; shape (n, ceil(side / 2) ** 2, 4 * channels).

    >>> squares(torch.arange(16.0)[None, :, None])[0, 1].tolist()
    [8.0, 9.0, 12.0, 13.0]
    """
    side = math.isqrt(patches.shape[1])
    grid = patches.unflatten(1, (side, side))
    grid = functional.pad(grid, (0, 0, 0, side % 2, 0, side % 2))
    fours = grid.unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # n, row, upper or lower, column, …
    return fours.permute(0, 3, 1, 2, 4, 5).flatten(3).flatten(1, 2)


def grade(answer: str) -> str:
    """The grade that an answer begins with; empty where it begins with none.

    >>> grade("**bad**, as the hand ..."), grade("Good/Bad")
    ('Bad', '')
    """
    found = _FIRST_WORD.match(answer)
    word = found[1].strip("_'/|-").capitalize() if found else ""
    return word if word in _GRADES else ""


def anywhere(answer: str) -> str:
    """The grade as the authors' script finds it."""
    return next((one for one in ("Normal", "Bad") if one in answer), "Good")


def passed_over(names: Iterable[str]) -> set[str]:
    """Further weights of an adapter that fit nothing in the released loader.

    It strips ``base_model.`` and, where some name then begins with ``model.model.``, ``model.``.

    >>> sorted(passed_over(["base_model.model.mm_projector.x", "base_model.mm_projector.y"]))
    ['base_model.model.mm_projector.x']
    """
    own = {name: name.removeprefix(_PEFT) for name in names if _OWN.match(name)}
    if any(name.startswith("model.model.") for name in own.values()):
        own = {name: short.removeprefix("model.") for name, short in own.items()}
    parts = tuple(f"{part}." for part in _KINDS)
    return {name for name, short in own.items() if not short.startswith(parts)}


def _tokenizer(folder: Path) -> Any:
    """That of SentencePiece, as released, or of ``tokenizer.json`` where it is alone."""
    file = folder / "tokenizer.model"
    if file.is_file():
        with extra("local"):
            from unified_reward.checkpoints.pieces import LlamaPieces
        return LlamaPieces(file)
    return load_tokenizer(folder)


def _adapter_scale(tensors: dict[str, MappedTensor], adapted: set[str], folder: Path) -> float:
    """Scale of an adapter; one that does not cover all modules it names is refused."""
    config = tensor_keys.read_json(file := folder / "adapter_config.json")
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not (rank and alpha) or config.get("rank_pattern") or config.get("alpha_pattern"):
        raise ModelError(f"{file} names no r and lora_alpha that hold for all modules")
    ends = tuple(f".{name}.weight" for name in config.get("target_modules") or ())
    named = {name.removesuffix(".weight") for name in tensors if name.endswith(ends)}
    lost = sorted(name for name in named - adapted if name.startswith("llm."))
    if lost or not adapted:
        raise ModelError(f"{folder} lacks adapters, as of {lost[0] if lost else 'any module'}")
    for name, (_, low, sources) in tensors.items():
        if ".lora_A." in name and low.shape[0] != rank:
            raise ModelError(f"{sources[0]} has rank {low.shape[0]}, but {file} says {rank}")
    return tensor_keys.lora_scale(rank, alpha, stabilised=bool(config.get("use_rslora")))
