"""Official benchmarks, by name; each file says what is known of its protocol."""

from __future__ import annotations

from unified_reward.bench.benchmark import Benchmark
from unified_reward.bench.protocols import (
    fetv,
    genai_bench,
    hpdv2,
    imagereward,
    mmrb2,
    multimodal_rewardbench,
    nlvr,
    pickapic,
    sharegptvideo,
    videogen_rewardbench,
    videorewardbench,
    vl_rewardbench,
)


_FILES = (
    *(fetv, genai_bench, hpdv2, imagereward, mmrb2, multimodal_rewardbench, nlvr, pickapic),
    *(sharegptvideo, videogen_rewardbench, videorewardbench, vl_rewardbench),
)
PROTOCOLS: dict[str, Benchmark] = {one.name: one for file in _FILES for one in file.PROTOCOLS}

__all__ = ["PROTOCOLS"]
