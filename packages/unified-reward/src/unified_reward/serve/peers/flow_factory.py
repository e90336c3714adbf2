"""Flow-Factory's remote rewards: ``POST /compute``.

Its client raises for any status but 200, after three tries, and computes with every number.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from unified_reward.core.errors import DataError
from unified_reward.serve.peers.rewards import Row, Wire, judge_rows, read_body, refuse_with
from unified_reward.serve.service import Service


class ComputeRow(BaseModel):
    """The body of a request: lists with one entry for each prompt, of base64."""

    prompt: list[str]
    image: list[str] | None = None
    video: list[list[str]] | None = None
    """Frames of each video."""
    condition_images: list[list[str]] | None = None
    condition_videos: list[Any] | None = None


def routes(service: Service) -> APIRouter:
    """Routes of the wire."""
    router = APIRouter()
    wire = Wire("/compute", _compute, refuse_with("error"), ComputeRow, unreadable=422)
    wire.add_to(router, service)
    return router


async def _compute(service: Service, request: Request) -> Response:
    """Rewards of images or videos, for Flow-Factory."""
    rows = item_rows(await read_body(request, ComputeRow))
    rewards = [reward for reward, _ in await judge_rows(service, request, rows)]
    return JSONResponse({"rewards": rewards})


def item_rows(body: ComputeRow) -> list[Row]:
    """Items of the server's own protocol.

    Raises:
        DataError: Lists differ in length, or the media are not one image or video for each prompt.

    >>> item_rows(ComputeRow(prompt=["a cat"], image=["aWM="]))
    [{'prompt': 'a cat', 'candidates': [{'image': 'aWM='}], 'context': []}]
    """
    n = len(body.prompt)
    lists = {"image": body.image, "video": body.video, "condition_images": body.condition_images}
    for name, given in lists.items():
        if given is not None and len(given) != n:
            raise DataError(f"{len(given)} entries of {name} for {n} prompts")
    if any(body.condition_videos or ()):
        raise DataError("condition_videos are judged by no judge; leave them out")
    if (body.image is None) == (body.video is None) and n:
        raise DataError("give image or video: one entry for each prompt")
    if body.image is not None:
        candidates: list[Row] = [{"image": one} for one in body.image]
    else:
        candidates = [{"frames": frames} for frames in body.video or ()]
    contexts = body.condition_images or [[] for _ in range(n)]
    return [
        {
            "prompt": prompt,
            "candidates": [candidate],
            "context": [{"image": one} for one in context],
        }
        for prompt, candidate, context in zip(body.prompt, candidates, contexts, strict=True)
    ]
