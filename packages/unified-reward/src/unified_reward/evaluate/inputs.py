"""Inputs of an evaluation: folders of files, rows of candidates, earlier runs, policies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unified_reward.evaluate.outputs import ModelOutputs
from unified_reward.evaluate.sampling import PolicySampling


def read_models(
    inputs: Sequence[str],
    prompts: Path | None = None,
    *,
    policies: Sequence[str] = (),
    sampling: PolicySampling | None = None,
) -> ModelOutputs:
    """Read the outputs of models and match them to their prompts.

    Args:
        inputs: A model each, ``NAME=PATH`` or a path: a folder of files named by number, id or
            prompt; rows of candidates; the output folder of an earlier evaluation (all its
            models); or the folder of a policy, which is sampled.
        prompts: File of prompts, see `prompt_files.read_prompts`; None where the inputs hold them.
        policies: Policies to sample from, ``NAME=REF`` or a reference.
        sampling: Settings and output folder for policies; needed where there are any.

    Raises:
        ConfigError: An input is not there, a name stands twice, or prompts or settings are needed.
        DataError: Rows cannot be read, models differ in the prompt of an id, or in the kind of
            output.
    """
    raise NotImplementedError


def write_outputs(outputs: ModelOutputs, folder: Path) -> None:
    """Write ``outputs.jsonl`` into a folder, from which `read_models` reads all models again.

    Raises:
        DataError: A medium is in memory, not in a file, or the folder cannot be written.
    """
    raise NotImplementedError
