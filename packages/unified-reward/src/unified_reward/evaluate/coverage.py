"""Coverage of prompts by models: missing and repeated outputs, each listed or noted."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping

from unified_reward.core.samples import Candidate, Image, Video
from unified_reward.core.words import count_of
from unified_reward.evaluate.outputs import MissingOutput
from unified_reward.io.fingerprints import file_fingerprint
from unified_reward.media import describe


Outputs = Mapping[str, tuple[Candidate, ...]]
"""Outputs of a model by id of the prompt."""
_NO_CONTENT = ("missing", "no file", "unreadable")
_Place = tuple[str, str]
"""Model and prompt of a file."""


class Contents:
    """Contents of all files by their hashes; each file is read once."""

    def __init__(self) -> None:
        self._places: dict[str, list[_Place]] = defaultdict(list)

    def without_copies(self, model: str, outputs: Outputs) -> tuple[Outputs, list[MissingOutput]]:
        """Leave out files that are byte for byte another file of the same model and prompt.

        Equal answers in words are kept: a model may say the same twice.
        """
        kept: dict[str, tuple[Candidate, ...]] = {}
        missing: list[MissingOutput] = []
        for prompt, candidates in outputs.items():
            first: dict[str, Candidate] = {}
            others: list[Candidate] = []
            for candidate in candidates:
                content = content_of(candidate)
                if content and content in first:
                    reason = f"{describe(candidate)} is a copy of {describe(first[content])}"
                    missing.append(MissingOutput(model, prompt, reason, "duplicate"))
                    continue
                others.append(candidate)
                if content:
                    first[content] = candidate
                    self._places[content].append((model, prompt))
            kept[prompt] = tuple(others)
        return kept, missing

    def notes(self) -> Iterator[str]:
        """Describe files that several models, or several prompts of a model, have in common."""
        across: dict[tuple[str, ...], list[str]] = defaultdict(list)
        within: dict[str, list[tuple[str, ...]]] = defaultdict(list)
        for places in self._places.values():
            models = tuple(dict.fromkeys(model for model, _ in places))
            if len(models) > 1:
                across[models].append(places[0][1])
            for model in models:
                prompts = tuple(prompt for name, prompt in places if name == model)
                if len(prompts) > 1:
                    within[model].append(prompts)
        for models, prompts in across.items():
            words = [f"file of {models[0]} is", f"files of {models[0]} are"]
            same = ["a file", "files"][len(prompts) > 1]
            yield (
                f"{count_of(len(prompts), *words)} byte for byte {same} of "
                f"{' and '.join(models[1:])}, such as of prompt {prompts[0]!r}"
            )
        for model, repeated in within.items():
            words = count_of(len(repeated), "file stands", "files stand")
            prompts = " and ".join(map(repr, repeated[0][:3]))
            yield f"{model}: {words} under several prompts, such as {prompts}"


def different_numbers(models: Mapping[str, Outputs]) -> Iterator[str]:
    """Describe models and prompts with different numbers of outputs."""
    counts = {model: Counter(map(len, outputs.values())) for model, outputs in models.items()}
    if len({n for count in counts.values() for n in count}) > 1:
        described = "; ".join(
            f"{model} has "
            + " and ".join(f"{n} for {count_of(count[n], 'prompt')}" for n in sorted(count))
            for model, count in counts.items()
        )
        yield (
            f"prompts have different numbers of outputs: {described}; each prompt counts "
            "once, and the k-th output of a model meets the k-th of another"
        )


def content_of(candidate: Candidate) -> str | None:
    """Hash of the bytes of a medium; None where it has none that can be read, and for words."""
    if not isinstance(candidate, Image | Video):
        return None
    source = candidate.source
    frames = [frame.source for frame in source] if isinstance(source, tuple) else [source]
    contents = [file_fingerprint(frame) for frame in frames]
    return None if {*contents} & {*_NO_CONTENT} else " ".join(contents)
