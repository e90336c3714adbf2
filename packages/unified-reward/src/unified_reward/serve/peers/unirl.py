"""UniRL's reward service: ``POST /score`` and ``GET /rewards``.

A request names the rewards of each sample. What fails is missing in ``results`` and has its reason
in ``errors``, which the client reads sample by sample.
"""

from __future__ import annotations

import asyncio
from typing import cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Sample
from unified_reward.core.verdicts import Failed, Scored, Verdict
from unified_reward.serve.peers.rewards import (
    Row,
    Wire,
    read_body,
    read_samples,
    refuse_with,
    reward_of,
)
from unified_reward.serve.service import Service


PROTOCOL = "1"
_IDENTITY = (
    *("request_id", "sample_id", "group_id", "source_rank", "policy_version"),
    *("scorer_version", "idempotency_key"),
)


class TurnRow(BaseModel):
    """A text with an image or a video."""

    text: str
    image_b64: str | None = None
    video_b64: str | None = None
    image_ipc: str | None = None
    video_path: str | None = None

    def model_post_init(self, _: object) -> None:
        """Check that there is one medium, in the request itself."""
        if self.video_path is not None:
            raise ValueError("no path of the server is opened; send video_b64")
        if self.image_ipc is not None:
            raise ValueError("no memory of the client is opened; send image_b64")
        if (self.image_b64 is None) == (self.video_b64 is None):
            raise ValueError("a turn has either image_b64 or video_b64")

    @property
    def medium(self) -> Row:
        """The medium of the turn in the server's own protocol."""
        if self.image_b64 is not None:
            return {"image": self.image_b64}
        return {"video": self.video_b64}


class SampleRow(BaseModel):
    """A sample: one turn for a generated medium, two for an edit and its source before it."""

    history: list[TurnRow] = Field(min_length=1, max_length=2)
    required_rewards: list[str] = Field(min_length=1)
    request_id: str | None = None
    sample_id: str | None = None
    group_id: str | None = None
    source_rank: int | None = None
    policy_version: int | None = None
    scorer_version: None = None
    """Scorers of this server have no versions to pin."""
    idempotency_key: str | None = None


class ScoreRow(BaseModel):
    """The body of a request."""

    protocol_version: str = PROTOCOL
    requests: list[SampleRow]
    grad_mode: bool = False


def routes(service: Service) -> APIRouter:
    """Routes of the wire."""
    router = APIRouter()
    Wire("/score", _score, refuse_with("detail"), ScoreRow, has_judge=False).add_to(router, service)

    @router.get("/rewards")
    def rewards() -> JSONResponse:
        """Names of the rewards that are served, for UniRL."""
        states = service.host.states()
        return JSONResponse({"rewards": [name for name in states if states[name] != "failed"]})

    return router


def item_row(row: SampleRow) -> Row:
    """The item of the server's own protocol.

    >>> cat = TurnRow(text="a cat", image_b64="aWM=")
    >>> item_row(SampleRow(history=[cat], required_rewards=["judge"]))
    {'prompt': 'a cat', 'candidates': [{'image': 'aWM='}], 'context': []}
    """
    *before, last = row.history
    return {
        "prompt": last.text or "".join(turn.text for turn in before),
        "candidates": [last.medium],
        "context": [turn.medium for turn in before],
    }


async def _score(service: Service, request: Request) -> Response:
    """Scores of images and videos by several rewards, for UniRL."""
    body = await read_body(request, ScoreRow)
    states = service.host.states()
    names = list(dict.fromkeys(name for row in body.requests for name in row.required_rewards))
    unknown = [name for name in names if name not in states]
    if unknown:
        raise DataError(f"unknown reward {unknown[0]!r}; available: {', '.join(states)}")
    if body.protocol_version != PROTOCOL or body.grad_mode:
        raise DataError(f"served is protocol_version {PROTOCOL!r}, without gradients")
    samples = await read_samples(service, [item_row(row) for row in body.requests])
    results: list[dict[str, dict[str, float]]] = [{} for _ in samples]
    errors: list[dict[str, str]] = [{} for _ in samples]

    async def add(name: str) -> None:
        places = [i for i, row in enumerate(body.requests) if name in row.required_rewards]
        chosen = [samples[i] for i in places]
        for i, found in zip(places, await _found(service, request, name, chosen), strict=True):
            if isinstance(found, Failed):
                errors[i][name] = found.reason
            else:
                results[i][name] = found

    await asyncio.gather(*map(add, names))
    identities = [{key: getattr(row, key) for key in _IDENTITY} for row in body.requests]
    content = {"results": results, "errors": errors, "identities": identities}
    return JSONResponse(content | {"protocol_version": PROTOCOL})


async def _found(
    service: Service, request: Request, name: str, samples: list[Sample | Failed]
) -> list[dict[str, float] | Failed]:
    """Overall reward and aspects of each sample; clients take the first by default."""
    if service.host.states()[name] == "failed":
        return [Failed(f"{name} could not be loaded; /v1/judges says why") for _ in samples]
    verdicts = await service.ask(request, name, [[sample] for sample in samples])
    scale = service.config.scales.get(name, "raw")
    return [_sub_metrics(verdict, reward_of(verdict, scale)) for verdict in verdicts]


def _sub_metrics(verdict: Verdict, reward: float | Failed) -> dict[str, float] | Failed:
    if isinstance(reward, Failed):
        return reward
    aspects = {name: score.value for name, score in cast("Scored", verdict).aspects.items()}
    metrics: dict[str, float] = {"score": reward}
    return metrics | {name: aspects[name] for name in aspects if name != "score"}
