"""``unified-reward serve``: judges and scorers behind HTTP."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Annotated

import typer

from unified_reward.cli import options
from unified_reward.core.errors import ConfigError
from unified_reward.core.extensions import extra
from unified_reward.io.text import read_text
from unified_reward.judges.bulk import Engine


_HostOption = Annotated[str, typer.Option(help="Address; any but loopback needs --token-file.")]
_PortOption = Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")]
_TokenOption = Annotated[
    Path | None, typer.Option(help="File with the token that every request needs.")
]
_PickleOption = Annotated[
    bool,
    typer.Option("--accept-pickle", help="Serve wires of pickled plain data; loopback only."),
]
_ScaleOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PRESET",
        help="Scale of a judge on other projects' wires, such as pickscore/26; may be repeated.",
    ),
]
_BatchOption = Annotated[int, typer.Option(min=1, help="Samples that a judge is asked at once.")]
_WaitOption = Annotated[float, typer.Option(min=0, help="Longest wait for a batch to fill.")]
_SizeOption = Annotated[
    int | None, typer.Option(min=1, help="Requests in one forward pass; default 16.")
]
_RewordedOption = Annotated[
    bool,
    typer.Option("--allow-reworded", help="Use this project's wording for a published judge."),
]
_LogOption = Annotated[bool, typer.Option("--log-prompts", help="Write prompts into the log.")]
_EngineOption = Annotated[Engine, typer.Option(help="This process, or a Ray cluster.")]
_ReplicasOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]N",
        help="Processes of each judge, or of one, on engine ray; may be repeated. Default 1.",
    ),
]
_GpusOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]N",
        help="GPUs of a process, such as 0.25. Default 1 where the cluster has some.",
    ),
]
_CpusOption = Annotated[
    list[str] | None,
    typer.Option(metavar="[NAME=]N", help="CPUs of a process, and its threads. Default 1."),
]


def serve(
    *,
    judge: options.JudgesOption = None,
    host: _HostOption = "127.0.0.1",
    port: _PortOption = 8100,
    token_file: _TokenOption = None,
    accept_pickle: _PickleOption = False,
    scale: _ScaleOption = None,
    max_batch: _BatchOption = 64,
    max_wait_ms: _WaitOption = 5.0,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    batch_size: _SizeOption = None,
    allow_reworded: _RewordedOption = False,
    log_prompts: _LogOption = False,
    engine: _EngineOption = Engine.LOCAL,
    replicas: _ReplicasOption = None,
    gpus: _GpusOption = None,
    cpus: _CpusOption = None,
) -> None:
    """Serve judges and scorers over HTTP, until a signal ends it."""
    from unified_reward.judges.registry import JudgeOptions

    named = options.named(judge or ())
    placed = {"replicas": replicas or (), "gpus": gpus or (), "cpus": cpus or ()}
    if engine is Engine.LOCAL and any(placed.values()):
        raise ConfigError("--replicas, --gpus and --cpus are for --engine ray")
    with extra("serve"):
        from unified_reward.serve.app import create_app
        from unified_reward.serve.config import ServeConfig
        from unified_reward.serve.hosts import JudgeReference, LocalHost
        from unified_reward.serve.metrics import Metrics
        from unified_reward.serve.ray_host import RayHost, placements
        from unified_reward.serve.server import run
    config = ServeConfig(
        host=host,
        port=port,
        token=_token(token_file),
        accept_pickle=accept_pickle,
        scales=dict(map(_preset, scale or ())),
        max_batch=max_batch,
        max_wait_ms=max_wait_ms,
        log_prompts=log_prompts,
    )
    chosen = JudgeOptions(
        device=device, dtype=dtype, batch_size=batch_size, allow_reworded=allow_reworded
    )
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    logging.getLogger("unified_reward").setLevel(logging.INFO)
    references = [JudgeReference(name, each, chosen) for name, each in named.items()]
    metrics = Metrics()
    if engine is Engine.RAY:
        served = RayHost(references, placements(references, placed), config, metrics)
    else:
        served = LocalHost(references, config, metrics)
    app = create_app(served, config, metrics)
    run(app, config.host, config.port, lambda url: typer.echo(f"serving on {url}", err=True))


def _token(file: Path | None) -> str | None:
    if file is None:
        return None
    token = read_text(file).strip()
    if not re.fullmatch(r"[!-~]+", token):
        raise ConfigError(f"{file}: a token is one line of printable ASCII without spaces")
    return token


def _preset(text: str) -> tuple[str, str]:
    name, equals, preset = text.rpartition("=")
    if not equals:
        raise ConfigError(f"--scale is NAME=PRESET, such as pickscore=pickscore/26, not {text!r}")
    return name, preset
