"""Inputs of an evaluation: folders of files, rows of candidates, earlier runs, policies."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from unified_reward.core.errors import ConfigError, DataError, MediaError, one_line
from unified_reward.core.paths import is_file, is_folder
from unified_reward.core.prefetch import THREADS
from unified_reward.core.samples import Candidate, Example, Image, Task, Video
from unified_reward.core.words import count_of
from unified_reward.evaluate.coverage import Contents, Outputs, content_of, different_numbers
from unified_reward.evaluate.folder_prompts import FolderPrompts, read_metadata
from unified_reward.evaluate.matching import MediaFolder, first_numbers, match_files, media_folder
from unified_reward.evaluate.model_names import distinct_names, split_name
from unified_reward.evaluate.output_rows import (
    CANDIDATES,
    OUTPUTS,
    ModelRows,
    is_outputs,
    read_candidates,
    read_outputs,
)
from unified_reward.evaluate.outputs import MissingOutput, ModelOutputs
from unified_reward.evaluate.prompt_files import PromptFile, read_prompts, same_text
from unified_reward.evaluate.sampling import PolicySampling, is_policy, sample_policy
from unified_reward.evaluate.tasks import Kind, candidate_kind, with_task
from unified_reward.media import image_or_video


_VIDEO_SUFFIXES = {".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif"}
_ALONE = (Task.IMAGE_GENERATION, Task.VIDEO_GENERATION)
_Content = ModelRows | Path | str
"""Rows, a folder of files, or the reference of a policy."""


@dataclass(frozen=True)
class _Source:
    """One model as it was given."""

    name: str | None
    parts: tuple[str, ...]
    """Parts of the path that the model is named after."""
    content: _Content


def read_models(
    inputs: Sequence[str | Path],
    prompts: str | Path | None = None,
    *,
    policies: Sequence[str] = (),
    sampling: PolicySampling | None = None,
) -> ModelOutputs:
    """Read the outputs of models and match them to their prompts.

    Media are hashed, and no pixel is decoded: a file that cannot be opened is an output like any
    other, and a judge finds out.

    Args:
        inputs: A model each, ``NAME=PATH`` or a path: a folder of files named by number, id or
            prompt; rows of candidates; the output folder of an earlier evaluation, with all its
            models; or the folder of a policy, which is sampled.
        prompts: File of prompts, see `prompt_files.read_prompts`; None where the inputs hold them.
        policies: Policies to sample from, ``NAME=REFERENCE`` or a reference.
        sampling: Settings and output folder for policies; needed where there are any.

    Returns:
        Prompts with tasks, and outputs by model. A prompt that a model has no output for, a file
        that belongs to no prompt, and a copy of another file are listed as missing.

    Raises:
        ConfigError: An input is not there, two have one name, or prompts or settings are needed.
        DataError: Rows cannot be read, nothing of a model matches, or models differ in the prompt
            of an id or in the kind of their outputs.
    """
    sources = [source for given in inputs for source in _sources(str(given))]
    sources += [_policy(*split_name(text)) for text in policies]
    if not sources:
        raise ConfigError("no model is given: a folder of files, rows of candidates, or a policy")
    if sampling:
        _check_out(sampling.out, sources, samples=bool(policies))
    names = distinct_names([(source.name, source.parts) for source in sources])
    contents = {name: source.content for name, source in zip(names, sources, strict=True)}
    metadata, notes = _metadata(contents, is_needed=not prompts)
    known = read_prompts(Path(prompts)) if prompts else _own_prompts(contents, metadata)
    if not known.prompts:
        raise ConfigError(
            f"{next(iter(names))} has no prompts of its own; give them with --prompts FILE"
        )
    reader = _Reader(known, metadata, notes)
    reader.add_folders({key: value for key, value in contents.items() if isinstance(value, Path)})
    for name, content in contents.items():
        if isinstance(content, ModelRows):
            reader.add_rows(name, content)
    for name, content in contents.items():
        if isinstance(content, str):
            if sampling is None:
                raise ConfigError(f"{name} is a policy, and sampling from it needs --out FOLDER")
            path = sample_policy(name, content, reader.prompts, reader.stated, sampling)
            reader.add_rows(name, read_candidates(path))
    return reader.finish(names)


def _check_out(out: Path, sources: Sequence[_Source], *, samples: bool) -> None:
    """Refuse an output folder whose files would be taken for those of a model."""
    for source in sources:
        if isinstance(folder := source.content, Path):
            whole, taken = out.resolve(), folder.resolve()
            if whole == taken or (samples and taken in whole.parents):
                raise ConfigError(f"{out} is in the folder of files {folder}; give another --out")


def _sources(text: str) -> list[_Source]:
    name, reference = split_name(text)
    path = Path(reference)
    if is_folder(path):
        rows = next((path / file for file in (OUTPUTS, CANDIDATES) if is_file(path / file)), None)
        if rows is None and is_policy(path):
            return [_policy(name, reference)]
        if rows is None:
            return [_Source(name, path.resolve().parts, path)]
    elif is_file(path):
        rows = path
    else:
        raise ConfigError(
            f"{reference} is not there; give a folder of files or a file of candidates, and a "
            "policy by its name with --policy"
        )
    whole = rows.resolve()
    parts = (whole.parent if rows.name in (OUTPUTS, CANDIDATES) else whole.with_suffix("")).parts
    if not is_outputs(rows):
        return [_Source(name, parts, read_candidates(rows))]
    models = read_outputs(rows)
    if name is not None and len(models) > 1:
        raise ConfigError(
            f"{reference} has {len(models)} models with names; give it without {name}="
        )
    return [_Source(name, (*parts, model), content) for model, content in models.items()]


def _policy(name: str | None, reference: str) -> _Source:
    path = Path(reference)
    return _Source(name, (path.resolve() if is_folder(path) else path).parts, reference)


def _metadata(
    contents: Mapping[str, _Content], *, is_needed: bool
) -> tuple[dict[str, FolderPrompts], list[str]]:
    """Prompts in the folders of models by name, and notes on those that cannot be used.

    Raises:
        DataError: They are needed, and those of a folder cannot be used.
    """
    found: dict[str, FolderPrompts] = {}
    notes: list[str] = []
    for name, content in contents.items():
        try:
            own = read_metadata(content) if isinstance(content, Path) else None
        except DataError as error:
            if is_needed:
                raise
            notes.append(str(error))
        else:
            if own:
                found[name] = own
    return found, notes


def _own_prompts(
    contents: Mapping[str, _Content], metadata: Mapping[str, FolderPrompts]
) -> PromptFile:
    """Merge the prompts that lie in the inputs; empty without any."""
    prompts: dict[str, Example] = {}
    owners: dict[str, str] = {}
    stated: set[str] = set()
    notes: list[str] = []
    for name, content in contents.items():
        if isinstance(content, ModelRows):
            own = content.prompts
            stated |= own.keys()
        elif name in metadata:
            own = metadata[name].prompts.prompts
            if metadata[name].files:
                own = _other_texts(name, own, prompts)
            notes += metadata[name].prompts.notes
        else:
            continue
        for key, prompt in own.items():
            if key in prompts:
                _check_same(prompts[key], prompt, owners[key], name)
            else:
                prompts[key], owners[key] = prompt, name
    return PromptFile(prompts, tuple(prompts), tuple(notes), frozenset(stated))


def _other_texts(
    name: str, own: Mapping[str, Example], known: Mapping[str, Example]
) -> dict[str, Example]:
    """Prompts whose text is not known yet; ids of files are made unique by the model's name."""
    texts = {" ".join(prompt.prompt.split()) for prompt in known.values()}
    new = {
        key: prompt for key, prompt in own.items() if " ".join(prompt.prompt.split()) not in texts
    }
    return {
        (key := f"{name}/{given}" if given in known else given): replace(prompt, id=key)
        for given, prompt in new.items()
    }


