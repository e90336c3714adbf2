"""Speed of the judge where the same candidates are asked about again and again.

    python benchmarks/judge_speed.py [--json] [--prompts 12] [--judge REFERENCE]

Three ways to ask the same questions (rank and sift: a score for each of N candidates, a comparison
for each of N/2 pairs, one order), with the same judge, files and one thread, by turns in one run:

    loop     as published code does: one question at a time, its files decoded, prepared and encoded
             every time, greedy generation to the end of the answer
    batched  a competent plain way: the same in batches of 16
    ours     `GenerativeJudge.ask`: decoded once, encoded once, verdicts from one prefill

The bound is what ours spends in the vision tower and in the prefill: each medium encoded once and
one prefill a question. Positions of the language model are counted with padding. Videos are files
of 8 frames; the tiny judge was trained on 4 of them, and one row shows it all 8, where speed is
meaningful and verdicts are not.
"""

import argparse
import json
import os


os.environ.setdefault("OMP_NUM_THREADS", "1")

import tempfile
import time
from collections import Counter, defaultdict
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from itertools import combinations
from pathlib import Path

import torch
from transformers import GenerationConfig

from unified_reward import media, prompts
from unified_reward.core.samples import Image, Sample, Task, Video
from unified_reward.core.verdicts import Preferred
from unified_reward.judges import card as cards
from unified_reward.judges.registry import open_judge
from unified_reward_lab.microworld import candidate_pool


KINDS = {
    "image": (Task.IMAGE_GENERATION, None),
    "video": (Task.VIDEO_GENERATION, None),
    "video, 8 frames": (Task.VIDEO_GENERATION, 8),
}
SIZES = (4, 10, 20)
ALL_PAIRS = ("image", "video")
"""Also asked as a tournament of 10 asks: a score each, and all pairs."""
BATCH = 16
TOGETHER = 4
"""Prompts asked about at once, as `unified-reward pairs` does."""
WAYS = ("loop", "batched", "ours")
STAGES = ("open files", "prepare", "encode", "prefill", "continue", "other")
SEED = 20261125


def questions(task, n, index, folder, *, all_pairs):
    """One prompt's questions about files: n scores, and n/2 comparisons or all of them."""
    sampled = candidate_pool(task, n=n, split="test", seed=SEED, index=index)
    files = []
    for i, candidate in enumerate(sampled.candidates):
        path = folder / f"{task}-{n}-{index}-{i}"
        if isinstance(candidate, Image):
            path.write_bytes(media.encode_png(media.open_image(candidate)))
            files.append(Image(path))
        else:
            path.write_bytes(media.encode_mp4(candidate.source, candidate.fps or 4.0))
            files.append(Video(path))
    pairs = [*combinations(files, 2)] if all_pairs else [*zip(files[::2], files[1::2], strict=True)]
    requests = [*((item,) for item in files), *pairs]
    return [Sample(task, sampled.prompt, candidates, sampled.context) for candidates in requests]


class Watch:
    """Seconds by stage and tokens, through wrappers around what every way calls."""

    def __init__(self, judge):
        self.seconds = defaultdict(float)
        self.tokens = Counter()
        self._open = []
        vlm = judge._model
        inner = vlm.model.model
        self._wrap(cards, "_pictures", "open files")
        self._wrap(vlm.chat.processor.image_processor, "preprocess", "prepare")
        self._wrap(inner, "get_image_features", "encode", self._count_vision)
        self._wrap(inner, "forward", self._phase, self._count_positions)

    def _wrap(self, owner, name, stage, count=None):
        real = getattr(owner, name)

        @wraps(real)
        def timed(*args, **kwargs):
            result = stage(kwargs) if callable(stage) else stage
            with self.at(result):
                out = real(*args, **kwargs)
            if count:
                count(result, out)
            return out

        setattr(owner, name, timed)

    @contextmanager
    def at(self, stage):
        """Time of a stage; that of a stage within belongs to the inner one."""
        start = time.perf_counter()
        self._open.append(0.0)
        yield
        spent = time.perf_counter() - start
        self.seconds[stage] += spent - self._open.pop()
        if self._open:
            self._open[-1] += spent

    def _phase(self, kwargs):
        cache = kwargs.get("cache")
        return "continue" if cache is not None and cache.get_seq_length() else "prefill"

    def _count_vision(self, stage, out):
        self.tokens["vision"] += sum(map(len, out.pooler_output))

    def _count_positions(self, stage, out):
        self.tokens[stage] += out[0].shape[0] * out[0].shape[1]


