"""VisionReward-Image (Xu et al. 2024, arXiv:2412.21059): 30 weighted questions about an image.

A CogVLM2 with a visual expert answers them, VQAScore answers one about the caption. The folder is
that of THUDM/VisionReward-Image, its parts joined and unpacked, in SAT's layout (one file, other
names), with ``tokenizer.json`` of Llama 3 and with VQAScore's folder as ``clip-flant5-xxl``. The
image stands before each question and is computed once for all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import PIL.Image
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from unified_reward import media
from unified_reward.checkpoints.tensor_keys import (
    MappedTensor,
    State,
    depth,
    rename_keys,
    weight_files,
)
from unified_reward.core.errors import DataError, ModelError
from unified_reward.core.paths import is_file, is_folder
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Scale, Score, Scored, Unparsed
from unified_reward.scorers import open_facts
from unified_reward.scorers.base import Prepared, Scorer
from unified_reward.scorers.card import Fact, ScoreCard
from unified_reward.scorers.checklists import (
    ALIGNED,
    IMAGE_SCALE,
    IMAGE_WEIGHTS,
    Checklist,
    visionreward,
)
from unified_reward.scorers.cogvlm import CogVLM, expert_mask, positions, sizes
from unified_reward.scorers.images import normalised
from unified_reward.scorers.visionreward_video import check_tokenizer, yes_no_tokens
from unified_reward.scorers.vqascore import CHANCE, VQAScore


SIDE = 1344
N_QUESTIONS = 30
_FIRST = "<|begin_of_text|>"
_VQA = "clip-flant5-xxl"
_WITHOUT = "visionreward-image-without-vqascore"
_FREQUENCIES = "mixins.rotary.rotary_emb.inv_freq"
_TOWER, _LLM = "model.vision.transformer.layers.", "model.layers."
_RENAMES = (
    (r"^transformer\.word_embeddings\.", "model.embed_tokens."),
    (r"^transformer\.final_layernorm\.", "model.norm."),
    (r"^mixins\.lm\.lm_head\.", "lm_head."),
    (r"^transformer\.layers\.", _LLM),
    (r"^(model\.layers\.\d+)\.attention\.", r"\1.self_attn.language_expert_"),
    (r"^(model\.layers\.\d+)\.mlp\.dense_h_to_4h\.", r"\1.mlp.language_mlp.up_proj."),
    (r"^(model\.layers\.\d+)\.mlp\.dense_4h_to_h\.", r"\1.mlp.language_mlp.down_proj."),
    (r"^mixins\.mlp\.gate_proj\.(\d+)", _LLM + r"\1.mlp.language_mlp.gate_proj"),
    (r"^mixins\.mlp\.vision_gate_proj\.(\d+)", _LLM + r"\1.mlp.vision_mlp.gate_proj"),
    (r"^mixins\.mlp\.vision_dense_h_to_4h_list\.(\d+)", _LLM + r"\1.mlp.vision_mlp.up_proj"),
    (r"^mixins\.mlp\.vision_dense_4h_to_h_list\.(\d+)", _LLM + r"\1.mlp.vision_mlp.down_proj"),
    (
        r"^mixins\.rotary\.vision_(query_key_value|dense)_list\.(\d+)",
        _LLM + r"\2.self_attn.vision_expert_\1",
    ),
    (
        r"^mixins\.eva\.vit_model\.transformer\.word_embeddings\.weight$",
        "model.vision.patch_embedding.cls_embedding",
    ),
    (
        r"^mixins\.eva\.vit_model\.transformer\.position_embeddings\.",
        "model.vision.patch_embedding.position_embedding.",
    ),
    (r"^mixins\.eva\.vit_model\.mixins\.patch_embedding\.", "model.vision.patch_embedding."),
    (r"^mixins\.eva\.vit_model\.transformer\.layers\.", _TOWER),
    (r"^(model\.vision\.transformer\.layers\.\d+\.mlp)\.dense_h_to_4h\.", r"\1.fc1."),
    (r"^(model\.vision\.transformer\.layers\.\d+\.mlp)\.dense_4h_to_h\.", r"\1.fc2."),
    (r"^mixins\.eva\.(boi|eoi|conv|linear_proj)\b", r"model.vision.\1"),
)


@dataclass(frozen=True)
class _PreparedImage(Prepared):
    aligned: Prepared | None = None
    """Input of VQAScore."""


class _Models(nn.Module):
    """The model that answers, and VQAScore where its weights are there."""

    def __init__(self, cogvlm: nn.Module, vqascore: nn.Module | None) -> None:
        super().__init__()
        self.cogvlm = cogvlm
        self.vqascore = vqascore


class VisionRewardImage(Scorer):
    """The first token behind each question is read; VQAScore is the 28th term."""

    card = ScoreCard(
        name="visionreward-image",
        system="VisionReward-Image",
        tasks=(Task.IMAGE_GENERATION,),
        paper="2412.21059",
        weights=(
            "THUDM/VisionReward-Image or -Image-bf16, its parts joined and unpacked, with "
            "tokenizer.json of THUDM/VisionReward-Video",
            f"zhiqiulin/clip-flant5-xxl as {_VQA} within",
        ),
        values="weighted answers to 30 questions and VQAScore, -2.537 to 4.891",
        overall="28 published weights, by the authors; the first is VQAScore's",
        scale=IMAGE_SCALE,
        constants={"weight of VQAScore": ALIGNED},
        wording=("VISIONREWARD-IMAGE", "VQASCORE"),
        code_licence="Apache-2.0",
        weights_licence="CogVLM2 and Llama 3; VQAScore Apache-2.0",
        deviations=(
            "yes and no count in any spelling of their first token, where the released code counts "
            "`yes` alone and all else as no; its value stands in the notes",
            "an answer that is neither leaves the candidate unparsed",
            "30 answers of no leave the candidate unparsed: a tokenizer of Llama 3 Instruct, which "
            "ends answers at another token, makes the released code read every answer as no, and "
            "scores are 2.354 * VQAScore - 2.162",
            "transparency is laid on white, and an image is turned as its EXIF says",
        ),
        verified=(
            "names and shapes of 1190 tensors, 19,503,105,344 numbers, as the size of the released "
            "parts has it",
            "logits and scores of a tiny twin in SAT's layout, against float64 equations",
            "pixels, positions and texts against golden values",
        ),
        open_questions=(
            "names of the tensors, which are from the code: no file was seen; others are refused",
            "a published score",
        ),
    )
    weights = open_facts.SAT_FILES
    needed: ClassVar = {
        "tokenizer of Llama 3": ("tokenizer.json",),
        f"VQAScore, the 28th term; {_WITHOUT} leaves it out": tuple(
            f"{_VQA}/{name}" for name in VQAScore.weights
        ),
        "tokenizer of VQAScore": (f"{_VQA}/spiece.model",),
        "configuration of VQAScore": (f"{_VQA}/config.json",),
    }
    ignored: ClassVar = VQAScore.ignored
    with_vqascore: ClassVar[bool] = True

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        self.tokenizer: Tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.no_truncation()  # a file may ask for either
        self.tokenizer.no_padding()
        self._first: Any = self.tokenizer.token_to_id(_FIRST)
        self._answers = yes_no_tokens(self.tokenizer)
        self._vqascore: VQAScore | None = None
        if self.with_vqascore:
            inner = self.module.vqascore
            self._vqascore = VQAScore(inner, folder / _VQA, batch_size=batch_size)

    @classmethod
    def files(cls, folder: Path) -> list[Path]:
        """The file of SAT, and those of VQAScore.

        Raises:
            ModelError: The parts of the release are not joined, or not unpacked.
        """
        found = weight_files(folder, cls.weights)
        if not found:
            _refuse_parts(folder)
        inner = VQAScore.files(folder / _VQA) if found and cls.with_vqascore else []
        return [*found, *inner]

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """Both models as large as their tensors."""
        own, inner = _split(state)
        size = sizes({piece.target: piece.value for piece in _renamed(own)})
        if not size.has_expert:
            raise ModelError(
                f"{folder} holds a CogVLM2 without a visual expert; VisionReward-Image has one"
            )
        if size.tower.side != SIDE:
            raise ModelError(
                f"images of {size.tower.side} pixels a side; VisionReward-Image has {SIDE}"
            )
        if is_file(file := folder / "tokenizer.json"):
            words = Tokenizer.from_file(str(file))
            check_tokenizer(words, size, folder)
            if words.token_to_id(_FIRST) is None:
                raise ModelError(f"{file} has no {_FIRST}; it is not Llama 3's")
        has_vqascore = cls.with_vqascore and bool(inner)
        vqascore = VQAScore.skeleton(inner, folder / _VQA) if has_vqascore else None
        return _Models(CogVLM(size), vqascore)

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """SAT's names as those of the module; the one table of frequencies for every layer."""
        own, inner = _split(state)
        for piece in _renamed(own):
            yield piece._replace(target=f"cogvlm.{piece.target}")
        for piece in VQAScore.translate(inner, folder / _VQA):
            yield piece._replace(target=f"vqascore.{piece.target}")

    @classmethod
    def facts(cls, folder: Path) -> list[Fact]:
        """Open questions that the files of a folder answer."""
        inner = open_facts.vqascore(folder / _VQA) if cls.with_vqascore else []
        return [*open_facts.visionreward_image(folder), *inner]

    @classmethod
    def prepare(cls, sample: Sample) -> Prepared:
        """The image squeezed to 1344 x 1344; the caption is VQAScore's alone."""
        medium = sample.candidates[0]
        if not isinstance(medium, Image):
            raise DataError(f"an image was expected, not a {type(medium).__name__}")
        visionreward(cls.card)
        aligned = VQAScore.prepare(sample) if cls.with_vqascore else None
        return _PreparedImage(sample.prompt, fitted(media.open_image(medium)), aligned=aligned)

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """First token of each answer, then VQAScore, shape (B, 31); NaN where a logit is none."""
        rows: list[Tensor] = []
        for prepared in batch:
            logits = self.logits(prepared)
            is_finite = logits.isfinite().all(-1)
            rows.append(logits.argmax(-1).double().masked_fill(~is_finite, float("nan")))
        answers = torch.stack(rows)
        if self._vqascore is None:
            return answers
        inner = [one.aligned for one in batch if isinstance(one, _PreparedImage) and one.aligned]
        return torch.cat([answers, self._vqascore.forward(inner).double()], dim=1)

    def logits(self, prepared: Prepared) -> Tensor:
        """Logits behind each question about one image, shape (30, vocabulary)."""
        module: CogVLM = self.module.cogvlm
        (image,) = module.visual_tokens(prepared.pixels[None].to(self.device, self.dtype))
        n = len(image) - 2
        places = [0, *positions(1, n)]
        tokens = torch.cat([module.embed([self._first]), image])
        prefix = module.encode(tokens, places, [False, *expert_mask(n)])
        questions = [self._ids(text) for text in worded(self._checklist)]
        return module.last_logits(prefix, questions, places[-1] + 1)

    def decode(self, raw: Sequence[float]) -> Scored | Unparsed:
        """Every answer as an aspect, 1 for yes; unparsed if they cannot be those of the model."""
        tokens = [int(one) for one in raw[:N_QUESTIONS]]
        spelled = [self.tokenizer.decode([token]) for token in tokens]
        answers = [self._answers.get(token) for token in tokens]
        unread = [word for word, one in zip(spelled, answers, strict=True) if one is None]
        if unread:
            reason = f"{len(unread)} of {N_QUESTIONS} answers are neither yes nor no"
            return Unparsed(reason, unread[0])
        if not any(answers):
            return Unparsed(
                f"all {N_QUESTIONS} answers are no: the score would be {ALIGNED:.4g} * VQAScore - "
                "2.162, a line that a wrong tokenizer or wrong weights give for every image",
                ", ".join(spelled),
            )
        aligned = min(raw[N_QUESTIONS], 1.0) if self.with_vqascore else 0.0
        chances = [*(float(bool(one)) for one in answers), aligned]
        strict = [*(float(word.strip() == "yes") for word in spelled), aligned]
        checklist = self._checklist
        names = [question.text for question in checklist.questions[:N_QUESTIONS]]
        aspects = {
            name: Score(one, CHANCE) for name, one in zip(names, chances[:N_QUESTIONS], strict=True)
        }
        if self.with_vqascore:
            aspects["VQAScore"] = Score(aligned, CHANCE)
        words = ", ".join(f"{spelled.count(word)} {word!r}" for word in sorted({*spelled}))
        note = f"answers {words}; as the released code counts: {checklist.score(strict):.10g}"
        if not self.with_vqascore:
            note += "; without VQAScore, the 28th term: not the published score"
        return Scored(Score(checklist.score(chances), self.card.scale), aspects, note)

    @property
    def _checklist(self) -> Checklist:
        return visionreward(self.card)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False).ids


