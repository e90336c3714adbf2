"""``unified-reward candidates``: generate candidates with a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from unified_reward import policies
from unified_reward.cli import options, output
from unified_reward.cli.bulk import count_rows, run_bulk
from unified_reward.cli.progress import waiting
from unified_reward.core.extensions import checkpoint_path
from unified_reward.policies.candidates import CandidateWork


_BATCH = "Candidates in one forward pass; default 16 answers, or 4 images or videos."
_TemperatureOption = Annotated[
    float | None, typer.Option(help="Sampling temperature of a VLM; default 0.7.")
]
_TokensOption = Annotated[
    int | None, typer.Option(min=1, help="Longest answer of a VLM; default 256.")
]
_RateOption = Annotated[
    float | None, typer.Option(min=0.1, help="Frames per second of a video; default 8.")
]
_Size = Annotated[int | None, typer.Option(min=1, help="In pixels; default the pipeline's own.")]


def candidates(
    source: Annotated[Path, typer.Argument(metavar="PROMPTS.jsonl", help="Rows of prompts.")],
    out: Annotated[
        Path, typer.Argument(metavar="OUT_DIR", help="Folder for candidates.jsonl and media/.")
    ],
    *,
    policy: options.PolicyOption,
    n: Annotated[int, typer.Option("--n", min=1, help="Candidates per prompt.")] = 10,
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    temperature: _TemperatureOption = None,
    max_new_tokens: _TokensOption = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Denoising steps.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    height: _Size = None,
    width: _Size = None,
    frames: Annotated[int | None, typer.Option(min=1, help="Frames of a video.")] = None,
    fps: _RateOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help=_BATCH)] = None,
    retry_failed: options.RetryOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Generate candidates for every prompt with a policy; resumes a stopped run."""
    file = out / "candidates.jsonl"
    count_rows(source, file)
    given = {"temperature": temperature, "max_new_tokens": max_new_tokens, "steps": steps}
    given |= {"guidance": guidance, "height": height, "width": width, "frames": frames, "fps": fps}
    # Loaded before anything is written, so that a wrong policy leaves no file behind.
    with waiting(f"loading {policy}"):
        loaded = policies.load(
            checkpoint_path(policy), given, device=device, dtype=dtype, batch_size=batch_size
        )
    loaded.name = policy
    work = CandidateWork(out, loaded, n, seed)
    statuses = run_bulk(work, source, file, size=1, retry_failed=retry_failed, as_json=as_json)
    if not as_json:
        output.print_counts(statuses)
        output.say_next("pairs", file, out / "pairs.jsonl", "--judge", "JUDGE")
    output.exit_if([statuses["failed"]])
