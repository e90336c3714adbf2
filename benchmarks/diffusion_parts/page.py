"""Section of docs/results.md about the speed of alignment at real shapes."""

from __future__ import annotations

from typing import Any

from benchmarks.diffusion_parts.arithmetic import EPOCHS


AIM = 2.0
NAMES = {"unet": "UNet", "dit": "DiT"}


def page(report: dict[str, Any]) -> str:
    """Section in Markdown of a report of `benchmarks.diffusion_shapes`."""
    return "\n\n".join(
        [
            "## Speed of alignment at real shapes",
            _method(report),
            _table(_DPO, [_dpo_row(*item) for item in report["dpo"].items()]),
            _verdict(report),
            _memory(report),
            _table(_GRPO, [_grpo_row(*item) for item in report["grpo"].items()]),
            _grpo_text(report),
            _table(_COSTS, [_cost_row(*item) for item in report["arithmetic"].items()]),
            _COSTS_TEXT,
        ]
    )


_DPO = (
    "DPO of a random, with adapters",
    "published, s a step",
    "ours",
    "published : ours",
    "encoding a pair once, s",
    f"over {EPOCHS} epochs with it",
    "paid back after epochs",
)
_GRPO = (
    "GRPO of a random",
    "passes a sample, published",
    "ours",
    "published, s an update",
    "ours",
    "published : ours",
)
_COSTS = (
    "network",
    "weights, M",
    "a pass, 10⁹ multiplications",
    "a picture encoded",
    "a prompt encoded",
    "step, published : ours",
    f"over {EPOCHS} epochs with encoding",
)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _method(report: dict[str, Any]) -> str:
    side = report["pixels"]
    return (
        f"`python -m benchmarks.diffusion_shapes`, {side} x {side} pixels, one thread, processor "
        "time, both ways by turns in one run ([report](results/diffusion_shapes.json)). Random "
        "networks: a UNet with the proportions of Stable Diffusion 1 and a transformer with those "
        "of Stable Diffusion 3; autoencoder and text encoders have the published size. One pair a "
        "step; adapters, noise, optimiser and losses are the same. Published: a second copy of the "
        "network as reference, files opened and autoencoder and text encoders run in every step. "
        "Ours: encoded once, the reference by switching adapters off. Brackets: least and largest "
        "of the turns."
    )


def _epochs(found: dict[str, Any]) -> tuple[float, float]:
    """Ratio of a training with encoding, and epochs after which encoding is paid back."""
    published, ours = (found["median_s"][way] for way in ("published", "ours"))
    encoding = found["encode_pair_s"]
    return EPOCHS * published / (EPOCHS * ours + encoding), encoding / (published - ours)


def _epochs_to_aim(found: dict[str, Any]) -> float:
    """Epochs after which a training with encoding is as many times faster as is aimed at."""
    published, ours = (found["median_s"][way] for way in ("published", "ours"))
    gain = published - AIM * ours
    return AIM * found["encode_pair_s"] / gain if gain > 0 else float("inf")


def _ratio(found: dict[str, Any]) -> str:
    least, most = f"{found['ratio_least']:.2f}", f"{found['ratio_most']:.2f}"
    return f"**{found['ratio']:.2f}**" + (f" ({least} to {most})" if least != most else "")


def _dpo_row(kind: str, found: dict[str, Any]) -> tuple[str, ...]:
    training, epochs = _epochs(found)
    return (
        f"{NAMES[kind]}, {found['parameters'] / 1e6:.1f} M",
        f"{found['median_s']['published']:.2f}",
        f"{found['median_s']['ours']:.2f}",
        _ratio(found),
        f"{found['encode_pair_s']:.2f}",
        f"{training:.2f}",
        f"{epochs:.2f}",
    )


def _verdict(report: dict[str, Any]) -> str:
    found = report["dpo"].values()
    ratios, trainings = [one["ratio"] for one in found], [_epochs(one)[0] for one in found]
    apart = max(one["largest_difference_of_losses"] for one in found)
    prepare = max(one["prepare_s"] for one in found)
    is_met = min(ratios) >= AIM
    late = max(_epochs_to_aim(one) for one in found)
    return (
        f"The aim of {AIM:g} is {'met' if is_met else 'missed'} for a step (least {min(ratios):.2f}"
        f"); with encoding included it is {'met' if min(trainings) >= AIM else 'missed'} over "
        f"{EPOCHS} epochs, as many as published (least {min(trainings):.2f}), "
        f"and reached after {late:.1f}. Losses differ by "
        f"{apart:.0e} at most. Before the first pair ours also runs the pipeline to understand it, "
        f"up to {prepare:.1f} s once a run."
    )


def _memory(report: dict[str, Any]) -> str:
    texts = [
        f"{NAMES[kind]} {peaks['published']['steps']:,.0f} MiB published, and of ours "
        f"{peaks['ours']['encoding']:,.0f} while encoding and {peaks['ours']['steps']:,.0f} while "
        "training"
        for kind, peaks in report["peak_mib"].items()
    ]
    return (
        f"Peak memory above the loaded pipeline, of a process for each way: {'; '.join(texts)}. "
        "The autoencoder's activations are most of it while it runs."
    )


def _grpo_row(kind: str, found: dict[str, Any]) -> tuple[str, ...]:
    passes, medians = found["passes_of_a_sample"], found["median_s"]
    return (
        NAMES[kind],
        f"{passes['published']:.0f}",
        f"{passes['library']:.0f}",
        f"{medians['published']:.1f}",
        f"{medians['library']:.1f}",
        _ratio(found),
    )


def _grpo_text(report: dict[str, Any]) -> str:
    first = next(iter(report["grpo"].values()))
    apart = max(max(found["differences"].values()) for found in report["grpo"].values())
    return (
        f"A group of {first['group']} samples in {first['steps']} steps an update, and a reward "
        "that costs nothing. Published: a sampling loop of its own, every step but the last "
        "stochastic and trained. Ours: the unmodified pipeline with a window of two steps, and one "
        "pass of the reference, which is a figure of the log. A backward pass counts as two. Both "
        "decode every sample, which no window saves. For a window of all steps both make the same "
        f"latents and gradients (relative difference {apart:.0e}, at a tiny size). What is proven "
        f"once in a run, {first['proof_s']:.1f} s, is not counted. Whether two steps teach as much "
        "was not measured."
    )


def _cost_row(name: str, cost: dict[str, Any]) -> tuple[str, ...]:
    return (
        name,
        f"{cost['parameters'] / 1e6:,.0f}",
        f"{cost['network']:,.0f}",
        f"{cost['vae']:,.0f}",
        f"{cost['text']:,.0f}",
        f"{cost['step']:.2f}",
        f"{cost['training']:.2f}",
    )


_COSTS_TEXT = (
    "By arithmetic, not by measurement: multiplications at 512 x 512 on networks without weights. "
    "A pair is six passes (reference, forward, and a backward pass that under adapters costs one "
    "more, of both pictures); published adds two pictures and a prompt. **What encoding once saves "
    "falls with the size of the network**: it is most of a step here, a third for Stable Diffusion "
    "1.5, and next to nothing for FLUX."
)