class WithoutVQAScore(VisionRewardImage):
    """VisionReward-Image where VQAScore's weights are not there: 27 of its 28 terms."""

    card = replace(
        VisionRewardImage.card,
        name=_WITHOUT,
        system="VisionReward-Image without VQAScore",
        weights=VisionRewardImage.card.weights[:1],
        values="weighted answers to 30 questions, -2.537 to 2.537; not the published score, of "
        "which VQAScore is the largest term; every verdict says so",
        overall="27 of the 28 published weights",
        scale=Scale(-sum(IMAGE_WEIGHTS), sum(IMAGE_WEIGHTS)),
        constants={},
        wording=VisionRewardImage.card.wording[:1],
        deviations=(
            "VQAScore, with the caption, is left out",
            *VisionRewardImage.card.deviations,
        ),
    )
    needed: ClassVar = {"tokenizer of Llama 3": ("tokenizer.json",)}
    ignored: ClassVar = {}
    with_vqascore = False


def worded(checklist: Checklist) -> list[str]:
    """Texts behind the image."""
    return [f"Question: {one.text} Short answer:" for one in checklist.questions[:N_QUESTIONS]]


def fitted(image: media.PILImage) -> Tensor:
    """An image squeezed to 1344 x 1344 by PIL's bicubic, normalised."""
    square = image.resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC)
    return normalised(tv.to_dtype(tv.to_image(square), torch.float32, scale=True))


