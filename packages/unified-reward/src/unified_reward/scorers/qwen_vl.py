"""Scorers that are the trunk of a Qwen-VL model with a head of their own.

The released models were trained with positions that count tokens, also those of
pixels: their code called the language model with embeddings and left positions open, which
transformers 4.45 filled by counting, the same on all three axes. With the multimodal
positions of Qwen2-VL (M-RoPE) they silently give other numbers, so positions are explicit here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AutoModel, Qwen2VLConfig, Qwen2VLVideoProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import smart_resize

from unified_reward.checkpoints.tensor_keys import (
    MappedTensor,
    State,
    depth,
    read_json,
    rename_keys,
    shape,
)
from unified_reward.checkpoints.tokenizers import load_tokenizer
from unified_reward.core.errors import ConfigError, DataError, MediaError, ModelError
from unified_reward.prompts.packs import installed_wordings, published_prompts
from unified_reward.scorers.base import Prepared, Scorer


_HEAD, _VISION_HEAD = 128, 80
"""Width of an attention head, in the language model and in the vision tower of every Qwen2-VL."""
_TRUNKS = ("qwen2_vl", "qwen2_5_vl")
RENAMES = (
    (r"^base_model\.model\.", ""),
    (r"^model\.(?!visual\.|language_model\.)", "model.language_model."),
    (r"^visual\.", "model.visual."),
)
_MARKS = tuple(
    f"<|{name}|>"
    for name in (
        *("endoftext", "im_start", "im_end", "object_ref_start", "object_ref_end"),
        *("box_start", "box_end", "quad_start", "quad_end"),
        *("vision_start", "vision_end", "vision_pad"),
    )
)
PADS = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
_FRAMES: Any = Qwen2VLVideoProcessor(
    do_resize=False, do_sample_frames=False, cap_pixels_per_frame=False
)
FACTOR = 28
"""Sides are multiples of it: patches of 14, merged two by two."""
TEMPORAL = 2
"""Frames of a patch."""
MERGED = 4
"""Patches of a token."""
_MIN_FRAMES, _MAX_FRAMES = 4, 768
_MAX_RATIO = 200


class PixelBounds(NamedTuple):
    """Bounds of a frame's area, in pixels."""

    least: int
    most: int


