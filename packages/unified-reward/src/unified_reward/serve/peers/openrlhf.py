"""Remote rewards of language-model trainers, with media added: OpenRLHF and slime.

OpenRLHF posts lists to ``/get_reward``, slime one sample to ``/rm``. Neither sends media by
itself; the fields ``images`` and ``videos`` are this server's.
"""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from unified_reward.core.errors import DataError
from unified_reward.core.samples import Task
from unified_reward.serve.peers.rewards import Row, Wire, judge_rows, read_body, refuse_with
from unified_reward.serve.service import Service


Images = str | list[str] | None
"""Base64 of an image, or of several."""
Frames = str | list[str] | None
"""Base64 of a video file, or of the frames of a video."""


class GetRewardRow(BaseModel):
    """The body that OpenRLHF sends: lists with one entry for each query."""

    query: list[str]
    """Prompt and response in one text."""
    prompts: list[str] | None = None
    labels: Any = None
    images: list[Images] | None = None
    videos: list[Frames] | None = None
    task: Task | None = None


class RmRow(BaseModel):
    """The body that slime sends: one sample."""

    prompt: str | list[dict[str, Any]]
    """Text, or messages of a chat."""
    response: str = ""
    label: Any = None
    images: Images = None
    video: Frames = None
    task: Task | None = None


def routes(service: Service) -> APIRouter:
    """Routes of both wires."""
    router = APIRouter()
    refuse = refuse_with("error")
    Wire("/get_reward", _get_reward, refuse, GetRewardRow).add_to(router, service)
    Wire("/rm", _rm, refuse, RmRow).add_to(router, service)
    return router


async def _get_reward(service: Service, request: Request) -> Response:
    """Rewards of responses or media, for OpenRLHF."""
    judged = await judge_rows(service, request, query_rows(await read_body(request, GetRewardRow)))
    common = set.intersection(*({*verdict.aspects} for _, verdict in judged)) if judged else set()
    logs = {key: [verdict.aspects[key].value for _, verdict in judged] for key in sorted(common)}
    rewards = [reward for reward, _ in judged]
    return JSONResponse({"rewards": rewards, "scores": rewards, "extra_logs": logs})


async def _rm(service: Service, request: Request) -> Response:
    """Reward of a response or a medium, for slime."""
    row = rm_row(await read_body(request, RmRow))
    ((reward, _),) = await judge_rows(service, request, [row])
    return JSONResponse({"score": reward, "reward": reward})


def query_rows(body: GetRewardRow) -> list[Row]:
    """Items of the server's own protocol.

    Raises:
        DataError: Lists differ in length, or a query cannot be split into prompt and response.
    """
    n = len(body.query)
    lists = {"prompts": body.prompts, "images": body.images, "videos": body.videos}
    for name, given in lists.items():
        if given is not None and len(given) != n:
            raise DataError(f"{len(given)} entries of {name} for {n} queries")
    prompts = body.prompts or body.query
    rows: list[Row] = []
    for i, (query, prompt) in enumerate(zip(body.query, prompts, strict=True)):
        if not query.startswith(prompt):
            raise DataError(f"query {i} does not begin with its prompt")
        images = body.images[i] if body.images else None
        video = body.videos[i] if body.videos else None
        rows.append(_row(prompt, query.removeprefix(prompt), images, video, body.task))
    return rows


def rm_row(body: RmRow) -> Row:
    """The item of the server's own protocol.

    >>> rm_row(RmRow(prompt="Is it red?", response="Yes.", images="aWM="))["candidates"]
    [{'text': 'Yes.'}]
    >>> rm_row(RmRow(prompt="a cat", images="aWM="))["candidates"]
    [{'image': 'aWM='}]
    """
    prompt = body.prompt if isinstance(body.prompt, str) else _chat_text(body.prompt)
    return _row(prompt, body.response, body.images, body.video, body.task)


def _row(prompt: str, response: str, images: Images, video: Frames, task: Task | None) -> Row:
    """Media are what a response is about; without a response they are judged themselves."""
    several = [images] if isinstance(images, str) else images or []
    media: list[Row] = [{"image": one} for one in several]
    if video is not None:
        media.append({"video": video} if isinstance(video, str) else {"frames": video})
    candidates, context = media[-1:], media[:-1]
    if response or not media:
        candidates, context = [{"text": response}], media
    return {"prompt": prompt, "candidates": candidates, "context": context, "task": task}


def _chat_text(messages: list[dict[str, Any]]) -> str:
    """The text of a chat.

    Raises:
        DataError: A message has no text, or holds a medium, which belongs into ``images``.
    """
    texts: list[str] = []
    for message in messages:
        content = message.get("content")
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for part in parts if isinstance(parts, list) else [None]:
            text = part.get("text") if isinstance(part, dict) else None
            if not isinstance(text, str):
                raise DataError("messages of a prompt are text; send media in images or video")
            texts.append(text)
    return "\n".join(texts)
