"""Arenas for a browser: records with small media, in this process or in one that can be killed."""

import contextlib
import json
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from tests.unified_reward.serve.running import running
from unified_reward import media
from unified_reward.arena.app import create_app
from unified_reward.arena.items import read_items
from unified_reward.arena.journal import open_votes
from unified_reward.arena.media import MediaStore
from unified_reward.arena.queue import QueueConfig
from unified_reward.arena.service import Arena, ArenaConfig
from unified_reward.arena.tokens import Tokens, open_tokens


MODELS = ("secret-old", "secret-new")
"""Names that must not reach a rater."""
RATERS = ("ann", "bob")
MARKUP = "<img src=x onerror=alert(1)>"
"""Text that must stay text wherever it is shown."""


@dataclass(frozen=True)
class Site:
    """An arena that runs."""

    url: str
    tokens: Tokens
    votes: Path

    def page(self, rater):
        """Link of a rater; of the owner for None."""
        if rater is None:
            return f"{self.url}/standings#{self.tokens.owner}"
        return f"{self.url}/#{self.tokens.raters[rater]}"

    def rows(self):
        """Rows of the journal."""
        if not self.votes.exists():
            return []
        return [json.loads(line) for line in self.votes.read_text().splitlines()]


def picture(path, level, side=48):
    """Write a dark picture with a square of a grey level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((side, side, 3), 30, np.uint8)
    pixels[side // 4 : side // 2, side // 4 : side // 2] = level
    PIL.Image.fromarray(pixels).save(path)
    return {"image": str(path)}


def clip(path, n_frames, level=200):
    """Write ten frames a second of a square that moves."""
    pixels = np.full((n_frames, 64, 64, 3), 30, np.uint8)
    for i in range(n_frames):
        pixels[i, 20:30, i % 50 : i % 50 + 10] = level
    path.write_bytes(media.encode_mp4(pixels, 10))
    return {"video": str(path)}


def row(place, *candidates, task="image_generation", prompt=None, **others):
    """A record of two candidates by both models."""
    tags = dict(zip(("model_first", "model_second"), MODELS, strict=True))
    about = {"id": f"pair-{place}", "task": task, "prompt": prompt or f"a square {place}"}
    return {**about, "candidates": list(candidates), "tags": tags, **others}


def pictures(folder, n):
    """Records of n pairs of pictures."""
    levels = [round(220 * i / max(1, n - 1)) for i in range(n)]
    return [
        row(i, *(picture(folder / model / f"{i}.png", level) for model in MODELS))
        for i, level in enumerate(levels)
    ]


def clips(folder, n=1):
    """A record of two clips of 2 s."""
    files = [clip(folder / f"{model}.mp4", 20, level=90 + 90 * i) for i, model in enumerate(MODELS)]
    return [row(f"clip {i}", *files, task="video_generation") for i in range(n)]


def kinds(folder):
    """Records of each kind of question, with a broken video that is never asked."""
    image = picture(folder / "source.png", 100)
    video = clip(folder / "clip.mp4", 20)
    edits = [picture(folder / model / "edit.png", 150) for model in MODELS]
    cut = folder / "cut.mp4"
    cut.write_bytes((folder / "clip.mp4").read_bytes()[:300])
    answers = {"text": f"  one\n\ttwo {MARKUP}"}, {"text": "ثلاثة"}
    return [
        *pictures(folder, 1),
        *clips(folder),
        row("edit", *edits, task="image_editing", context=[image]),
        row("asked", *answers, task="image_understanding", context=[image], prompt="How many?"),
        row("seen", *answers, task="video_understanding", context=[video], prompt="How many?"),
        row("cut", {"video": str(cut)}, video, task="video_generation"),
    ]


def write_records(folder, rows):
    """Write records into a file."""
    path = folder / "records.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@contextlib.contextmanager
def site(folder, rows, *, aspects=(), judge=None, title="Squares", **queue):
    """Run an arena in this process; yields the site."""
    votes = folder / "votes.jsonl"
    given = read_items([str(write_records(folder, rows))])
    tokens = open_tokens(folder / "tokens.json", RATERS)
    config = ArenaConfig(title, aspects, QueueConfig(**{"repeat_share": 0, **queue}), judge)
    with open_votes(votes) as journal, tempfile.TemporaryDirectory() as converted:
        store = MediaStore(given.items, tokens.key, Path(converted))
        arena = Arena(given, journal, store, tokens.key, config)
        with running(create_app(arena, tokens, is_loopback=True)) as url:
            yield Site(url, tokens, votes)


class Process:
    """An arena of its own process, by the command line, on one port."""

    def __init__(self, folder, rows):
        """Start it."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._records = write_records(folder, rows)
        self._votes = folder / "votes.jsonl"
        self.start()

    def start(self):
        """Start it, again on the port it had."""
        raters = [part for name in RATERS for part in ("--rater", name)]
        command = [sys.executable, "-m", "unified_reward", "arena", str(self._records), *raters]
        options = ["--out", str(self._votes), "--repeat", "0", "--port", str(self._port)]
        self._process = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        links = [self._process.stdout.readline() for _ in range(len(RATERS) + 1)]
        assert "/standings#" in links[-1], links
        tokens = open_tokens(self._votes.with_name(f"{self._votes.name}.tokens.json"), ())
        self.site = Site(f"http://127.0.0.1:{self._port}", tokens, self._votes)

    def kill(self):
        """End it as a loss of power does."""
        self._process.kill()
        self._process.wait()
        self._process.stdout.close()
