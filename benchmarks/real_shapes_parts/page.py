"""Section of docs/results.md about speed at real shapes, made of the report."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from unified_reward_lab.experiments.page import table


AIMS = {
    "image_generation": 1.35,
    "video_generation": 1.6,
    "image_understanding": 3.0,
    "video_understanding": 8.0,
}
"""Batch by ours with answers of one token, N = 10."""
BOUND_AIM, LOOP_AIM, EQUAL_AIM = 1.15, 10.0, 0.999
_STAGES = {
    "encode": "encode",
    "prefill": "prefill from the start",
    "continue": "prefill behind a cache, and choices",
    "prepare": "prepare",
    "rest": "rest",
    "threads": "files, in threads",
}

_TOKEN_S = 15.2e9 / 400e12
"""Seconds of prefill of a token at 7B on a card."""
_STEP_S = 15e9 / 3e12
"""Seconds of a step of decoding there, which reads all weights."""
_IMAGE = 0.76 * 256
"""Tokens of prefill that cost as much as encoding an image."""

Cell = dict[str, Any]


def summary(report: dict[str, Any]) -> dict[str, Any]:
    """Ratios at N = 10 of the first architecture, by the batch's answers of one token."""
    cells = _at_ten(report)
    return {
        "speedup_over_batch": {cell["task"]: _by_ours(cell, "batch")["1"] for cell in cells},
        "bound_ratio": max(map(_of_bound, cells)),
        "equal": report["equality"]["all"]["share"],
    }


def page(report: dict[str, Any]) -> str:
    """The section, in Markdown."""
    lines = [
        "## Speed of judging at real shapes",
        "",
        *_introduction(report),
        "",
        *_speeds(report),
        "",
        *_aims(report),
        "",
        *_arithmetic(report),
        "",
        *_on_a_card(report),
        "",
        *_stages(report),
        "",
        *_pairs(report),
    ]
    return "\n".join(lines) + "\n"


def _at_ten(report: dict[str, Any]) -> list[Cell]:
    first = report["models"][0]["architecture"]
    return [cell for cell in report["cells"] if cell["architecture"] == first and cell["n"] == 10]


def _by_ours(cell: Cell, way: str) -> dict[str, float]:
    """Seconds of a way by those of ours, by length of the answers."""
    seconds = cell["seconds"]
    return {n: value / seconds["ours"] for n, value in seconds[way].items()}


def _bound(cell: Cell) -> float:
    return sum(cell["seconds"]["bound"].values())


def _of_bound(cell: Cell) -> float:
    return cell["seconds"]["ours"] / _bound(cell)


def _name(cell: Cell) -> list[Any]:
    return [cell["architecture"], cell["task"].replace("_", " "), cell["n"]]


def _introduction(report: dict[str, Any]) -> list[str]:
    models = "; ".join(
        f"{one['architecture']}, {one['parameters'] / 1e6:.0f} M parameters, "
        f"{one['vision_parameters'] / 1e6:.0f} M of them in the vision tower, "
        f"{1000 * one['token_s']:.2f} ms a token and {1e9 * one['pair_s']:.0f} ns a pair of "
        f"tokens that attention looks at, {1000 * one['image_s']:.0f} ms an image of "
        f"{one['image_tokens']} tokens"
        for one in report["models"]
    )
    return [
        "`benchmarks/real_shapes.py`, random weights with the widths of Qwen2.5-VL-7B and "
        "Qwen3-VL-8B divided by four, float32, one thread, processor time, the ways by turns in "
        "one run ([report](results/real_shapes.json)). Questions are those of rank+sift about N "
        "candidates, comparisons in both orders, with about 200 tokens of text; pictures of 512 x "
        f"512, clips of 8 frames. Rates: {models}.",
        "",
        "Loop: as published code asks, one question at a time, files opened, prepared and encoded "
        "anew, greedy generation to the end of the answer; measured on one score and one "
        "comparison a prompt and scaled. Batch: `generate` on batches of similar lengths, at most "
        "16 requests and 2,304 tokens or one request, which is fastest on this core, an image "
        "encoded for each request. Ours: `judge.ask`. "
        "Bound: each image encoded once, each distinct prefix prefilled once, in seconds of the "
        "same model just before and after ours: 8 images in a pass of the vision tower, and passes "
        "over plain text without padding or cache, from which seconds of a token and of a pair of "
        "tokens are fitted over the run. Opening and preparing files and the tokens of the choices "
        "are not in it. With answers of 200 tokens larger batches than these would be faster.",
        *(["", report["note"]] if "note" in report else []),
    ]


