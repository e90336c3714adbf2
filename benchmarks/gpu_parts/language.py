"""Vision-language models of 7B: prefill, vision, decoding and questions of a judge."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import LogitsProcessor

from benchmarks.gpu_parts import models
from benchmarks.gpu_parts.run import (
    Row,
    Run,
    clear,
    guarded,
    peak_gib,
    seconds_of,
    speed,
    synchronize,
)


PREFILLS = ((1, 300), (16, 600), (1, 8192))
"""Rows, and tokens of each: a question alone, a batch of comparisons, a long clip."""
DECODES = (1, 16)
VISION = {"16 images of 512 x 512": (16, 512), "4 images of 1024 x 1024": (4, 1024)}
TASKS = ("image_generation", "image_understanding", "video_generation", "video_understanding")
N_NEW = 64
_TINY = 32
"""Shapes of the dry run are smaller by this factor."""
_PER_ITEM = 12.0
"""Seconds that must be left for a measurement to begin."""


def measure(run: Run) -> Iterator[Row]:
    """Rows of each model; the weights of one are freed before the next is made."""
    for name in models.VLMS:
        if not run.at_least(40):
            yield {"name": name, "error": "no time left"}
            continue
        vlm: Any = None

        def load(name: str = name) -> Row:
            nonlocal vlm
            clear(run.device)
            start = time.perf_counter()
            vlm = models.build_vlm(name, run)
            synchronize(run.device)
            return {
                "parameters": sum(weight.numel() for weight in vlm.model.parameters()),
                "seconds": time.perf_counter() - start,
                "peak_gib": peak_gib(run.device),
                **{key: value for key, value in vlm.describe().items() if key != "ways"},
                "ways": vlm.ways.describe(),
            }

        yield guarded(f"{name}: made and proven", load)
        if vlm is not None:
            for item, call in _items(vlm, run):
                if not run.at_least(_PER_ITEM):
                    yield {"name": f"{name}: {item}", "error": "no time left"}
                    continue
                yield guarded(f"{name}: {item}", call)
                clear(run.device)
        vlm = None
        clear(run.device)


def _items(vlm: Any, run: Run) -> Iterator[tuple[str, Callable[[], Row]]]:
    for rows, width in PREFILLS:
        yield f"prefill {rows} x {width}", partial(_prefill, vlm, run, rows, width)
    for title, (n, side) in VISION.items():
        yield f"vision, {title}", partial(_vision, vlm, run, n, side)
    for rows in DECODES:
        yield f"decode, {rows} at a time", partial(_decode, vlm, run, rows)
    for task in TASKS:
        yield f"10 candidates, {task.replace('_', ' ')}", partial(_ask, vlm, run, task)
    for attention in ("eager", "flash_attention_2"):
        rows, width = PREFILLS[1]
        title = f"prefill {rows} x {width}, {attention}"
        yield title, partial(_prefill_by, vlm, run, attention)
    if vlm.name == next(iter(models.VLMS)) and not run.tiny:
        yield "a layer at 16 x 600, compiled", partial(_compiled, vlm, run)


def _small(run: Run, n: int, least: int = 1) -> int:
    return max(n // _TINY, least) if run.tiny else n


def _tokens(vlm: Any, run: Run, rows: int, width: int) -> dict[str, Any]:
    """Text of a batch whose first row is an eighth shorter, so that there is a mask."""
    width = _small(run, width)
    ids = torch.randint(300, 600, (rows, width), device=run.device)
    mask = torch.ones_like(ids)
    if rows > 1:
        mask[0, : width // 8] = 0
        ids[0, : width // 8] = vlm.chat.pad_id
    return {"input_ids": ids, "attention_mask": mask}


def _prefill(vlm: Any, run: Run, rows: int, width: int) -> Row:
    inputs = _tokens(vlm, run, rows, width)
    counted = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    positions = counted.expand(3, *counted.shape)

    def call() -> None:
        vlm.model(**inputs, position_ids=positions, use_cache=True, logits_to_keep=1)

    found = speed(run, call, vlm.model.dtype)
    return found | {"tokens_per_s": inputs["input_ids"].numel() / found["seconds"]}


def _prefill_by(vlm: Any, run: Run, attention: str) -> Row:
    if attention.startswith("flash") and (
        find_spec("flash_attn") is None or run.device.type != "cuda"
    ):
        raise ModuleNotFoundError(name="flash_attn")
    own = vlm.model.config._attn_implementation
    vlm.model.set_attn_implementation(attention)
    try:
        return _prefill(vlm, run, *PREFILLS[1]) | {"attention": attention}
    finally:
        vlm.model.set_attn_implementation(own)


def _vision(vlm: Any, run: Run, n: int, side: int) -> Row:
    from unified_reward.backends.image_features import to_device
    from unified_reward.core.requests import Request

    n, side = _small(run, n, 2), _small(run, side, 32)
    pictures = [models.picture(i, side) for i in range(n)]
    start = time.perf_counter()
    processed = vlm.chat.process([Request((image, "rate")) for image in pictures])
    prepared = time.perf_counter() - start
    inputs = to_device(processed, vlm.model)
    found = speed(run, lambda: vlm.encoder.run_tower(inputs), vlm.model.dtype)
    return found | {
        "images_per_s": n / found["seconds"],
        "prepared_per_s": n / prepared,
    }


class _Endless(LogitsProcessor):
    """Forbids the tokens that end an answer."""

    def __init__(self, ends: list[int]) -> None:
        self._ends = ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores[:, self._ends] = -torch.inf
        return scores


def _decode(vlm: Any, run: Run, rows: int) -> Row:
    """Tokens a second behind prompts of 600, and the bytes of weights and cache read for them."""
    inputs = _tokens(vlm, run, rows, 600)
    n = _small(run, N_NEW, 4)
    endless = _Endless([vlm.chat.eos_id])

    def generate(n_new: int) -> None:
        found = vlm.generate_tokens(inputs, n_new, endless)
        assert found.shape[1] == n_new

    with torch.inference_mode():
        first, whole = (
            seconds_of(partial(generate, n_new), run, budget=2.0) for n_new in (1, n + 1)
        )
    seconds = (whole - first) / n
    return {
        "seconds": whole,
        "tokens_per_s": rows / seconds,
        "tb_per_s": _bytes_of_step(vlm, rows, inputs["input_ids"].shape[1] + n // 2)
        / seconds
        / 1e12,
        "dtype": str(vlm.model.dtype).removeprefix("torch."),
        "peak_gib": peak_gib(run.device),
    }


def _bytes_of_step(vlm: Any, rows: int, width: int) -> float:
    """Bytes that a step of decoding reads at least: weights of layers and head, and the cache."""
    text = vlm.model.config.get_text_config()
    layers = [weight for name, weight in vlm.model.named_parameters() if "visual" not in name]
    n_weights = sum(weight.numel() for weight in layers) - vlm.n_tokens * text.hidden_size
    head = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    n_cached = 2 * text.num_hidden_layers * text.num_key_value_heads * head * width * rows
    return float((n_weights + n_cached) * vlm.model.dtype.itemsize)


def _compiled(vlm: Any, run: Run) -> Row:
    """A layer of the prefill by torch.compile, and the seconds that compiling it took."""
    if not run.at_least(30):
        raise RuntimeError("no time left to compile")
    rows, width = PREFILLS[1]
    width = _small(run, width)
    trunk = vlm.model.base_model.language_model
    size = (rows, width, vlm.model.config.get_text_config().hidden_size)
    states = torch.randn(size, device=run.device, dtype=vlm.model.dtype)
    positions = torch.arange(width, device=run.device).expand(3, rows, width)
    layer, turns = trunk.layers[0], trunk.rotary_emb(states, positions)
    compiled = torch.compile(layer)
    with torch.inference_mode():
        plain = seconds_of(lambda: layer(states, position_embeddings=turns), run, budget=1.0)
        start = time.perf_counter()
        compiled(states, position_embeddings=turns)
        synchronize(run.device)
        first = time.perf_counter() - start
        again = partial(compiled, states, position_embeddings=turns)
        seconds = seconds_of(again, run, budget=1.0)
    torch.compiler.reset()
    return {
        "seconds": seconds,
        "plain_seconds": plain,
        "compile_seconds": first,
        "peak_gib": peak_gib(run.device),
    }


def _ask(vlm: Any, run: Run, task: str) -> Row:
    """Rank and sift of 10 candidates, in the ways of the judge and as a competent batch.

    The batch prepares and encodes media with each request, in batches of similar lengths, and
    reads verdicts from its prefill.
    """
    from benchmarks.real_shapes_parts.questions import LONG, rank_and_sift
    from unified_reward.core.samples import Task
    from unified_reward.core.verdicts import Preferred, Scored
    from unified_reward.judges.card import Card
    from unified_reward.judges.generative import GenerativeJudge

    side = _small(run, 512, 64)
    judge = GenerativeJudge(vlm, Card("native"))
    with TemporaryDirectory() as folder:
        samples = rank_and_sift(
            Task(task), 4 if run.tiny else 10, Path(folder), side=side, text=LONG, seed=0
        )

        def ask() -> list[Any]:
            verdicts = judge.ask(samples)
            assert all(isinstance(one, Scored | Preferred) for one in verdicts), verdicts
            return verdicts

        clear(run.device)
        ours, seconds = ask(), seconds_of(ask, run, budget=2.5)
        row = {"seconds": seconds, "peak_gib": peak_gib(run.device)}
        encoder, vlm.encoder = vlm.encoder, None
        ways, vlm.ways = vlm.ways, replace(vlm.ways, **PLAIN)
        try:
            clear(run.device)
            plain, plain_seconds = ask(), seconds_of(ask, run, budget=2.5)
            row |= {"plain_seconds": plain_seconds, "plain_peak_gib": peak_gib(run.device)}
        finally:
            vlm.encoder, vlm.ways = encoder, ways
    n_answers = sum(len(sample.candidates) for sample in samples)
    return row | {
        "answers_per_s": n_answers / seconds,
        "speedup_over_batch": plain_seconds / seconds,
        "apart": max(abs(_value(a) - _value(b)) for a, b in zip(ours, plain, strict=True)),
    }


PLAIN = {"images": "encoded for each request", "prefixes": "repeated"}
"""Ways of a competent batch, beside those of batches and choices that were proven."""


def _value(verdict: Any) -> float:
    """Probability that the first is better, or a score as a share of its scale."""
    from unified_reward.core.verdicts import Preferred

    if isinstance(verdict, Preferred):
        return verdict.p_first
    return verdict.score.normalized