def _split(state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """Tensors of SAT, and those of VQAScore."""
    names = [name for name in state if name.startswith(("transformer.", "mixins."))]
    own = {name: state[name] for name in names}
    return own, {name: value for name, value in state.items() if name not in own}


def _renamed(state: State) -> Iterator[MappedTensor]:
    for piece in rename_keys(state, _RENAMES):
        if piece.target == _FREQUENCIES:
            for i in range(depth(state, "transformer.layers")):
                yield piece._replace(target=f"{_LLM}{i}.self_attn.rotary_emb.inv_freq")
        else:
            yield piece


def _refuse_parts(folder: Path) -> None:
    if not is_folder(folder):
        return
    for place in (folder, folder / "ckpts"):
        if parts := sorted(place.glob("split_part_*")):
            name = parts[0].relative_to(folder).with_name("split_part_*").as_posix()
            raise ModelError(
                f"{folder} has {len(parts)} parts that are not joined. In that folder run: cat "
                f"{name} > visionreward_image.tar && tar -xf visionreward_image.tar; then give the "
                "folder that holds 1/mp_rank_00_model_states.pt"
            )
    for file in sorted([*folder.glob("*.tar"), *folder.glob("ckpts/*.tar")]):
        raise ModelError(
            f"{file} is not unpacked. Run: tar -xf {file.name}; then give the folder that holds "
            "1/mp_rank_00_model_states.pt"
        )
