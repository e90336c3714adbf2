"""Tools of all parts: guarded rows, timing on a device, weights made on it, counted FLOPs."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode


Row = dict[str, Any]
FAULTS = (
    *(ValueError, RuntimeError, ArithmeticError, LookupError, TypeError, AttributeError),
    *(ImportError, OSError, AssertionError),
)
"""Errors of one measurement, among them that a package is missing and that memory is full."""
GIB = 2**30


class Run(NamedTuple):
    """The device of a run, its sizes, and the time that it may take."""

    device: torch.device
    tiny: bool
    deadline: float
    """By `time.monotonic`."""

    def left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def at_least(self, seconds: float) -> bool:
        """True if so much time is left; tiny sizes take none."""
        return self.tiny or self.left() > seconds


def guarded(name: str, measure: Callable[[], Row]) -> Row:
    """A row of figures under a name; an error of the measurement becomes its ``error``."""
    from unified_reward.core.errors import UnifiedRewardError, one_line

    try:
        return {"name": name, **measure()}
    except ModuleNotFoundError as error:
        return {"name": name, "error": f"{error.name} is not installed: pip install {error.name}"}
    except torch.OutOfMemoryError as error:
        return {"name": name, "error": f"out of memory: {one_line(error, 200)}"}
    except (*FAULTS, UnifiedRewardError) as error:
        return {"name": name, "error": f"{type(error).__name__}: {one_line(error)}"}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clear(device: torch.device) -> None:
    """Free what nothing refers to any more, and measure peak memory from here on."""
    if device.type == "cuda":
        gc.collect()
        synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def peak_gib(device: torch.device) -> float | None:
    """Peak of the memory in tensors since `clear`, in GiB; None where it is not counted."""
    if device.type != "cuda":
        return None
    return torch.cuda.max_memory_allocated(device) / GIB


def seconds_of(call: Callable[[], Any], run: Run, *, budget: float = 2.0) -> float:
    """Median seconds of a call after one that is not counted.

    Args:
        call: Repeated up to 20 times, at least twice.
        run: Its device, and whether one repeat is enough.
        budget: Seconds after which it is not repeated any more.
    """
    times: list[float] = []
    start = time.monotonic()
    for _ in range(2 if run.tiny else 21):
        synchronize(run.device)
        before = time.perf_counter()
        call()
        synchronize(run.device)
        times.append(time.perf_counter() - before)
        if len(times) > 2 and time.monotonic() - start > budget:
            break
    return statistics.median(times[1:])


@contextmanager
def made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Make the tensors of new modules on a device in a dtype; their own code initialises them.

    Buffers, such as the frequencies of rotary positions, thus have their values.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


class _Kernels(TorchDispatchMode):
    """Collects the names of operators of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith("_") and "attention" in name:
            self.names.add(name)
        return func(*args, **(kwargs or {}))


class Work(NamedTuple):
    """Floating-point operations of a call, and the kernels of its attention."""

    flops: float
    """Two for a multiplication with addition; attention in full, also where half is masked."""
    kernels: list[str]


def work_of(call: Callable[[], Any]) -> Work:
    """Count a call by torch's FLOP counter, which does not know attention on a CPU."""
    kernels = _Kernels()
    # Not in inference mode, in which attention is not taken apart into its kernels.
    with torch.no_grad(), FlopCounterMode(display=False) as counter, kernels:
        call()
    return Work(float(counter.get_total_flops()), sorted(kernels.names))


def speed(run: Run, call: Callable[[], Any], dtype: torch.dtype, *, budget: float = 2.0) -> Row:
    """Seconds, TFLOP/s and peak memory of a call."""
    with torch.no_grad():
        call()  # what is made once, such as features of captions, is not counted
    work = work_of(call)
    clear(run.device)
    with torch.inference_mode():
        seconds = seconds_of(call, run, budget=budget)
    return {
        "seconds": seconds,
        "tflops": work.flops / seconds / 1e12,
        "dtype": str(dtype).removeprefix("torch."),
        "attention": ", ".join(work.kernels),
        "peak_gib": peak_gib(run.device),
    }