def _check_same(first: Example, second: Example, owner: str, other: str) -> None:
    """Refuse two prompts with one id that differ in their text, or in the media they are about."""
    if not same_text(first.prompt, second.prompt):
        texts = [one_line(prompt.prompt, 80) for prompt in (first, second)]
        raise DataError(
            f"prompts do not match: {first.id!r} is {texts[0]!r} for {owner}, and {texts[1]!r} for "
            f"{other}"
        )
    sources = [[content_of(medium) for medium in prompt.context] for prompt in (first, second)]
    if sources[0] != sources[1]:
        raise DataError(
            f"prompts do not match: {first.id!r} is about other media for {owner} than for {other}"
        )


class _Reader:
    """Collects the outputs of models for known prompts."""

    def __init__(
        self, known: PromptFile, metadata: Mapping[str, FolderPrompts], notes: Sequence[str]
    ) -> None:
        self.known = known
        self._metadata = metadata
        self.prompts = dict(known.prompts)
        self.stated = {*known.stated}
        self._outputs: dict[str, Outputs] = {}
        self._missing: dict[str, list[MissingOutput]] = defaultdict(list)
        self._reasons: dict[tuple[str, str], str] = {}
        self._notes = [*known.notes, *notes]

    def add_folders(self, paths: Mapping[str, Path]) -> None:
        """Match the files of folders; all at once, since one may show where numbers begin."""
        n = len(self.known.places)
        folders = {name: media_folder(path, n) for name, path in paths.items()}
        first = first_numbers([*folders.values()], n)
        for (name, folder), number in zip(folders.items(), first, strict=True):
            matches = match_files(folder, self.known, number, self._named(name, folder))
            self._check_metadata(name, folder.path, matches.files)
            self._outputs[name] = _media(name, matches.files)
            self._notes += matches.notes
            self._missing[name] += [
                MissingOutput(name, file, reason, "unmatched") for file, reason in matches.unmatched
            ]

    def _named(self, name: str, folder: MediaFolder) -> dict[PurePosixPath, str]:
        """Id of the prompt by file, where the metadata of the folder name its files."""
        own = self._metadata.get(name)
        if own is None or not own.files:
            return {}
        by_text: dict[str, str] = {}
        for key, prompt in self.known.prompts.items():
            by_text.setdefault(" ".join(prompt.prompt.split()), key)
        named: dict[PurePosixPath, str] = {}
        for file in folder.files:
            if prompt := own.of(file):
                known = self.known.prompts.get(prompt.id)
                is_same = known is not None and same_text(known.prompt, prompt.prompt)
                key = prompt.id if is_same else by_text.get(" ".join(prompt.prompt.split()))
                named |= {file: key} if key else {}
        there = {*folder.files}
        if absent := [str(file) for file in own.files if file not in there]:
            words = count_of(len(absent), "file of its metadata is", "files of its metadata are")
            self._notes.append(f"{folder.path}: {words} not there, such as {absent[0]}")
        return named

    def _check_metadata(self, name: str, folder: Path, files: Mapping[str, Sequence[Path]]) -> None:
        """Refuse files whose own metadata names another prompt than the one matched."""
        own = self._metadata.get(name)
        if own is None or own.files:
            return
        for key, paths in files.items():
            if prompt := own.of(PurePosixPath(paths[0].relative_to(folder).as_posix())):
                _check_same(self.prompts[key], replace(prompt, id=key), "the file of prompts", name)

    def add_rows(self, name: str, rows: ModelRows) -> None:
        """Take the outputs of rows, by id, or by prompt where their ids are of another file."""
        keys = self._keys(name, rows)
        outputs: dict[str, tuple[Candidate, ...]] = {}
        for row_id, row in rows.examples.items():
            key = keys.get(row_id)
            if key is None:
                reason = "the prompts have neither its id nor its text"
                self._missing[name].append(MissingOutput(name, row_id, reason, "unmatched"))
                continue
            if row.candidates:
                outputs[key] = row.candidates
            self._adopt(key, row)
        for row_id, reason in rows.missing.items():
            if row_id in keys:
                self._reasons[name, keys[row_id]] = reason
            elif row_id not in rows.examples:
                self._missing[name].append(MissingOutput(name, row_id, reason, "unmatched"))
        self._outputs[name] = outputs
        self._notes += rows.notes

    def _keys(self, name: str, rows: ModelRows) -> dict[str, str]:
        """Id of the prompt by id of the row."""
        known = self.known.prompts
        shared = [key for key in rows.examples if key in known]
        differ = [
            key for key in shared if not same_text(known[key].prompt, rows.examples[key].prompt)
        ]
        if shared and not (differ and self.known.is_numbered):
            for key in differ:
                _check_same(known[key], rows.examples[key], "the file of prompts", name)
            return {key: key for key in shared}
        by_text: dict[str, list[str]] = defaultdict(list)
        for key, prompt in reversed([*known.items()]):
            by_text[" ".join(prompt.prompt.split())].append(key)
        texts = {
            row_id: by_text[" ".join(row.prompt.split())] for row_id, row in rows.examples.items()
        }
        keys = {row_id: ids.pop() for row_id, ids in texts.items() if ids}
        if not keys:
            raise DataError(f"{rows.path}: prompts do not match: none is in the file of prompts")
        return keys

    def _adopt(self, key: str, row: Example) -> None:
        """Complete a prompt by what only the row of a model says about it."""
        prompt = self.prompts[key]
        if key not in self.stated:
            context = row.context or (() if row.task in _ALONE else prompt.context)
            prompt = replace(prompt, task=row.task, context=context)
            self.stated.add(key)
        criteria = prompt.criteria or row.criteria
        self.prompts[key] = replace(prompt, criteria=criteria, tags={**row.tags, **prompt.tags})

    def finish(self, names: Sequence[str]) -> ModelOutputs:
        """Return the outputs of the models, in this order."""
        kind = self._kind()
        prompts = {
            key: with_task(prompt, kind, is_stated=key in self.stated)
            for key, prompt in self.prompts.items()
        }
        if any(len(prompts[key].context) < len(self.prompts[key].context) for key in prompts):
            self._notes.append(
                f"outputs are {kind}s, so the image or video of the prompts is not read; rows of "
                "edits have source_image, or the task image_editing"
            )
        contents = Contents()
        outputs: dict[str, Outputs] = {}
        for name in names:
            found = {key: self._outputs[name][key] for key in prompts if key in self._outputs[name]}
            outputs[name], copies = contents.without_copies(name, found)
            self._missing[name] += copies
            self._missing[name] += [
                MissingOutput(
                    name, key, self._reasons.get((name, key), "it has no output"), "missing"
                )
                for key in prompts
                if key not in found
            ]
        nobody = [key for key in prompts if not any(key in found for found in outputs.values())]
        if nobody and len(names) > 1:
            words = count_of(len(nobody), "prompt has", "prompts have")
            self._notes.append(f"{words} no output of any model, such as {nobody[0]!r}")
        notes = [*self._notes, *different_numbers(outputs), *contents.notes()]
        missing = [entry for name in names for entry in self._missing[name]]
        return ModelOutputs(prompts, outputs, tuple(missing), tuple(notes))

    def _kind(self) -> Kind:
        """Kind of all outputs; models of different kinds cannot be compared."""
        kinds: dict[Kind, str] = {}
        for name, outputs in self._outputs.items():
            for key, candidates in outputs.items():
                for candidate in candidates:
                    kinds.setdefault(candidate_kind(candidate, self.prompts[key].task), name)
        if len(kinds) > 1:
            found = " and ".join(f"{name} has {kind}s" for kind, name in kinds.items())
            raise DataError(f"outputs are of different kinds: {found}; evaluate them apart")
        if not kinds:
            raise DataError("no model has an output for any of the prompts")
        return next(iter(kinds))


def _media(name: str, files: Mapping[str, Sequence[Path]]) -> Outputs:
    """Images or videos, by content; a file that is neither is of the kind of the others.

    Raises:
        DataError: There are both.
    """
    paths = [path for each in files.values() for path in each]
    with ThreadPoolExecutor(THREADS) as pool:
        kinds = dict(zip(paths, pool.map(_kind, paths), strict=True))
    first = {kind: path for path, kind in reversed(kinds.items())}
    if "image" in first and "video" in first:
        raise DataError(
            f"{name} has images and videos, such as {first['image']} and {first['video']} (an "
            "animated image is a video); evaluate them apart"
        )
    suffixes = {path.suffix.lower() for path in kinds}
    is_video = "video" in first or ("image" not in first and suffixes <= _VIDEO_SUFFIXES)
    make = Video if is_video else Image
    return {key: tuple(make(path) for path in each) for key, each in files.items()}


def _kind(path: Path) -> Kind | None:
    try:
        return image_or_video(path)
    except MediaError:
        return None
