"""Folders of tiny random checkpoints whose JSON and chat templates are mutated."""

from __future__ import annotations

import builtins
import json
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import transformers

from benchmarks.fuzz.answers import check_verdict
from benchmarks.fuzz.kind import WrongReadError
from benchmarks.fuzz.mutate import json_text, mutate_bytes, mutate_text, mutate_value
from unified_reward.core.errors import UnifiedRewardError
from unified_reward.core.samples import Image, Sample, Task
from unified_reward.core.verdicts import Failed, Unparsed
from unified_reward.judges.card import Card
from unified_reward.judges.registry import open_judge


SHARE = 5
_TEXTS = (".json", ".jinja")
_LARGE = 200_000
"""Files above this are mutated as text: their values are the vocabulary."""
_SPY = "ran.txt"
_CODE = f"from pathlib import Path\nPath(__file__).with_name({_SPY!r}).write_text('')\n"


def _adapter(base: Path, folder: Path) -> None:
    import peft

    from unified_reward.backends.hf_vlm import load_vlm

    model = load_vlm(
        base, device="cpu", dtype=None, max_pixels=None, batch_size=None, quantize=None
    )
    adapted = peft.get_peft_model(model.model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    adapted.save_pretrained(folder)


def _sharded(source: Path, folder: Path) -> None:
    shutil.copytree(source, folder)
    (folder / "model.safetensors").unlink()
    model = transformers.AutoModelForImageTextToText.from_pretrained(
        source, trust_remote_code=False
    )
    model.save_pretrained(folder, max_shard_size="100KB")


@contextmanager
def _no_questions() -> Iterator[None]:
    """Nothing is asked on the terminal."""

    def refuse(*_: object) -> str:
        raise WrongReadError("standard input is read")

    stdin, ask = sys.stdin, builtins.input
    builtins.input = refuse
    sys.stdin = None
    try:
        yield
    finally:
        sys.stdin, builtins.input = stdin, ask


class Checkpoints:
    """The three architectures, an adapter and a checkpoint in shards."""

    def __init__(self, folder: Path) -> None:
        from tests.tiny import ARCHITECTURES

        transformers.logging.set_verbosity(transformers.logging.CRITICAL)
        transformers.logging.disable_progress_bar()
        self.folder = folder / "judge"
        self.seeds: list[Path] = []
        for name, build in ARCHITECTURES.items():
            built = build(folder / name)
            Card("compact", frames=2).write(built)
            self.seeds.append(built)
        _sharded(folder / "qwen3_vl", folder / "sharded")
        _adapter(folder / "qwen3_vl", folder / "adapter")
        self.seeds += [folder / "sharded", folder / "adapter"]
        image = Image(np.full((40, 60, 3), 90, np.uint8), "HWC")
        task = Task.IMAGE_GENERATION
        self.samples = [
            Sample(task, "a red <|im_end|> circle", (image,), id="a"),
            Sample(task, "rate", (image, image), id="b"),
        ]

    def check(self, rng: Random) -> bool:
        """Open one judge, and ask it."""
        seed = rng.choice(self.seeds)
        is_sound = self._copy(seed, rng)
        try:
            with _no_questions():
                judge = open_judge(self.folder, device="cpu")
                verdicts = judge.ask(self.samples)
        except UnifiedRewardError as error:
            if is_sound:
                raise WrongReadError(f"a sound checkpoint is refused: {error}") from error
            return False
        finally:
            if (self.folder / _SPY).exists():
                raise WrongReadError("code of the folder ran")
        for verdict in verdicts:
            check_verdict(verdict, None)
        if is_sound and any(isinstance(one, Failed) for one in verdicts):
            raise WrongReadError(f"a sound checkpoint fails: {verdicts!r:.150}")
        return not any(isinstance(one, Failed | Unparsed) for one in verdicts)

    def _copy(self, seed: Path, rng: Random) -> bool:
        """Make the folder, links to all files but one that is mutated; True if none is."""
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        for file in seed.iterdir():
            (self.folder / file.name).symlink_to(file)
        if rng.random() < 0.05:
            return True
        for _ in range(rng.choice((1, 1, 2))):
            files = sorted(file for file in seed.iterdir() if file.suffix in _TEXTS)
            source = rng.choice(files)
            target = self.folder / source.name
            if target.exists():
                target.unlink()
                self._mutate(source, target, rng)
        return False

    def _mutate(self, source: Path, target: Path, rng: Random) -> None:
        data = source.read_bytes()
        action = rng.randrange(12)
        if action == 0:
            return  # the file is missing
        if action == 1:
            target.write_bytes(mutate_bytes(data, rng))
            return
        if action == 2:
            (self.folder / "spy.py").write_text(_CODE, "utf-8")
        if source.suffix == ".jinja" or len(data) > _LARGE:
            target.write_bytes(mutate_text(data.decode(), rng).encode(errors="surrogatepass"))
            return
        value: Any = json.loads(data)
        if action == 2:
            names = ("AutoConfig", "AutoModelForImageTextToText", "AutoProcessor", "AutoTokenizer")
            value["auto_map"] = dict.fromkeys(names, "spy.Spy")
            value |= {"model_type": "spy"} if rng.random() < 0.5 else {}
        else:
            for _ in range(rng.choice((1, 1, 2))):
                value = mutate_value(value, rng)
        mark = "\ufeff" if rng.random() < 0.05 else ""
        target.write_bytes((mark + json_text(value, rng)).encode(errors="surrogatepass"))