def _speeds(report: dict[str, Any]) -> list[str]:
    batch, loop = (
        sorted({n for cell in report["cells"] for n in cell["seconds"][way]}, key=int)
        for way in ("batch", "loop")
    )
    head = ["model", "asked about", "N"]
    head += [f"loop, s a prompt, {', '.join(loop)} tokens", f"batch, {', '.join(batch)}"]
    head += ["ours", "bound", *(f"batch : ours, answers of {n}" for n in batch)]
    head += [f"loop : ours, answers of {loop[-1]}", "ours : bound"]
    return table(head, (_speed_row(cell, batch, loop) for cell in report["cells"]))


def _speed_row(cell: Cell, batch: list[str], loop: list[str]) -> list[Any]:
    """Times and ratios of a cell; ``-`` for answers of a length that was not measured."""
    seconds, prompts = cell["seconds"], cell["prompts"]
    by_batch, by_loop = _by_ours(cell, "batch"), _by_ours(cell, "loop")
    row = _name(cell)
    for way, lengths in (("loop", loop), ("batch", batch)):
        known = seconds[way]
        row.append(", ".join(f"{known[n] / prompts:.1f}" if n in known else "-" for n in lengths))
    row += [f"{seconds['ours'] / prompts:.1f}", f"{_bound(cell) / prompts:.1f}"]
    row += [f"**{by_batch[n]:.2f}**" if n in by_batch else "-" for n in batch]
    row.append(f"**{by_loop[loop[-1]]:.1f}**" if loop[-1] in by_loop else "-")
    return [*row, f"{_of_bound(cell):.2f}"]


def _aims(report: dict[str, Any]) -> Iterator[str]:
    rows: list[list[str]] = []
    for cell in _at_ten(report):
        task = cell["task"].replace("_", " ")
        found, aim = _by_ours(cell, "batch")["1"], AIMS[cell["task"]]
        rows.append(
            [f"{task}, batch : ours", f"at least {aim}", f"{found:.2f}", _met(found >= aim)]
        )
    for cell in _at_ten(report):
        task = cell["task"].replace("_", " ")
        by_loop = _by_ours(cell, "loop")
        found = by_loop[max(by_loop, key=int)]
        text = f"{task}, loop : ours, answers of {max(by_loop, key=int)} tokens"
        rows.append([text, f"at least {LOOP_AIM:g}", f"{found:.1f}", _met(found >= LOOP_AIM)])
    for cell in _at_ten(report):
        task, found = cell["task"].replace("_", " "), _of_bound(cell)
        rows.append(
            [
                f"{task}, ours : bound",
                f"at most {BOUND_AIM}",
                f"{found:.2f}",
                _met(found <= BOUND_AIM),
            ]
        )
    equality = report["equality"]
    share = equality["all"]["share"]
    rows.append(
        ["equal verdicts", f"at least {EQUAL_AIM:.1%}", f"{share:.2%}", _met(share >= EQUAL_AIM)]
    )
    yield from table(["aim at N = 10", "wanted", "found", ""], rows)
    yield ""
    full, every = equality["full_shape"], equality["all"]
    yield (
        f"Verdicts: {every['compared']} were compared in float32 with those of the batch, and "
        f"of the loop where it was measured; {full['compared']} of them at full shape, the others "
        "of the same model and templates with pictures of 56 x 56 and shorter texts. "
        f"{every['near_ties']} near ties (lead of the most probable choice below 1e-4) are left "
        "out. The largest difference of two log-probabilities is "
        f"{every['largest_difference']:.1g}."
    )


def _met(is_met: bool) -> str:  # noqa: FBT001  the value itself
    return "met" if is_met else "**missed**"


