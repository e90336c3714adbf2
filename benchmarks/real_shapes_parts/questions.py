"""Questions of rank+sift about files of random pictures, clips and answers.

Every question has about as much text as a published prompt, some 200 tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL.Image

from unified_reward import media
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.prompts import TEMPLATES


TASKS = (
    Task.IMAGE_GENERATION,
    Task.VIDEO_GENERATION,
    Task.IMAGE_UNDERSTANDING,
    Task.VIDEO_UNDERSTANDING,
)
_CLIPS = (Task.VIDEO_GENERATION, Task.VIDEO_UNDERSTANDING)
_CLIP_FRAMES = 16
_WORDS = re.findall(
    r"\w+",
    "a an the red blue green small large old new wooden metal glass paper round square bright dark "
    "cat dog bird horse child woman man tree river house car train boat bridge table chair window "
    "runs walks sits stands looks turns falls rises opens closes moves rests behind before under "
    "over near beside between with without and then while slowly quickly gently left right centre",
)
_CRITERIA = (
    "whether every object, number, colour and relation that was asked for is there and nothing "
    "that was not, whether shapes, hands, faces and letters are drawn as they are in the world, "
    "whether light, shadow and perspective agree with each other, whether anything is blurred, "
    "doubled, cut off or out of place, and whether a careful reader would call it complete, "
    "correct and to the point; weigh what was asked for more than how it looks, and let a single "
    "grave fault count more than several small ones"
)


class Text(NamedTuple):
    """Numbers of words of a question."""

    prompt: int
    answer: int
    criteria: Mapping[Task, int]


LONG = Text(25, 25, dict(zip(TASKS, (95, 68, 62, 38), strict=True)))
"""A score and a comparison have about 200 tokens of text on average."""
SHORT = Text(8, 8, dict.fromkeys(TASKS, 5))


def tokenizer_texts() -> list[str]:
    """Texts in which words of all questions are frequent."""
    native = [one for one in TEMPLATES.values() if one.family.name == "native"]
    fixed = [re.sub("⟪.*?⟫", "", one.prompt) for one in native]
    choices = [choice for one in native for choice in one.choices]
    chat = "<|im_start|>user\n<|im_start|>assistant\n"
    words = [f"{' '.join(_WORDS)} {_sentence(np.random.default_rng(0), 300)}"]
    return [*fixed, *choices, chat, _CRITERIA, *words] * 30


def _sentence(rng: np.random.Generator, words: int) -> str:
    return " ".join(rng.choice(_WORDS, words))


def _pixels(rng: np.random.Generator, side: int) -> PIL.Image.Image:
    """A smooth random picture: noise would take longer to decode than pictures do."""
    coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((side, side), PIL.Image.Resampling.BICUBIC)


def _medium(rng: np.random.Generator, path: Path, side: int, *, is_clip: bool) -> Image | Video:
    picture = np.asarray(_pixels(rng, side))
    if not is_clip:
        path.write_bytes(media.encode_png(PIL.Image.fromarray(picture)))
        return Image(path)
    frames = np.stack([np.roll(picture, i * side // 32, axis=1) for i in range(_CLIP_FRAMES)])
    path.write_bytes(media.encode_mp4(frames, 8.0))
    return Video(path)


def rank_and_sift(
    task: Task, n: int, folder: Path, *, side: int, text: Text, seed: int
) -> list[Sample]:
    """A score for each of n candidates, and n/2 comparisons of disjoint pairs, as samples.

    Args:
        task: One of `TASKS`.
        n: Number of candidates.
        folder: Folder of the files.
        side: Height and width of pictures in pixels.
        text: Length of the texts.
        seed: Random seed of files and texts.
    """
    rng = np.random.default_rng([seed, TASKS.index(task)])
    is_clip = task in _CLIPS
    prompt = _sentence(rng, text.prompt)
    names = (folder / f"{task}-{n}-{side}-{seed}-{i}" for i in range(n + 1))
    if task in (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION):
        context: tuple[Image | Video, ...] = ()
        candidates = [_medium(rng, next(names), side, is_clip=is_clip) for _ in range(n)]
    else:
        context = (_medium(rng, next(names), side, is_clip=is_clip),)
        candidates = [_sentence(rng, text.answer) for _ in range(n)]
    pairs = zip(candidates[::2], candidates[1::2], strict=True)
    asked = [*((candidate,) for candidate in candidates), *pairs]
    criteria = " ".join(_CRITERIA.split()[: text.criteria[task]])
    return [Sample(task, prompt, each, context, criteria) for each in asked]


def in_both_orders(samples: list[Sample]) -> Iterator[Sample]:
    """Questions that samples become, each comparison in both orders."""
    for sample in samples:
        yield sample
        if sample.form == "compare":
            yield sample.swapped()
