"""Loading folders by transformers, peft and diffusers: code is refused, errors are one line."""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from unified_reward.checkpoints.tensor_keys import read_json, refuse_pointers
from unified_reward.core.errors import ConfigError, ModelError, one_line
from unified_reward.core.paths import is_folder
from unified_reward.core.quiet import quiet_warnings


_CODE = ("auto_map", "custom_generate")
"""Keys whose values name files of Python code, or repositories of it."""


def load_pretrained(
    kind: Any,
    source: str | Path,
    what: str = "cannot be loaded as a vision-language model",
    **options: Any,
) -> Any:
    """``kind.from_pretrained`` of a folder, or of a hub id (which reaches the network).

    Args:
        kind: A class of transformers, such as ``AutoProcessor``.
        source: A folder or a hub id.
        what: Begin of the message about a failure, behind the name of the folder.
        options: Further arguments of ``from_pretrained``.

    Raises:
        ModelError: It cannot be loaded, or it names Python code of its own.
    """
    is_local = is_folder(source)
    if not is_local and (Path(source).is_absolute() or str(source).startswith(".")):
        raise ModelError(f"{source} {what}: there is no such folder")
    if is_local:
        refuse_code(Path(source))
        refuse_pointers(Path(source))
    with load_errors(f"{source} {what}"):
        return kind.from_pretrained(
            source, local_files_only=is_local, trust_remote_code=False, **options
        )


@contextmanager
def load_errors(message: str) -> Iterator[None]:
    """Turn whatever a library raises into a `ModelError` of one line that begins with a message.

    Raises:
        ModelError: Something was raised.
    """
    try:
        with quiet_libraries():
            yield
    except (ConfigError, ModelError):
        raise
    except Exception as error:  # libraries raise anything, tokenizers a bare Exception
        raise ModelError(f"{message}: {_in_one_line(error)}") from error


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep bars, notices and warnings of transformers and diffusers silent until the block ends.

    Settings of the user win: ``TRANSFORMERS_VERBOSITY``, ``DIFFUSERS_VERBOSITY`` and Python's
    ``-W``. Bars of downloads stay.
    """
    with quiet_warnings(), _loading:
        yield


class _Loading:
    """Settings of libraries while at least one block is open, in any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._n = 0
        self._earlier: dict[str, ExitStack] = {}

    def __enter__(self) -> None:
        with self._lock:
            self._n += 1
            for name in ("transformers", "diffusers"):
                log: Any = sys.modules.get(f"{name}.utils.logging")
                if log is None or name in self._earlier:
                    continue
                after = self._earlier[name] = ExitStack()
                if f"{name.upper()}_VERBOSITY" not in os.environ:
                    after.callback(log.set_verbosity, log.get_verbosity())
                    log.set_verbosity_error()  # reports of names and shapes are many lines
                # disable_progress_bar would also hide downloads, here and in the user's own code.
                if log.is_progress_bar_enabled():
                    after.callback(setattr, log, "_tqdm_active", log._tqdm_active)
                    log._tqdm_active = False

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._n -= 1
            while self._earlier and not self._n:
                self._earlier.popitem()[1].close()


_loading = _Loading()


def _in_one_line(error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "it needs Python code of its own, which is never run"
    if "weights_only" in str(error):
        return "a pickle of it holds more than tensors and is not unpickled; save it as safetensors"
    text = one_line(error)
    return text if isinstance(error, OSError | ValueError) else f"{type(error).__name__}: {text}"


def check_fit(info: Mapping[str, Any], message: str) -> None:
    """Refuse weights that do not fit a model.

    Args:
        info: What ``from_pretrained`` says of missing, unexpected and mismatched keys.
        message: Begin of the message.

    Raises:
        ModelError: There are such keys; names some, with both shapes.
    """
    shapes = [
        f"{name} {tuple(given)} for {tuple(wanted)}"
        for name, given, wanted in info.get("mismatched_keys") or ()
    ]
    keys = {kind: info.get(kind) for kind in ("missing_keys", "unexpected_keys")}
    keys["mismatched_keys"] = shapes
    wrong = {kind: sorted(map(str, names)) for kind, names in keys.items() if names}
    if wrong:
        names = "; ".join(f"{kind}: {', '.join(keys[:5])}" for kind, keys in wrong.items())
        raise ModelError(f"{message}: {names}")


def refuse_code(folder: Path) -> None:
    """Refuse a folder whose JSON files name Python code of its own, or kernels of the hub.

    Raises:
        ModelError: A file does.
    """
    for file in sorted(folder.glob("*config.json")):
        try:
            content: Any = json.loads(file.read_bytes())
        except (OSError, ValueError):  # reported by those who need it
            continue
        if named := next(_named_code(content), None):
            raise ModelError(
                f"{folder} cannot be loaded: {file.name} names code of its own ({named}), which is "
                "never run; delete the entry if transformers knows the model without it"
            )


def refuse_pipeline_code(folder: Path) -> None:
    """Refuse a diffusers pipeline that is not made of classes of diffusers and transformers.

    Raises:
        ModelError: It names other modules, a part names code of its own, or a file is a Git LFS
            pointer.
    """
    for part in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        refuse_code(part)
        refuse_pointers(part)
    file = folder / "model_index.json"
    index = read_json(file) if file.is_file() else {}
    kind: Any = index.get("_class_name", "")
    parts = [value for value in index.values() if isinstance(value, list) and len(value) == 2]
    foreign = [name for name, _ in parts if isinstance(name, str) and not _is_known(name)]
    if not isinstance(kind, str):
        foreign.append(f"_class_name {json.dumps(kind, allow_nan=False)}")
    if foreign:
        raise ModelError(
            f"{folder} cannot be loaded as a diffusers pipeline: model_index.json names "
            f"{', '.join(foreign)}, and code beyond diffusers and transformers is never run"
        )


def _is_known(module: str) -> bool:
    """True for the libraries of a pipeline's parts, and for modules of diffusers' own pipelines."""
    if module in ("diffusers", "transformers"):
        return True
    return module.isidentifier() and find_spec(f"diffusers.pipelines.{module}") is not None


def _named_code(content: Any) -> Iterator[str]:
    if isinstance(content, list):
        for value in cast("list[Any]", content):
            yield from _named_code(value)
    if not isinstance(content, dict):
        return
    for key, value in cast("dict[str, Any]", content).items():
        is_kernel = key.endswith("attn_implementation") and "/" in str(value)
        if value and (key in _CODE or is_kernel):
            yield f"{key}: {json.dumps(value, allow_nan=False)[:80]}"
        else:
            yield from _named_code(value)
