"""Checkpoints of transformers, and adapters of peft merged into their base when they are loaded.

Never runs code of a checkpoint, never unpickles, and refuses weights that do not fit.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unified_reward.checkpoints.pretrained import (
    check_fit,
    load_errors,
    load_pretrained,
    refuse_code,
)
from unified_reward.checkpoints.tensor_keys import refuse_pointers
from unified_reward.core.errors import ConfigError, DataError, ModelError
from unified_reward.core.paths import is_file, is_folder
from unified_reward.io.text import read_json


_PROCESSORS = ("processor_config.json", "preprocessor_config.json")


def load_merged(kind: Any, source: str | Path, options: Mapping[str, Any]) -> Any:
    """Load a model; the folder of an adapter gives its base with the adapter merged in.

    Args:
        kind: A class of transformers, such as ``AutoModelForImageTextToText``.
        source: A folder or a hub id.
        options: Arguments of ``from_pretrained``, such as ``dtype`` and ``device_map``.

    Raises:
        ModelError: Weights are missing, unexpected or of another shape.
        ConfigError: An adapter would be merged into quantised weights.
    """
    base = adapter_base(source)
    if base is None:
        # Otherwise transformers prints the shapes that do not fit, and raises without them.
        shapes: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
        model, info = load_pretrained(kind, source, **shapes, **options)
        check_fit(info, f"the weights in {source} do not fit its config")
        return model
    if "quantization_config" in options:
        raise ConfigError(
            f"{source} is an adapter, which cannot be merged into quantised weights; save it "
            "merged into its base, or leave out quantize"
        )
    return _merge(load_merged(kind, base, options), Path(source), base)


def _merge(model: Any, folder: Path, base: str | Path) -> Any:
    from peft import PeftConfig, PeftModel

    refuse_code(folder)
    refuse_pointers(folder)
    message = f"the adapter in {folder} does not fit its base {base}"
    with load_errors(message):
        adapted: Any = PeftModel(
            model, PeftConfig.from_pretrained(str(folder), trust_remote_code=False)
        )
        info = adapted.load_adapter(str(folder), "default")
        check_fit(info._asdict(), message)
        merged = adapted.merge_and_unload()
    # An adapter that is trained on top names this as its base.
    merged.name_or_path = str(folder)
    return merged.requires_grad_()  # peft froze the base


def processor_source(source: str | Path) -> str | Path:
    """Folder or hub id of a checkpoint's processor: its own, or that of an adapter's base."""
    base = adapter_base(source)
    has_own = any(is_file(Path(source) / name) for name in _PROCESSORS)
    return source if base is None or has_own else processor_source(base)


def adapter_base(source: str | Path) -> str | Path | None:
    """The base of the adapter in a folder; None if there is no adapter.

    The base that the adapter names is a folder relative to its own, else a folder or a hub id.

    Raises:
        ModelError: The adapter is pickled, names no base that is there, or is the base of its own.
    """
    base = below = _named_base(source)
    if base is None:
        return None
    seen = {Path(source).resolve()}
    while below is not None and is_folder(below):
        if Path(below).resolve() in seen:
            raise ModelError(f"the adapter in {source} has itself below its base {base}")
        seen.add(Path(below).resolve())
        below = _named_base(below)
    return base


def _named_base(source: str | Path) -> str | Path | None:
    folder = Path(source)
    file = folder / "adapter_config.json"
    if not is_file(file):
        return None
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"{folder} has no adapter_model.safetensors, and pickled weights are not read; save "
            "it again"
        )
    try:
        named: str = read_json(file)["base_model_name_or_path"]
        beside = folder / named
    except (DataError, KeyError, TypeError) as error:
        raise ModelError(f"{file} names no base_model_name_or_path: {error!r}") from error
    for path in (beside, Path(named or folder)):
        if is_folder(path) and not path.samefile(folder):
            return path
    if not named or Path(named).is_absolute() or named.startswith("."):
        raise ModelError(
            f"{file} has the base {named!r}, which is not another folder; give one, relative to "
            "the adapter's or absolute, or a hub id"
        )
    return named
