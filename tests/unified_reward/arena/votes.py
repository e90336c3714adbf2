"""Votes of raters on pairs of pictures, made for tests."""

import json
from pathlib import Path

from unified_reward.core.samples import Example, Image, Task
from unified_reward.io.vote_rows import Vote


def vote(folder, choice="a", rater="ann", item="i1", **more):
    """Make a vote on the pictures ``ITEM-a.png`` and ``ITEM-b.png`` of a folder."""
    pictures = (Image(folder / f"{item}-a.png"), Image(folder / f"{item}-b.png"))
    about = {"tags": {"prompt_id": item, "category": "animals"}, **more.pop("about", {})}
    example = Example(Task.IMAGE_GENERATION, f"a cat {item}", pictures, id=item, **about)
    given = {"a": "new", "b": "old", "seconds": 2.5, "order": "ab", "at": "2026-11-30T12:00:00Z"}
    return Vote(example, vote=choice, rater=rater, **(given | more))


def write_votes(path: Path, votes) -> Path:
    """Write votes as an arena does."""
    rows = [json.dumps(each.row(path.parent)) + "\n" for each in votes]
    path.write_text("".join(rows), "utf-8")
    return path
