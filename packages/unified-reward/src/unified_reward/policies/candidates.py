"""Candidates of prompts, made by a policy: in memory, or as rows of a file that is resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from unified_reward import media, policies
from unified_reward.core.errors import DataError, MediaError, ModelError, one_line
from unified_reward.core.samples import Candidate, Example, Image, Task, Video, check_context
from unified_reward.core.verdicts import Failed
from unified_reward.io.candidate_files import store_candidate
from unified_reward.io.rows import Row, parts_rows
from unified_reward.io.run_config import Origin
from unified_reward.judges.bulk import OutputRows, Worker
from unified_reward.judges.files import checkpoint_files


def make_candidates(
    prompts: Iterable[str | Example],
    policy: policies.Policy,
    *,
    n: int = 10,
    seed: int = 0,
    log: Callable[[str], None] | None = None,
) -> Iterator[Example]:
    """Sample candidates of prompts, in memory; `make_pairs` finds pairs among them.

    They are those that the command ``candidates`` makes of the same ids. It writes files as it
    goes, and a stopped run is resumed: take it for many prompts.

    Args:
        prompts: Captions; or examples, such as questions and edits with their ``context``, whose
            own candidates are not read. The id of a caption is the caption itself.
        policy: A policy, as from `load_policy`.
        n: Candidates of a prompt, >= 1.
        seed: Seed of the run; a candidate also depends on the id of its prompt and on its place.
        log: Called with the prompt and the reason where candidates are missing. Without it, a
            prompt of which all are missing is an error.

    Yields:
        The examples, in order, each with its candidates as soon as they are made: images and videos
        as pixels, or answers; none where they could not be made.

    Raises:
        DataError: An id stands twice, or ``n`` is below 1.
        ModelError: There is no candidate of a prompt, and no ``log``.

    Example::

        candidates = ur.make_candidates(["a red star"], ur.load_policy("tiny_image"), n=4)
        pairs = ur.make_pairs(candidates, ur.open_judge("tiny_judge"))
        ur.write_pairs(pairs, "pairs.jsonl")
    """
    if n < 1:
        raise DataError(f"n is the number of candidates, >= 1, not {n}")
    ids = set[str]()
    for given in prompts:
        prompt = Example(policy.tasks[0], given, id=given) if isinstance(given, str) else given
        if prompt.id in ids:
            raise DataError(f"duplicate id {prompt.id!r}: give each prompt an id of its own")
        ids.add(prompt.id)
        seeds = policies.seeds(prompt.id, n, seed)
        candidates, reason = _sampled(prompt, policy, seeds, keep=lambda made: made)
        if reason and log:
            log(f"{prompt.id}: {reason}")
        elif reason and not candidates:
            raise ModelError(f"{prompt.id}: {reason}")
        yield Example(
            prompt.task,
            prompt.prompt,
            _shared(candidates),
            prompt.context,
            prompt.criteria,
            prompt.id,
            tags=prompt.tags,
        )


def _shared(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Candidates of which those of equal pixels are the same object, as equal files are equal."""
    firsts: dict[str, Candidate] = {}
    return tuple(
        firsts.setdefault(media.content_hash(each), each)
        if isinstance(each, Image | Video)
        else each
        for each in candidates
    )


@dataclass(frozen=True)
class CandidateWork:
    """A row of candidates for every row of prompts, as `judges.bulk` runs it.

    A candidate depends on the policy, its options, the id of its prompt, its place among the
    candidates and the seed, as far as the model's arithmetic does not depend on the batch; a
    resumed run makes the same batches.
    """

    folder: Path
    """Folder of the output file; media go to ``media/`` in it."""
    policy: policies.Policy
    n: int
    """Candidates of a prompt, >= 1."""
    seed: int
    """Random seed of the run."""

    @property
    def origin(self) -> Origin:
        """Settings and files of the policy, and the prompts; candidates in them are not read."""
        policy = self.policy
        config = {"policy": policy.name, "seed": self.seed, "n": self.n}
        config |= {"batch_size": policy.batch_size, "dtype": policy.dtype, **asdict(policy.options)}
        reads = ("task", "prompt", "context", "criteria", "tags")
        return Origin(config, partial(checkpoint_files, policy.name), reads)

    def open(self) -> Worker:
        """Return the worker of the policy, which is loaded."""
        return self._rows

    def _rows(self, rows: Sequence[Row]) -> OutputRows:
        return [self._row(row) for row in rows]

    def _row(self, row: Row) -> dict[str, Any]:
        prompt, candidates, reason = row.content, list[Candidate](), None
        if isinstance(prompt, Failed):
            prompt, reason = None, prompt.reason
        else:
            seeds = policies.seeds(row.id, self.n, self.seed)
            keep = partial(store_candidate, folder=self.folder)
            candidates, reason = _sampled(prompt, self.policy, seeds, keep=keep)
        parts = parts_rows(candidates, self.folder)
        return {
            "id": row.id,
            "status": "generated" if parts else "failed",
            "reason": reason,
            "task": prompt.task.value if prompt else None,
            "prompt": prompt.prompt if prompt else None,
            "candidates": parts,
            "context": parts_rows(prompt.context, self.folder) if prompt else [],
            "criteria": prompt.criteria if prompt else "",
            "tags": dict(prompt.tags) if prompt else {},
            "policy": self.policy.name,
            "seed": self.seed,
            "duplicates": len(parts) - len({str(part) for part in parts}),
        }


def _sampled(
    prompt: Example,
    policy: policies.Policy,
    seeds: Sequence[int],
    *,
    keep: Callable[[Candidate], Candidate],
) -> tuple[list[Candidate], str | None]:
    """Candidates of a prompt, and the reason why some or all are missing.

    ``keep`` is called with each as soon as its batch is made.
    """
    if prompt.task not in policy.tasks:
        return [], f"{policy.name} is for {' and '.join(policy.tasks)}, not {prompt.task.value}"
    if prompt.context and prompt.task is Task.IMAGE_GENERATION:
        return [], "a prompt of image_generation has no context; an edit has the task image_editing"
    try:
        check_context(prompt.task, prompt.context)
    except DataError as error:
        return [], str(error)
    made: list[Candidate] = []
    try:
        for start in range(0, len(seeds), policy.batch_size):
            chunk = seeds[start : start + policy.batch_size]
            sampled = policy.sample(prompt.prompt, prompt.context, chunk)
            made += [keep(each) for each in sampled if each is not None]
    except (MediaError, ValueError, RuntimeError, ArithmeticError, IndexError) as error:
        return [], f"{policy.name} made no candidates: {one_line(error)}"
    lost = len(seeds) - len(made)
    return made, f"{lost} of {len(seeds)} withheld by the safety checker" if lost else None
