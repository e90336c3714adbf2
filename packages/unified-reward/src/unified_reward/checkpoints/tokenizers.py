"""Tokenizers and processors of checkpoints, held against the `tokenizer.json` beside them.

transformers 5 builds many tokenizers anew from the vocabulary in that file and drops parts of it,
such as the normaliser of Llama's: texts then become ids that the model was not trained on.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoProcessor, AutoTokenizer
from transformers.utils.hub import cached_file

from unified_reward.checkpoints.pretrained import load_errors, load_pretrained
from unified_reward.core.errors import ModelError
from unified_reward.core.paths import is_folder


_FILE = "tokenizer.json"
_PROBE = (
    " A photo of 2 dogs,  three CATS; it's 3.14 %\n\n\tCaf\u00e9 \u00c0\u00c9 cafe\u0301 "
    "na\u00efve Stra\u00dfe \u65e5\u672c\u8a9e \ud55c\uad6d\uc5b4 \U0001f642 \ufb01 1234567\r\n"
    "    don't  stop... x_1=(a+b)*[c];  "
)
"""Blanks, digits, cases, accents and scripts, at which tokenizers of one vocabulary differ."""
_FEWEST = 10
"""Least number of different ids in the probe; an empty vocabulary gives one or two."""
_PARTS = ("normalizer", "pre_tokenizer", "model", "decoder")


def load_tokenizer(
    source: str | Path, what: str = "has no tokenizer that can be loaded", **options: Any
) -> Any:
    """Load the tokenizer of a checkpoint; its ids are those of its ``tokenizer.json``.

    Args:
        source: A folder or a hub id.
        what: Begin of the message about a failure, behind the name of the folder.
        options: Further arguments of ``AutoTokenizer.from_pretrained``.

    Raises:
        ModelError: It cannot be loaded, names Python code, or has other ids than its file.
    """
    tokenizer = load_pretrained(AutoTokenizer, source, what, **options)
    match_file(tokenizer, source)
    return tokenizer


def load_processor(source: str | Path) -> Any:
    """Load the processor of a checkpoint; see `load_tokenizer` for the ids of its tokenizer.

    Raises:
        ModelError: It cannot be loaded, names Python code, or has other ids than its file.
    """
    processor = load_pretrained(AutoProcessor, source)
    tokenizer = getattr(processor, "tokenizer", None)
    if tokenizer is not None:
        match_file(tokenizer, source)
    return processor


def match_file(tokenizer: Any, source: str | Path) -> None:
    """Give a loaded tokenizer the parts of its ``tokenizer.json`` where their ids differ.

    Special tokens, chat template and the tokens around a text stay as they were loaded. A source
    without that file passes if its vocabulary is not empty.

    Raises:
        ModelError: The file cannot be read, the ids differ even with its parts, or there is neither
            this file nor another vocabulary.
    """
    with load_errors(f"{source} has a {_FILE} that cannot be read"):
        file = cached_file(
            str(source),
            _FILE,
            local_files_only=is_folder(source),
            _raise_exceptions_for_missing_entries=False,
        )
        own = Tokenizer.from_file(file) if file else None
    with load_errors(f"{source} has a tokenizer that cannot read a text"):
        if own is None:
            _check_vocabulary(tokenizer, source)
        else:
            _match(tokenizer, own, source)


def _check_vocabulary(tokenizer: Any, source: str | Path) -> None:
    """Refuse an empty vocabulary, which transformers makes where it finds no file of one."""
    if len({*_ids(tokenizer, _PROBE)}) < _FEWEST:
        kinds = getattr(tokenizer, "vocab_files_names", {})
        raise ModelError(
            f"{source} has no vocabulary for its tokenizer ({type(tokenizer).__name__}): there is "
            f"neither {_FILE} nor {kinds.get('vocab_file', 'another file of one')}"
        )


def _match(tokenizer: Any, own: Tokenizer, source: str | Path) -> None:
    own.no_truncation()
    own.no_padding()
    probe = _probe(own)
    wanted = own.encode(probe, add_special_tokens=False).ids
    if _ids(tokenizer, probe) == wanted:
        return
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        for part in _PARTS:
            setattr(backend, part, getattr(own, part))
    if (given := _ids(tokenizer, probe)) != wanted:
        place = next(
            (i for i, pair in enumerate(zip(given, wanted, strict=False)) if pair[0] != pair[1]), 0
        )
        raise ModelError(
            f"the tokenizer of {source} ({type(tokenizer).__name__}) gives other ids than its "
            f"{_FILE}: {given[place : place + 3]}, not {wanted[place : place + 3]}, at "
            f"{own.decode(wanted[: place + 3])[-20:]!r}; tokenizer_config.json or the vocabulary "
            "beside it is of another model"
        )


def _probe(own: Tokenizer) -> str:
    """A text with every token that the file adds, a blank and a word behind it."""
    added = [token.content for token in own.get_added_tokens_decoder().values()]
    return _PROBE + "".join(f"{token} {token}a" for token in added)


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