class QwenReward(nn.Module):
    """A trunk and the head that reads it."""

    def __init__(self, trunk: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.model: Any = trunk
        self.head = head

    def hidden(self, ids: Tensor, mask: Tensor, patches: Tensor, grids: Tensor, pad: int) -> Tensor:
        """Last hidden states, positions being the places of the tokens.

        Args:
            ids: Shape (B, L), padded on the right; ``pad`` in place of visual tokens.
            mask: Shape (B, L).
            patches: All images or videos, one behind the other, shape (patches, values).
            grids: Shape (B, 3): patches over time, height and width.
            pad: Id of a visual token.

        Raises:
            ValueError: There are more or fewer marks than visual tokens.
        """
        return self.hidden_of(ids, mask, self.see(patches, grids), pad)

    def see(self, patches: Tensor, grids: Tensor) -> Tensor:
        """Visual tokens of all images or videos, one behind the other."""
        dtype = next(self.model.visual.parameters()).dtype
        return self.model.visual(patches.to(dtype), grid_thw=grids).pooler_output

    def hidden_of(self, ids: Tensor, mask: Tensor, seen: Tensor, pad: int) -> Tensor:
        """Last hidden states, with the visual tokens of `see` in place of their marks.

        Raises:
            ValueError: There are more or fewer marks than visual tokens.
        """
        words = self.model.language_model.embed_tokens(ids)
        marks = ids == pad
        if int(marks.sum()) != len(seen):
            raise ValueError(f"{int(marks.sum())} marks for {len(seen)} visual tokens")
        places = marks[..., None].expand_as(words)
        positions = torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)
        return self.model.language_model(
            inputs_embeds=words.masked_scatter(places, seen.to(words.dtype)),
            attention_mask=mask,
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state

    def forward(self, hidden: Tensor) -> Tensor:
        """Outputs of the head, in its own precision."""
        return self.head(hidden.to(next(self.head.parameters()).dtype))


class QwenScorer(Scorer):
    """A Qwen-VL trunk read at the tokens that ask for a reward, or at the last token."""

    medium: ClassVar[str]
    """``image`` or ``video``."""
    head_name: ClassVar[str] = "rm_head"
    reward_tokens: ClassVar[tuple[str, ...]] = ()
    """Read at these tokens, in their order in the prompt; empty for the last token."""
    outputs: ClassVar[tuple[int, ...]] = ()
    """Numbers of outputs that a head may have; empty for any."""
    ignored: ClassVar = {r"(base_model\.model\.)?lm_head\.weight": "the head that speaks"}

    def __init__(self, module: nn.Module, folder: Path, *, batch_size: int) -> None:
        super().__init__(module, folder, batch_size=batch_size)
        if self.dtype.itemsize < torch.float32.itemsize:
            self.module.head.float()  # as released, in any precision of the trunk
        self.tokenizer, (self.pad, *self._reward_ids) = self.marks(self.module, folder)

    @classmethod
    def tokenizer_folder(cls, folder: Path) -> Path:
        """Folder of the tokenizer's files."""
        return folder

    @classmethod
    def examine(cls, module: nn.Module, folder: Path) -> None:
        """Check the tokenizer against the rows of the embedding."""
        cls.marks(module, folder)

    @classmethod
    def marks(cls, module: Any, folder: Path) -> tuple[Any, list[int]]:
        """The tokenizer, and the ids of a visual token and of the reward tokens."""
        place = cls.tokenizer_folder(folder)
        tokenizer = load_tokenizer(place)
        tokenizer.add_tokens([*cls.reward_tokens], special_tokens=True)
        ids = tokenizer.convert_tokens_to_ids([PADS[cls.medium], *cls.reward_tokens])
        rows = module.model.language_model.embed_tokens.num_embeddings
        if None in ids or max(ids) >= rows:
            raise ModelError(
                f"the tokenizer in {place} is not that of these weights, which know {rows} tokens"
            )
        return tokenizer, ids

    @classmethod
    def skeleton(cls, state: State, folder: Path) -> nn.Module:
        """The trunk by ``config.json`` or, without one, by the shapes of the tensors."""
        names = {piece.target: piece.value for piece in cls.translate(state, folder)}
        return trunk(names, folder, cls.head(names, "head"))

    @classmethod
    def head(cls, names: State, stem: str) -> nn.Module:
        """A head by the shapes of its tensors.

        Raises:
            ModelError: There is none, or it has another number of outputs.
        """
        head = head_of(names, cls.head_name, stem)
        linear = [part for part in head.modules() if isinstance(part, nn.Linear)][-1]
        if cls.outputs and linear.out_features not in cls.outputs:
            raise ModelError(
                f"{cls.head_name} has {linear.out_features} outputs; {cls.card.name} reads heads "
                f"of {' or '.join(map(str, cls.outputs))}"
            )
        return head

    @classmethod
    def translate(cls, state: State, folder: Path) -> Iterator[MappedTensor]:
        """The names of transformers 5."""
        return rename_keys(state, (*RENAMES, (rf"^{cls.head_name}\.", "head.")))

    def forward(self, batch: Sequence[Prepared]) -> Tensor:
        """Outputs of the head at every reward token, shape (B, tokens * outputs)."""
        ids, mask = self.padded([self._tokens(one) for one in batch])
        patches = torch.cat([one.pixels for one in batch]).to(self.device)
        grids = torch.tensor([one.grid for one in batch], device=self.device)
        hidden = self.module.hidden(ids, mask, patches, grids, self.pad)
        return self.module(self.at_rewards(hidden, ids, mask)).flatten(1)

    def padded(self, rows: Sequence[list[int]]) -> tuple[Tensor, Tensor]:
        """Ids and mask of texts, padded on the right, shape (B, L)."""
        width = max(map(len, rows))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
        return ids, mask.to(self.device)

    def at_rewards(self, hidden: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        """Hidden states at the reward tokens, shape (B, tokens, width), or at the last, (B, width).

        Args:
            hidden: Shape (B, L, width).
            ids: Shape (B, L).
            mask: Shape (B, L).
        """
        if self._reward_ids:
            is_reward = torch.isin(ids, torch.tensor(self._reward_ids, device=ids.device))
            return hidden[is_reward & mask.bool()].view(len(ids), len(self._reward_ids), -1)
        return hidden[torch.arange(len(ids)), mask.sum(-1) - 1]

    def _tokens(self, prepared: Prepared) -> list[int]:
        ids = self.tokenizer(prepared.text, add_special_tokens=False).input_ids
        return spread(ids, self.pad, [len(prepared.pixels) // MERGED])


def trunk(names: State, folder: Path, head: nn.Module) -> QwenReward:
    """An empty trunk by ``config.json`` or, without one, by the shapes of the tensors.

    Raises:
        ModelError: The configuration is of another trunk, or the shapes are of none.
    """
    rows = shape(names, "model.language_model.embed_tokens.weight")[0]
    file = folder / "config.json"
    config = _read_config(file) if file.is_file() else _sized(names)
    config.get_text_config().vocab_size = rows
    return QwenReward(AutoModel.from_config(config, trust_remote_code=False), head)


def spread(ids: Sequence[int], pad: int, counts: Sequence[int]) -> list[int]:
    """Repeat the mark of every image or video as often as it has visual tokens.

    >>> spread([5, 9, 6, 9], 9, [2, 1])
    [5, 9, 9, 6, 9]
    """
    left = iter(counts)
    return [token for one in ids for token in [one] * (next(left, 1) if one == pad else 1)]


def patch_counts(grids: Sequence[tuple[int, int, int]]) -> list[int]:
    """Numbers of visual tokens of images or videos, from their grids.

    >>> patch_counts([(1, 4, 6)])
    [6]
    """
    return [t * h * w // MERGED for t, h, w in grids]


def chat(medium: str, prompt: str) -> str:
    """One user turn of Qwen2-VL with one image or video before the text, and its system turn.

    >>> chat("image", "rate it").splitlines()[3]
    '<|vision_start|><|image_pad|><|vision_end|>rate it<|im_end|>'
    """
    return (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        f"<|im_start|>user\n<|vision_start|>{PADS[medium]}<|vision_end|>{prompt}<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def worded(name: str, caption: str, marks: Sequence[str] = ()) -> str:
    """An imported prompt with a caption in its slot.

    Args:
        name: Of the wording.
        caption: Put in as it is.
        marks: What a caption must not hold besides Qwen's own marks.

    Raises:
        ConfigError: It is not imported.
        DataError: The caption holds a mark that the model reads as something else.
    """
    wording = installed_wordings().get(name)
    if wording is None:
        raise ConfigError(
            f"the prompt {name}, with which this scorer was trained, is not part of this package: "
            f"run {published_prompts()[name].hint}"
        )
    for mark in (*_MARKS, *PADS.values(), *marks):
        if mark in caption:
            raise DataError(f"the caption holds {mark!r}, which the model does not read as text")
    return wording.text.replace("⟪prompt⟫", caption)


def patched(frames: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
    """Frames as Qwen-VL's vision tower takes them.

    Args:
        frames: Values from 0 to 255, shape (n, 3, H, W), sides multiples of 28.

    Returns:
        Patches of shape (n / 2 * H / 14 * W / 14, 1176), an odd last frame shown twice; the grid.
    """
    options = {"return_tensors": "pt", "do_sample_frames": False, "device": frames.device}
    done = _FRAMES(videos=[frames], **options)
    t, h, w = (int(side) for side in done.video_grid_thw[0])
    return done.pixel_values_videos, (t, h, w)


def target_size(height: int, width: int, bounds: PixelBounds) -> tuple[int, int]:
    """Height and width, multiples of 28, with an area within bounds and about the same shape.

    Raises:
        MediaError: One side is more than 200 times the other.

    >>> target_size(480, 832, PixelBounds(128 * 28 * 28, 256 * 28 * 28))
    (336, 588)
    """
    if max(height, width) > _MAX_RATIO * min(height, width):
        raise MediaError(
            f"{width} x {height} pixels: one side is more than {_MAX_RATIO} times the other, "
            "which Qwen-VL's own code refuses; crop it"
        )
    return smart_resize(height, width, FACTOR, bounds.least, bounds.most)


def frame_rule(
    per_second: float,
) -> Callable[[int, Callable[[], float | None]], tuple[int, ...]]:
    """So many frames of every second, evenly from first to last, an even number of them.

    ``n = round(clamp(total / fps * per_second, 4, most) / 2) * 2``, rounding half to even, where
    ``most`` is the largest even number up to ``min(768, total)``; never below 2. Then
    ``linspace(0, total - 1, n)``, rounded. A video whose rate is not known is taken to have
    ``per_second`` frames a second: every frame is wanted.

    >>> frame_rule(2.0)(16, lambda: 8.0), frame_rule(8.0)(7, lambda: 8.0)
    ((0, 5, 10, 15), (0, 1, 2, 4, 5, 6))
    >>> frame_rule(2.0)(1, lambda: 8.0)
    (0, 0)
    """

    def choose(total: int, rate: Callable[[], float | None]) -> tuple[int, ...]:
        wanted = total / (rate() or per_second) * per_second
        most = min(_MAX_FRAMES, total) // TEMPORAL * TEMPORAL
        n = round(min(max(wanted, _MIN_FRAMES), most) / TEMPORAL) * TEMPORAL
        return tuple(torch.linspace(0, total - 1, max(n, TEMPORAL)).round().int().tolist())

    return choose


def head_of(state: State, name: str, stem: str = "head") -> nn.Module:
    """A head as large as its tensors: one linear map, or several with ReLU between.

    ``head.weight`` is one map, ``head.0.weight``, ``head.3.weight``, … a sequence whose other
    places are activations and dropouts: the first behind each map is the ReLU.

    Args:
        state: The tensors, translated.
        name: What the head is called in the file.
        stem: Name of the head among the tensors.

    Raises:
        ModelError: There is no such head.
    """
    if f"{stem}.weight" in state:
        return _linear(state, stem)
    pattern = re.compile(rf"{re.escape(stem)}\.(\d+)\.weight")
    places = sorted(int(found[1]) for key in state if (found := pattern.fullmatch(key)))
    if not places:
        raise ModelError(f"there is no {name} among the tensors; these are other weights")
    whole: list[nn.Module] = [nn.Identity() for _ in range(places[-1] + 1)]
    for place in places:
        whole[place] = _linear(state, f"{stem}.{place}")
        if place != places[-1]:
            whole[place + 1] = nn.ReLU()
    return nn.Sequential(*whole)


def _linear(state: State, stem: str) -> nn.Linear:
    rows, columns = shape(state, f"{stem}.weight")
    return nn.Linear(columns, rows, bias=f"{stem}.bias" in state)


def _read_config(file: Path) -> Any:
    from transformers import AutoConfig

    kind = read_json(file).get("model_type")
    if kind not in _TRUNKS:
        raise ModelError(f"{file} is of a {kind}; trunks are {' and '.join(_TRUNKS)}")
    return AutoConfig.from_pretrained(file.parent, local_files_only=True, trust_remote_code=False)


def _sized(state: State) -> Qwen2VLConfig:
    """Qwen2-VL as large as the tensors, by what all its sizes have in common."""
    language, tower = "model.language_model", "model.visual"
    width = shape(state, f"{language}.embed_tokens.weight")[1]
    embed = shape(state, f"{tower}.patch_embed.proj.weight")[0]
    keys = shape(state, f"{language}.layers.0.self_attn.k_proj.weight")[0]
    if width % _HEAD or keys % _HEAD or embed % _VISION_HEAD:
        raise ModelError(f"widths of {width}, {keys} and {embed} are not those of a Qwen2-VL")
    return Qwen2VLConfig(
        text_config={
            "hidden_size": width,
            "intermediate_size": shape(state, f"{language}.layers.0.mlp.gate_proj.weight")[0],
            "num_hidden_layers": depth(state, f"{language}.layers"),
            "num_attention_heads": width // _HEAD,
            "num_key_value_heads": keys // _HEAD,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 32_768,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [16, 24, 24],
            },
            "bos_token_id": None,
            "eos_token_id": None,
        },
        vision_config={
            "depth": depth(state, f"{tower}.blocks"),
            "embed_dim": embed,
            "hidden_size": width,
            "num_heads": embed // _VISION_HEAD,
        },
    )