def _arithmetic(report: dict[str, Any]) -> list[str]:
    head = ["model", "asked about", "N", "prefilled, batch", "bound", "ours", "of them choices"]
    head += ["server", "server : bound", "images, batch", "distinct"]
    head += ["batch : bound by tokens", "measured"]
    return [
        "Token arithmetic, a prompt. Server: what one with a prefix cache of blocks of 16 tokens "
        "(vLLM) prefills, one request after the other, nothing evicted, an image encoded once; by "
        "counting, not by running it. Positions of ours are counted with padding. Batch : bound by "
        "tokens takes the rates above; measured is the batch with answers of one token.",
        "",
        *table(head, (_arithmetic_row(report, cell) for cell in report["cells"])),
    ]


def _arithmetic_row(report: dict[str, Any], cell: Cell) -> list[Any]:
    (model,) = (one for one in report["models"] if one["architecture"] == cell["architecture"])
    tokens, prompts = cell["tokens"], cell["prompts"]
    positions = sum(n for name, n in cell["counts"].items() if name.startswith("positions"))
    counted = [tokens["plain"]["tokens"], tokens["distinct"]["tokens"], positions]
    counted += [tokens["choices"], tokens["served"]["tokens"]]
    plain, least = (_expected(model, tokens[name]) for name in ("plain", "distinct"))
    return [
        *_name(cell),
        *(f"{n / prompts:.0f}" for n in counted),
        f"{tokens['served']['tokens'] / tokens['distinct']['tokens']:.3f}",
        *(f"{tokens[name]['images'] / prompts:.0f}" for name in ("plain", "distinct")),
        f"{plain / least:.2f}",
        f"{cell['seconds']['batch']['1'] / _bound(cell):.2f}",
    ]


def _expected(model: dict[str, Any], count: dict[str, int]) -> float:
    """Seconds of counted tokens, by the rates of the model over the run."""
    rates = {"tokens": "token_s", "pairs": "pair_s", "images": "image_s"}
    return sum(count[name] * model[rate] for name, rate in rates.items())


def _on_a_card(report: dict[str, Any]) -> Iterator[str]:
    found: list[str] = []
    for cell in _at_ten(report):
        counts = cell["tokens"]
        plain, least = counts["plain"], counts["distinct"]
        prefill = _TOKEN_S * (plain["tokens"] + _IMAGE * plain["images"])
        loop = prefill + cell["questions"] * 200 * _STEP_S
        ours = _TOKEN_S * (least["tokens"] + counts["choices"] + _IMAGE * least["images"])
        found.append(f"{loop / ours:.1f} for {cell['task'].replace('_', ' ')}")
    yield (
        "A step of the loop costs this core as much as some 13 tokens of prefill, and a card at 7B "
        "130. There, by arithmetic and not by measurement (15.2 GFLOP a token at 400 TFLOP/s, an "
        "image as 195 tokens, 15 GB of weights at 3 TB/s a step), loop : ours with answers of 200 "
        f"tokens would be {', '.join(found)}."
    )


def _stages(report: dict[str, Any]) -> list[str]:
    head = ["model", "asked about", "N", *(f"{name}, s" for name in _STAGES.values()), "sum"]
    head += ["bound, images", "bound, tokens"]
    cells = [cell for cell in report["cells"] if cell["n"] == 10]
    return ["Stages of ours, a prompt:", "", *table(head, map(_stage_row, cells))]


def _stage_row(cell: Cell) -> list[Any]:
    stages, seconds = cell["stages"], cell["seconds"]
    values = [stages.get(name, 0.0) for name in _STAGES]
    values += [seconds["ours"], seconds["bound"]["images"], seconds["bound"]["tokens"]]
    return [*_name(cell), *(f"{value / cell['prompts']:.2f}" for value in values)]


def _pairs(report: dict[str, Any]) -> Iterator[str]:
    for row in report["pairs"]:
        seconds = row["seconds"]
        yield (
            f"Pairs as they are made ({row['architecture']}, {row['task'].replace('_', ' ')}, "
            f"N = {row['n']}: comparisons first, then scores of the same candidates): "
            f"{seconds['pairs']:.1f} s a prompt, beside {seconds['ask']:.1f} s for all questions "
            f"in a single ask ({seconds['pairs'] / seconds['ask']:.2f})."
        )