@torch.inference_mode()
def generated(judge, samples, batch):
    """Answers by greedy generation, everything done anew for every question."""
    vlm, texts = judge._model, []
    greedy = GenerationConfig(
        do_sample=False,
        max_new_tokens=64,
        eos_token_id=vlm.chat.eos_id,
        pad_token_id=vlm.chat.pad_id,
    )
    for start in range(0, len(samples), batch):
        requests = [
            cards.build_request(item, judge.card, {}) for item in samples[start : start + batch]
        ]
        inputs = vlm.chat.batch(requests)
        tokens = vlm.model.generate(**inputs, generation_config=greedy)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        texts += vlm.chat.tokenizer.batch_decode(new, skip_special_tokens=True)
    return texts


def answers(judge, way, samples):
    """Answer to each question, as text."""
    if way == "ours":
        return [item.text for item in judge.ask(samples, orders=1)]
    # Scores and comparisons differ in length; a batch of its own for each is the plain way.
    size = 1 if way == "loop" else BATCH
    result = {}
    for form in ("score", "compare"):
        places = [i for i, item in enumerate(samples) if item.form == form]
        result |= zip(places, generated(judge, [samples[i] for i in places], size), strict=True)
    return [result[i] for i in range(len(samples))]


def reply(judge, sample, text):
    """The verdict in a text, as what can be compared."""
    verdict = prompts.template(judge.family, sample.task, sample.form).parse(text)
    if isinstance(verdict, Preferred):
        return verdict.winner
    return getattr(getattr(verdict, "score", None), "value", None)


def reset_peak():
    """Begin a new peak of resident memory (Linux)."""
    Path("/proc/self/clear_refs").write_text("5")


def peak_mib():
    """Peak resident memory since then."""
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024


def measure(judge, watch, requests):
    """One row of the report: figures about the questions of some prompts."""
    prompts = len(requests)
    groups = [
        [item for samples in requests[i : i + TOGETHER] for item in samples]
        for i in range(0, prompts, TOGETHER)
    ]
    stages = {way: Counter() for way in WAYS}
    tokens = {way: Counter() for way in WAYS}
    texts = {way: [] for way in WAYS}
    memory = dict.fromkeys(WAYS, 0.0)
    for way in WAYS:
        answers(judge, way, requests[0])
    for samples in groups:
        for way in WAYS:
            watch.seconds.clear()
            watch.tokens.clear()
            reset_peak()
            with watch.at("other"):
                texts[way] += answers(judge, way, samples)
            memory[way] = max(memory[way], peak_mib())
            stages[way].update(watch.seconds)
            tokens[way].update(watch.tokens)
    totals = {way: sum(stages[way].values()) for way in WAYS}
    bound = stages["ours"]["encode"] + stages["ours"]["prefill"]
    flat = [item for samples in groups for item in samples]
    same = [
        reply(judge, sample, item) == reply(judge, sample, other)
        for sample, item, other in zip(flat, texts["loop"], texts["ours"], strict=True)
    ]
    return {
        "prompts": prompts,
        "questions": len(flat),
        "seconds_per_prompt": {way: totals[way] / prompts for way in WAYS},
        "stages": {way: {item: stages[way][item] / prompts for item in STAGES} for way in WAYS},
        "tokens": {way: {k: v / prompts for k, v in tokens[way].items()} for way in WAYS},
        "peak_mib": memory,
        "speedup": {way: totals[way] / totals["ours"] for way in WAYS},
        "equal": sum(same) / len(same),
        "bound_ratio": totals["ours"] / bound,
        "bound_ratio_with_files": totals["ours"]
        / (bound + stages["ours"]["open files"] + stages["ours"]["prepare"]),
    }


