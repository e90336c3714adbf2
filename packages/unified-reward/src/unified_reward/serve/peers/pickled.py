"""Wires whose bodies are pickles: flow_grpo's remote rewards, reward-server, deepgen_rl, verl-omni.

Requests are read as plain data; see `serve.plain_pickle`. Answers carry ``outputs`` and ``scores``,
which are the same. No status is 500: flow_grpo repeats such a request a thousand times.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pickle import dumps
from typing import Any, cast

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic_core import from_json
from starlette.requests import ClientDisconnect

from unified_reward.core.errors import DataError
from unified_reward.serve.peers.rewards import Row, Wire, judge_rows
from unified_reward.serve.plain_pickle import PickleLimits, loads
from unified_reward.serve.service import Disconnected, RequestError, Service


_PROTOCOL = 4
"""Pickle protocol of answers; read from Python 3.4 on."""
_log = logging.getLogger(__name__)


def routes(service: Service) -> APIRouter:
    """Routes of the wires: ``POST /``, and ``POST /j/NAME``."""
    router = APIRouter()
    Wire("/", _outputs, _refuse, unreadable=422).add_to(router, service)
    return router


async def _outputs(service: Service, request: Request) -> Response:
    """Rewards of pickled images, for flow_grpo, deepgen_rl and verl-omni."""
    try:
        return await _answer(service, request)
    except (DataError, RequestError, Disconnected, ClientDisconnect):
        raise
    except Exception as error:
        _log.exception("%s failed", request.url.path)
        raise RequestError(422, "internal", "the server failed; its log says why") from error


async def _answer(service: Service, request: Request) -> Response:
    body = await request.body()
    limits = PickleLimits(max_bytes=service.config.max_body_bytes)
    payload = await asyncio.to_thread(loads, body, limits)
    rows, files = item_rows(payload, request.query_params.get("prompt"))
    judged = await judge_rows(service, request, rows, files)
    rewards = [reward for reward, _ in judged]
    content: dict[str, Any] = {"outputs": rewards, "scores": rewards}
    metadata = _metadata(payload)
    if metadata is not None:
        texts = [verdict.text for _, verdict in judged]
        content |= {"rewards": rewards, "strict_rewards": rewards, "reasoning": texts}
        content |= {"group_rewards": {}, "group_strict_rewards": {}, "meta_data": metadata}
    return _pickle(content)


def _refuse(status: int, message: str) -> Response:
    return _pickle({"error": message}, status)


def _pickle(content: Mapping[str, Any], status: int = 200) -> Response:
    body = dumps(dict(content), protocol=_PROTOCOL)
    return Response(body, status, media_type="application/octet-stream")


def item_rows(payload: Any, prompt: str | None = None) -> tuple[list[Row], dict[str, bytes]]:
    """Items of the server's own protocol, and the images that they name.

    Args:
        payload: Content of the pickle: ``images``, or ``{"source", "edited"}`` in it, with
            ``prompts`` or ``meta_datas``; or ``input_images`` and ``output_image`` with
            ``meta_datas``.
        prompt: Prompt of requests that have none.

    Raises:
        DataError: It is not such a payload.

    >>> item_rows({"images": [b"ic"], "prompts": ["a cat"]})
    ([{'prompt': 'a cat', 'candidates': [{'image': 'part:0'}], 'context': []}], {'0': b'ic'})
    """
    if not isinstance(payload, dict):
        raise DataError("the pickle holds a dict with images and prompts")
    images, sources = _images(cast("dict[str, Any]", payload))
    prompts = _prompts(payload, len(images), prompt)
    files: dict[str, bytes] = {}

    def medium(content: bytes) -> Row:
        name = str(len(files))
        files[name] = content
        return {"image": f"part:{name}"}

    rows: list[Row] = [
        {
            "prompt": text,
            "candidates": [medium(image)],
            "context": [medium(one) for one in source],
        }
        for text, image, source in zip(prompts, images, sources, strict=True)
    ]
    return rows, files


def _images(payload: Mapping[str, Any]) -> tuple[list[bytes], list[list[bytes]]]:
    """Images to judge, and the sources of each."""
    images = payload.get("images")
    if "output_image" in payload:
        edited = _bytes(payload["output_image"], "output_image")
        given = _list(payload.get("input_images"), "input_images")
        sources = [_bytes(one, "input_images") for one in given]
    elif isinstance(images, dict):
        edited = _bytes(images.get("edited"), "images['edited']")
        sources = [[one] for one in _bytes(images.get("source"), "images['source']")]
    else:
        edited = _bytes(images, "images")
        sources = [[] for _ in edited]
    if len(sources) != len(edited):
        raise DataError(f"{len(sources)} source images for {len(edited)} edited ones")
    return edited, sources


def _prompts(payload: Mapping[str, Any], n: int, default: str | None) -> list[str]:
    metadata = _metadata(payload)
    given = payload.get("prompts")
    if given is not None and len(given := _list(given, "prompts")):
        prompts = given * n if len(given) == 1 else given
    elif metadata is not None:
        prompts = [_prompt_of(one) for one in metadata]
    elif default is not None:
        prompts = [default] * n
    else:
        raise DataError(
            "the request has no prompts; for a judge that needs none, post to …/?prompt="
        )
    if len(prompts) != n:
        raise DataError(f"{len(prompts)} prompts for {n} images")
    if not all(isinstance(one, str) for one in prompts):
        raise DataError("prompts are texts")
    return prompts


def _metadata(payload: Mapping[str, Any]) -> list[Any] | None:
    for key in ("meta_datas", "meta_data"):
        if key in payload:
            return _list(payload[key], key)
    return None


def _prompt_of(metadata: Any) -> Any:
    """Prompt of an item of GenEval or EditScore; its metadata are a dict, JSON, or the prompt."""
    if isinstance(metadata, str):
        try:
            metadata = from_json(metadata)
        except ValueError:
            return metadata
    if isinstance(metadata, dict):
        return metadata.get("prompt", metadata.get("instruction"))
    return None


def _list(given: Any, name: str) -> list[Any]:
    if isinstance(given, np.ndarray):
        given = given.tolist()
    if not isinstance(given, Sequence) or isinstance(given, str | bytes):
        raise DataError(f"{name} is a list")
    return list(given)


def _bytes(given: Any, name: str) -> list[bytes]:
    images = _list(given, name)
    if not all(isinstance(one, bytes) for one in images):
        raise DataError(f"{name} are encoded images: bytes of PNG, JPEG or WebP")
    return images
