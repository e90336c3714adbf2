"""The card's peaks: published ones by its name, and those of a large product and a large copy."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.util import find_spec
from typing import NamedTuple

import torch
import transformers

from benchmarks.gpu_parts.run import GIB, Row, Run, clear, guarded, seconds_of


class Peak(NamedTuple):
    """Published peaks without sparsity: TFLOP/s by dtype, TB/s of memory."""

    bfloat16: float
    float32: float
    bandwidth: float


PUBLISHED = {
    "B200": Peak(2250, 80, 8.0),
    "GH200": Peak(989, 67, 4.0),
    "H200": Peak(989, 67, 4.8),
    "H100 NVL": Peak(835, 60, 3.9),
    "H100 PCIe": Peak(756, 51, 2.0),
    "H100": Peak(989, 67, 3.35),
    "H20": Peak(148, 44, 4.0),
    "A100-SXM4-80GB": Peak(312, 19.5, 2.04),
    "A100 80GB": Peak(312, 19.5, 1.94),
    "A100": Peak(312, 19.5, 1.56),
    "L40S": Peak(362, 91.6, 0.864),
    "L40": Peak(181, 90.5, 0.864),
    "L4": Peak(121, 30.3, 0.3),
    "A10": Peak(125, 31.2, 0.6),
    "RTX 6000 Ada": Peak(364, 91.1, 0.96),
    "RTX A6000": Peak(155, 38.7, 0.768),
    "RTX 5090": Peak(209, 105, 1.79),
    "RTX 4090": Peak(165, 82.6, 1.01),
    "RTX 3090": Peak(71, 35.6, 0.936),
}
"""By a part of the card's name, first match wins; data sheets of NVIDIA."""


def published(card: str) -> Peak | None:
    """Published peaks of a card; None if the table has no such card.

    >>> published("NVIDIA H200").bandwidth
    4.8
    """
    return next((peak for name, peak in PUBLISHED.items() if name in card), None)


def measure(run: Run) -> Iterator[Row]:
    """The machine and its versions, and its peaks."""
    yield guarded("machine", lambda: _machine(run))
    for dtype in (torch.bfloat16, torch.float32):
        yield guarded(f"product, {dtype}".replace("torch.", ""), lambda d=dtype: _product(run, d))
    yield guarded("copy", lambda: _copy(run))


def _machine(run: Run) -> Row:
    facts: Row = {
        "card": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
        "flash_attn": find_spec("flash_attn") is not None,
        "tf32": torch.backends.cuda.matmul.allow_tf32,
    }
    if run.device.type == "cuda":
        properties = torch.cuda.get_device_properties(run.device)
        facts |= {
            "card": properties.name,
            "memory_gib": properties.total_memory / GIB,
            "cuda": torch.version.cuda,
        }
    peak = published(facts["card"]) if run.device.type == "cuda" else None
    return facts | {"published": peak._asdict() if peak else None}


def _product(run: Run, dtype: torch.dtype) -> Row:
    side = 256 if run.tiny else 8192
    clear(run.device)
    a, b = (torch.randn(side, side, device=run.device, dtype=dtype) for _ in range(2))
    seconds = seconds_of(lambda: a @ b, run)
    return {"side": side, "seconds": seconds, "tflops": 2 * side**3 / seconds / 1e12}


def _copy(run: Run) -> Row:
    n_bytes = 2**20 if run.tiny else 2 * GIB
    clear(run.device)
    a = torch.zeros(n_bytes, dtype=torch.uint8, device=run.device)
    b = torch.empty_like(a)
    seconds = seconds_of(lambda: b.copy_(a), run)
    return {"bytes": n_bytes, "seconds": seconds, "tb_per_s": 2 * n_bytes / seconds / 1e12}
