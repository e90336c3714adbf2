"""Wires of other projects' reward servers, each answering as its clients expect."""

from __future__ import annotations

from fastapi import APIRouter

from unified_reward.serve.peers import flow_factory, openrlhf, pickled, unirl
from unified_reward.serve.peers.rewards import check_scales
from unified_reward.serve.service import Service


def routes(service: Service) -> APIRouter:
    """Routes of every wire; those of pickles only where the server accepts them.

    Raises:
        ConfigError: A scale names a judge or a preset that does not exist.
    """
    check_scales(service)
    router = APIRouter()
    for wire in (unirl, flow_factory, openrlhf):
        router.include_router(wire.routes(service))
    if service.config.accept_pickle:
        router.include_router(pickled.routes(service))
    return router
