"""Mutated recipes, cards, packs of wordings and run configs, read again by yaml and json."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import yaml

import unified_reward.recipes
import unified_reward_lab.recipes
from benchmarks.fuzz.kind import WrongReadError
from benchmarks.fuzz.mutate import ODD_TEXTS, json_text, mutate_bytes, mutate_text, mutate_value
from unified_reward.core.errors import ConfigError, DataError
from unified_reward.core.samples import Task
from unified_reward.data.mix import Mix
from unified_reward.io.config import as_data, load_config
from unified_reward.io.run_config import check_run_config, config_path
from unified_reward.judges.card import CARD, Calibration, Card, Head
from unified_reward.prompts import packs
from unified_reward.recipes.run import load_recipe
from unified_reward.recipes.stage import find_stage


SHARE = 10
_MIX = {
    "sources": [
        {"path": "a.jsonl", "weight": 0.5, "cells": {"image_generation.compare": 1}},
        {"path": "b.json", "source": "hpd", "media": "hpd", "weight": 2},
    ],
    "n": 1000,
    "seed": 3,
    "twins": True,
    "splits": {"train": 0.9, "test": 0.1},
    "exclude": ["ids.txt"],
}


def _recipe_texts() -> list[str]:
    folders = [*unified_reward.recipes.__path__, *unified_reward_lab.recipes.__path__]
    files = sorted(file for folder in folders for file in Path(folder).glob("*.yaml"))
    return [file.read_text("utf-8") for file in files]


def expect(got: Any, wanted: Any, name: str) -> None:
    """Hold the plain values of a configuration against those of its file."""
    if isinstance(wanted, dict) and isinstance(got, dict):
        for key, value in wanted.items():
            expect(got.get(str(key), got.get(key)), value, f"{name}.{key}")
    elif isinstance(wanted, list) and isinstance(got, list):
        if len(got) != len(wanted):
            raise WrongReadError(f"{name}: {len(got)} values, the file has {len(wanted)}")
        for i, (one, other) in enumerate(zip(got, wanted, strict=True)):
            expect(one, other, f"{name}.{i}")
    elif isinstance(got, float) and not math.isfinite(got):
        raise WrongReadError(f"{name} is {got}")
    elif not _is_same(got, wanted):
        raise WrongReadError(f"{name} is {got!r:.60}, the file says {wanted!r:.60}")


def _is_same(got: Any, wanted: Any) -> bool:
    if isinstance(got, bool) or isinstance(wanted, bool):
        return got is wanted or (isinstance(got, bool) and isinstance(wanted, str | int | float))
    if isinstance(got, int | float) and isinstance(wanted, str):
        return got == float(wanted)
    if isinstance(got, str) and isinstance(wanted, str):
        return got == wanted or got == str(Path(wanted))
    return got == wanted


class Recipes:
    """Files of settings."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.recipes = _recipe_texts()
        self.mixes = [yaml.safe_dump(_MIX)]
        head, calibration = (
            Head(("style",), tie_margin=0.5),
            Calibration(1.5, 0.7, "held back", 100),
        )
        self.cards = [
            asdict(Card("native", 8, "span_centres", 10_000, "base", {"steps": 3})),
            asdict(Card("compact", head=head, calibration=calibration)),
        ]
        texts = {"Q-IG-PAIR": "Which is better for ⟪prompt⟫?", "Q-IG-POINT": "Rate ⟪prompt⟫."}
        self.pack = {
            "schema": 1,
            "wordings": [
                {"name": name, "task": "image_generation", "form": form, "text": text}
                | {"sha256": hashlib.sha256(text.encode()).hexdigest()}
                for (name, text), form in zip(texts.items(), ("compare", "score"), strict=True)
            ],
        }
        self.steps = (self._recipe, self._recipe, self._mix, self._card, self._pack)
        self.steps += (self._clone, self._run_config)

    def check(self, rng: Random) -> bool:
        """Read one file of settings of any kind."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)
        self.folder.mkdir()
        try:
            rng.choice(self.steps)(rng)
        except (ConfigError, DataError):
            return False
        return True

    def _yaml(self, texts: list[str], rng: Random) -> tuple[Path, list[str]]:
        text = rng.choice(texts)
        for _ in range(rng.choice((0, 1, 1, 2))):
            if rng.random() < 0.7:
                with suppress(yaml.YAMLError):
                    value = mutate_value(yaml.safe_load(text), rng)
                    text = yaml.safe_dump(value, allow_unicode=True)
            else:
                text = mutate_text(text, rng)
        data = (rng.choice(("", "", "", "\ufeff")) + text).encode(errors="surrogatepass")
        path = self.folder / "recipe.yaml"
        path.write_bytes(mutate_bytes(data, rng) if rng.random() < 0.05 else data)
        key = rng.choice(
            ("judge.optim.lr", "out", "seed", "n", "bench.limit", "sources", "a.b", "")
        )
        value = rng.choice(("1", "true", ".nan", "[1", "{a: 1}", "1e-4", *ODD_TEXTS))
        override = rng.choice((f"{key}={value}", value, f"{key}={value}"))
        return path, [override] if rng.random() < 0.2 else []

    def _recipe(self, rng: Random) -> None:
        path, overrides = self._yaml(self.recipes, rng)
        recipe = load_recipe(path, overrides)
        for name, config in recipe.stages.items():
            find_stage(name).check(config, recipe)
        if not overrides:
            wanted = yaml.safe_load(path.read_text("utf-8-sig"))
            expect(str(recipe.out), wanted.pop("out"), "out")
            named = {key: value for key, value in wanted.items() if value is not None}
            expect({name: as_data(one) for name, one in recipe.stages.items()}, named, "recipe")

    def _mix(self, rng: Random) -> None:
        path, overrides = self._yaml(self.mixes, rng)
        config = load_config(Mix, path, overrides)
        if not overrides:
            expect(as_data(config), yaml.safe_load(path.read_text("utf-8-sig")), "mix")

    def _json(self, path: Path, value: Any, rng: Random) -> bytes:
        for _ in range(rng.choice((0, 1, 1, 2))):
            value = mutate_value(value, rng)
        text = json_text(value, rng)
        if rng.random() < 0.2:
            text = mutate_text(text, rng)
        data = (rng.choice(("", "", "", "\ufeff")) + text).encode(errors="surrogatepass")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return data

    def _card(self, rng: Random) -> None:
        data = self._json(self.folder / CARD, rng.choice(self.cards), rng)
        card = Card.read(self.folder)
        if card is not None:
            expect(
                json.loads(json.dumps(asdict(card))), json.loads(data.decode("utf-8-sig")), "card"
            )
            card.write(self.folder)
            if Card.read(self.folder) != card:
                raise WrongReadError("a card that is written reads otherwise")

    def _pack(self, rng: Random) -> None:
        repository = packs.REPOSITORY.split("/")[1].lower()
        self._json(self.folder / "packs" / f"{repository}.json", self.pack, rng)
        for wording in packs.installed_wordings(self.folder).values():
            text, digest = wording.text, wording.sha256
            if hashlib.sha256(text.encode()).hexdigest() != digest:
                raise WrongReadError(f"{wording.name} is not the wording of its hash")

    def _clone(self, rng: Random) -> None:
        """Import wordings of a clone whose file is mutated."""
        wording = 'a "quoted" {prompt}\\n' + "of words " * 5
        text = f"import os\n\ndef ask(x):\n    prompt = x\n    return f'{wording}' + \"end\"\n"
        published = f"{eval_text(wording)}end"
        prompts = [
            packs.Prompt("P", Task.IMAGE_GENERATION, "score", len(published), digest, "a/b.py", 5)
            for digest in [hashlib.sha256(published.encode()).hexdigest()[:12]]
        ]
        for _ in range(rng.choice((0, 1, 1, 2))):
            text = mutate_text(text, rng)
        data = text.encode(errors="surrogatepass")
        file = self.folder / "clone" / "a" / "b.py"
        file.parent.mkdir(parents=True)
        file.write_bytes(mutate_bytes(data, rng) if rng.random() < 0.2 else data)
        packs.import_pack(self.folder / "clone", self.folder / "home", expected=prompts)

    def _run_config(self, rng: Random) -> None:
        out = self.folder / "out.jsonl"
        out.write_text("{}\n", "utf-8")
        config = {"judge": "scripted:first", "orders": 2, "family": None}
        data = self._json(config_path(out), config | {"files": {}}, rng)
        check_run_config(out, config, {})
        known = json.loads(data.decode("utf-8-sig"))
        if any(known.get(key) != config.get(key) for key in {*known, *config} - {"files"}):
            raise WrongReadError("a run goes on with other settings than it began with")


def eval_text(literal: str) -> str:
    """The text of the f-string above, with its substitution in the way of the published table."""
    return literal.replace("\\n", "\n").replace("{prompt}", "⟪prompt⟫")
