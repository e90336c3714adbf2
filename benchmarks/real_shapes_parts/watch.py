"""Seconds by stage and positions of the language model, through wrappers around what ours calls."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import wraps
from typing import Any


class Watch:
    """Processor time of the main thread by stage; a stage within another counts alone."""

    def __init__(self, vlm: Any) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.counts: Counter[str] = Counter()
        self._open: list[float] = []
        self._undo: list[tuple[Any, str]] = []
        trunk = vlm.model.model
        self._wrap(vlm.chat.processor.image_processor, "preprocess", "prepare")
        self._wrap(trunk, "get_image_features", "encode")
        self._wrap(trunk.language_model, "forward", self._phase)

    def close(self) -> None:
        """Take the wrappers away."""
        for owner, name in self._undo:
            delattr(owner, name)

    def _wrap(self, owner: Any, name: str, stage: str | Callable[[Any], str]) -> None:
        real = getattr(owner, name)

        @wraps(real)
        def timed(*args: Any, **kwargs: Any) -> Any:
            label = stage if isinstance(stage, str) else stage(kwargs)
            self.counts[f"passes of {label}"] += 1
            with self.at(label):
                return real(*args, **kwargs)

        setattr(owner, name, timed)
        self._undo.append((owner, name))

    @contextmanager
    def at(self, stage: str) -> Generator[None]:
        """Time of a stage; that of a stage within belongs to the inner one."""
        start = time.thread_time()
        self._open.append(0.0)
        yield
        spent = time.thread_time() - start
        self.seconds[stage] += spent - self._open.pop()
        if self._open:
            self._open[-1] += spent

    def _phase(self, kwargs: Any) -> str:
        cache = kwargs.get("cache")
        embeds = kwargs["inputs_embeds"]
        label = "continue" if cache is not None and cache.get_seq_length() else "prefill"
        self.counts[f"positions of {label}"] += embeds.shape[0] * embeds.shape[1]
        return label