def projection():
    """Arithmetic, no measurement: the same questions to a judge of 7B parameters at 512 x 512.

    Assumed: 256 tokens and 1,024 patches an image or frame, a vision tower of 0.6 B parameters, 2
    operations a parameter and token, 400 TFLOP/s kept up, 15 GB of weights read at 3 TB/s for every
    decoding step, 150 tokens of text; verdicts of 8 tokens, or of 200 with their reasons.
    """
    flops, read_s, text = 400e12, 15e9 / 3e12, 150
    rows = []
    for kind, frames in (("image", 1), ("video", 8)):
        for said_tokens in (8, 200):
            n = 10
            video = 256 * frames
            encode_s = 2 * 0.6e9 * 1024 * frames / flops
            prefill = n * (video + text) + n // 2 * (2 * video + text)
            prefill_s = 2 * 7.6e9 * prefill / flops
            steps = {"loop": said_tokens * n * 3 // 2, "batched": said_tokens, "ours": 1}
            steps["ours"] += said_tokens if said_tokens > 8 else 0
            media = {"loop": 2 * n, "batched": 2 * n, "ours": n}
            seconds = {w: media[w] * encode_s + prefill_s + steps[w] * read_s for w in WAYS}
            rows.append(
                {
                    "kind": kind,
                    "answer_tokens": said_tokens,
                    "vision_tokens": {w: media[w] * video for w in WAYS},
                    "prefilled": prefill,
                    "decoding_steps": steps,
                    "seconds": seconds,
                    "speedup": {w: seconds[w] / seconds["ours"] for w in WAYS},
                    "from_reuse_alone": seconds["batched"] / (seconds["batched"] - n * encode_s),
                    "shareable_prefix": n // 2 * video / prefill,
                }
            )
    return rows


def table(rows, projected):
    """The report for people."""
    lines = []
    for row in rows:
        lines.append(
            f"\n{row['kind']}, N = {row['n']}: ours {row['speedup']['loop']:.1f} x the loop, "
            f"{row['speedup']['batched']:.1f} x batched; {row['equal']:.2%} of verdicts equal; "
            f"{row['bound_ratio']:.2f} x the bound, {row['bound_ratio_with_files']:.2f} with files"
        )
        heads = "".join(f"{item:>12}" for item in (*STAGES, "total"))
        lines.append(f"ms per prompt {heads}   positions, MiB")
        for way in WAYS:
            result = [*row["stages"][way].values(), row["seconds_per_prompt"][way]]
            counts = ", ".join(f"{k} {v:.0f}" for k, v in sorted(row["tokens"][way].items()))
            times = "".join(f"{1000 * item:12.1f}" for item in result)
            lines.append(f"{way:<14}{times}   {counts}; {row['peak_mib'][way]:.0f} MiB")
    lines.append("\nProjected to 7B at 512 x 512, N = 10 (arithmetic):")
    for row in projected:
        times = ", ".join(f"{way} {row['seconds'][way]:.2f} s" for way in WAYS)
        lines.append(
            f"{row['kind']}, answers of {row['answer_tokens']} tokens: {times}; ours "
            f"{row['speedup']['loop']:.1f} x the loop, {row['speedup']['batched']:.2f} x batched"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--prompts", type=int, default=12)
    parser.add_argument("--judge", default="tiny_judge")
    given = parser.parse_args()
    torch.set_num_threads(1)
    judge = open_judge(given.judge, device="cpu")
    watch, own = Watch(judge), judge.card.frames
    wanted = [(kind, n, False) for kind in KINDS for n in SIZES]
    wanted += [(kind, 10, True) for kind in ALL_PAIRS]
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for kind, n, all_pairs in wanted:
            task, frames = KINDS[kind]
            judge.card = replace(judge.card, frames=frames or own)
            requests = [
                questions(task, n, i, Path(name), all_pairs=all_pairs) for i in range(given.prompts)
            ]
            result = {"kind": kind + ", all pairs" * all_pairs, "n": n}
            rows.append(result | measure(judge, watch, requests))
    projected = projection()
    if not given.json:
        print(table(rows, projected))
        return
    at_ten = {
        row["kind"]: row for row in rows if row["n"] == 10 and row["kind"] in ("image", "video")
    }
    report = {
        "judge": given.judge,
        "seed": SEED,
        "rows": rows,
        "projected_7b_512": projected,
        "speedup": {kind: row["speedup"]["loop"] for kind, row in at_ten.items()},
        "equal": min(row["equal"] for row in at_ten.values()),
        "bound_ratio": max(row["bound_ratio"] for row in at_ten.values()),
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
