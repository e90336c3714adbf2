"""Judges on Ray Serve: replicas in processes of their own, on one machine or on many.

The application stays in this process; it speaks to the replicas through handles of Serve, and
nothing of Ray is open to clients.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import secrets
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import inf
from typing import Any, cast

from unified_reward.core.errors import ConfigError, UnifiedRewardError, one_line
from unified_reward.core.extensions import require
from unified_reward.core.verdicts import Failed, Verdict
from unified_reward.serve.batching import ClosedError, Orders
from unified_reward.serve.config import ServeConfig
from unified_reward.serve.hosts import (
    Groups,
    JudgeReference,
    LocalHost,
    NotReadyError,
    State,
    load_error,
)
from unified_reward.serve.metrics import Metrics


ATTEMPTS = 3
"""Replicas that a request is put to, if those before end while they judge it."""
_DEPLOYMENT = "judge"
_POLL_S = 0.5
_GRACE_S = 2.0
"""Time beyond a deadline for the verdicts that a replica has by then."""
_START_S = 60.0
_HEALTH_CHECK_S = 2.0
_REASON = "<reason>", "</reason>"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placement:
    """Processes of a judge, and their share of the machines.

    Raises:
        ConfigError: A number is out of range.
    """

    replicas: int = 1
    gpus: float | None = None
    """GPUs of a replica, also a fraction; None: 1 where the cluster has some."""
    cpus: float = 1.0
    """CPUs of a replica, also the threads of a judge on the CPU."""

    def __post_init__(self) -> None:
        if self.replicas < 1:
            raise ConfigError(f"replicas are 1 or more, not {self.replicas}")
        if not 0 <= self.cpus < inf:
            raise ConfigError(f"CPUs of a replica are 0 or more, not {self.cpus:g}")
        if self.gpus is not None and not (0 <= self.gpus <= 1 or self.gpus % 1 == 0):
            raise ConfigError(f"GPUs of a replica are a share up to 1, or whole, not {self.gpus:g}")


def placements(
    references: Sequence[JudgeReference], options: Mapping[str, Sequence[str]]
) -> dict[str, Placement]:
    """Placement of each judge by options of the command line.

    Args:
        references: All judges.
        options: Texts ``NUMBER`` for every judge or ``NAME=NUMBER`` for one, by the field.

    Raises:
        ConfigError: A text is no number, or names no judge.
    """
    given: dict[str, dict[str, Any]] = {one.name: {} for one in references}
    for option, texts in options.items():
        # Numbers for one judge come last, whatever their order.
        for text in sorted(texts, key=lambda text: "=" in text):
            name, equals, number = text.rpartition("=")
            if equals and name not in given:
                raise ConfigError(f"--{option} {text}: no judge is called {name!r}")
            try:
                value = float(number) if option != "replicas" else int(number)
            except ValueError as error:
                raise ConfigError(f"--{option} is NUMBER or NAME=NUMBER, not {text!r}") from error
            for each in [name] if equals else given:
                given[each][option] = value
    return {name: Placement(**values) for name, values in given.items()}


@dataclass(frozen=True)
class _Figure:
    """Notes what a queue measures, in place of a counter of Prometheus."""

    name: str
    notes: deque[tuple[str, float]]

    def labels(self, _: str) -> _Figure:
        return self

    def inc(self, value: float) -> None:
        self.notes.append((self.name, value))

    observe = inc

    def set(self, _: float) -> None:
        """Samples that are pending are counted by the host."""


class _Figures:
    """Stands for `Metrics` in a replica; its notes go to the host with the next answer."""

    def __init__(self) -> None:
        self.notes: deque[tuple[str, float]] = deque()
        self.pending, self.repeated, self.batch_samples, self.batch_seconds = (
            _Figure(name, self.notes)
            for name in ("pending", "repeated", "batch_samples", "batch_seconds")
        )

    def take(self) -> list[tuple[str, float]]:
        return [self.notes.popleft() for _ in range(len(self.notes))]


@dataclass(frozen=True)
class Answer:
    """Verdicts of a replica, with what it measured since its last answer."""

    verdicts: list[Verdict]
    figures: list[tuple[str, float]]


class JudgeReplica:
    """A judge in a process of Ray Serve, behind the queue of a local host."""

    def __init__(self, reference: JudgeReference, config: ServeConfig) -> None:
        self._name = reference.name
        self._figures = _Figures()
        self._host = LocalHost([], config, cast("Metrics", self._figures))
        try:
            judge = reference.open()
        except Exception as error:  # noqa: BLE001  a judge of anybody
            _log.exception("%s could not be loaded", reference.name)
            # Serve hands over nothing but the text of a traceback.
            raise RuntimeError(load_error(error).join(_REASON)) from None
        self._host.add(reference.name, judge)

    def describe(self) -> tuple[str, dict[str, Any]]:
        """Family and description of the judge."""
        return self._host.family(self._name), self._host.roster()[0]

    async def ask(
        self, groups: Groups, orders: Orders, timeout_s: float
    ) -> Answer | UnifiedRewardError:
        """Put samples to the judge; a refusal is returned, since Serve wraps what is raised."""
        try:
            verdicts = await self._host.ask(self._name, groups, orders=orders, timeout_s=timeout_s)
        except UnifiedRewardError as error:
            return error
        return Answer(verdicts, self._figures.take())


@dataclass
class _Deployed:
    """A judge of the cluster."""

    reference: JudgeReference
    placement: Placement
    app: str
    state: State = "loading"
    reason: str | None = None
    handle: Any = None
    n_running: int = 0
    family: str = ""
    description: dict[str, Any] = field(default_factory=dict[str, Any])


class RayHost:
    """Judges on a Ray cluster: an application of Ray Serve each, with one or more replicas.

    Each replica has a queue of its own. A request whose replica ends is put to another one; the
    cluster starts the lost one again.
    """

    def __init__(
        self,
        references: Sequence[JudgeReference],
        placed: Mapping[str, Placement],
        config: ServeConfig,
        metrics: Metrics,
    ) -> None:
        """Prepare the judges.

        Args:
            references: Judges to serve.
            placed: Placement of each judge by name; one replica for those that are not there.
            config: Limits of the queues and the media.
            metrics: Figures of the server.

        Raises:
            ConfigError: Ray is not installed, or ``RAY_ADDRESS`` is that of a Ray client.
        """
        address = os.environ.get("RAY_ADDRESS", "")
        if address.startswith("ray://"):
            raise ConfigError(
                f"RAY_ADDRESS={address}: serve on a machine of the cluster, with RAY_ADDRESS=auto"
            )
        _set_switches(is_own=not address)
        self._ray: Any = require("ray", "ray")
        self._serve: Any = require("ray", "ray.serve")
        self._is_own = not address and not self._ray.is_initialized()
        self._metrics = metrics
        # Replicas answer no client: they get no token.
        self._config = replace(config, host="127.0.0.1", token=None)
        run = secrets.token_hex(4)
        self._deployed = {
            one.name: _Deployed(one, placed.get(one.name, Placement()), _app_name(one.name, i, run))
            for i, one in enumerate(references)
        }
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ray", daemon=True)

    def start(self) -> None:
        """Join or start a cluster and deploy the judges, in a thread."""
        self._thread.start()

    def states(self) -> dict[str, State]:
        """State of each judge; ready as soon as one replica is."""
        return {name: deployed.state for name, deployed in self._deployed.items()}

    def family(self, name: str) -> str:
        """Prompt family of a judge; empty while it is not loaded."""
        return self._deployed[name].family

    def roster(self) -> list[dict[str, Any]]:
        """Name, reference, state, description and running replicas of each judge, as JSON."""
        return [
            {
                **deployed.description,
                "name": name,
                "reference": deployed.reference.reference,
                "state": deployed.state,
                "reason": deployed.reason,
                "replicas": {"running": deployed.n_running, **asdict(deployed.placement)},
            }
            for name, deployed in self._deployed.items()
        ]

    async def ask(
        self, name: str, groups: Groups, *, orders: Orders, timeout_s: float
    ) -> list[Verdict]:
        """Put samples to a replica of a judge; see `hosts.Host.ask`."""
        deployed = self._deployed[name]
        if self._closing.is_set():
            raise ClosedError("the server is shutting down")
        if deployed.state != "ready":
            raise NotReadyError(name, deployed.state, deployed.reason)
        n, pending = sum(map(len, groups)), self._metrics.pending.labels(name)
        pending.inc(n)
        try:
            answer = await self._answer(deployed, groups, orders, timeout_s)
        finally:
            pending.dec(n)
        if isinstance(answer, UnifiedRewardError):
            raise answer
        if isinstance(answer, Answer):
            self._note(name, answer.figures)
            return answer.verdicts
        return [
            one if isinstance(one, Failed) else Failed(answer) for group in groups for one in group
        ]

    async def _answer(
        self, deployed: _Deployed, groups: Groups, orders: Orders, timeout_s: float
    ) -> Answer | UnifiedRewardError | str:
        """The answer of the first replica that lives to give one, or why there is none."""
        name, lost = deployed.reference.name, ""
        left_s, end = timeout_s, time.monotonic() + timeout_s
        for _ in range(ATTEMPTS):
            response = deployed.handle.ask.remote(groups, orders, left_s)
            try:
                return await asyncio.wait_for(response, left_s + _GRACE_S)
            except TimeoutError:
                response.cancel()
                return f"no verdict within {timeout_s:g} s{lost}"
            except asyncio.CancelledError:
                response.cancel()
                if cast("asyncio.Task[Any]", asyncio.current_task()).cancelling():
                    raise
                # The replica was stopped.
                lost = f"; a replica of {name} ended before it answered"
            except self._ray.exceptions.RayTaskError as error:
                _log.error("a replica of %s failed: %s", name, error)
                return f"{name} failed: {one_line(error.cause)}"
            except (
                self._ray.exceptions.RayError,
                self._serve.exceptions.RayServeException,
            ) as error:
                _log.warning("a replica of %s is lost: %s", name, type(error).__name__)
                lost = f"; a replica of {name} ended before it answered"
            left_s = max(0.0, end - time.monotonic())
        return f"{ATTEMPTS} replicas of {name} ended before they answered"

    def _note(self, name: str, figures: Sequence[tuple[str, float]]) -> None:
        for figure, value in figures:
            metric = getattr(self._metrics, figure).labels(name)
            add = metric.inc if figure == "repeated" else metric.observe
            add(value)

    def _run(self) -> None:
        # A cluster that is started here ends with the thread that started it.
        try:
            self._connect()
            self._deploy()
        except Exception as error:  # noqa: BLE001  a cluster of others
            reason = load_error(error)
            _log.error("the judges could not be deployed: %s", reason)
            for deployed in self._deployed.values():
                deployed.state, deployed.reason = "failed", reason
            self._closing.wait()
        while not self._closing.wait(_POLL_S):
            self._update_all()
        self._leave()

    def _update_all(self) -> None:
        try:
            applications = self._serve.status().applications
            for deployed in self._deployed.values():
                self._update(deployed, applications[deployed.app].deployments[_DEPLOYMENT])
        except Exception as error:  # noqa: BLE001  the controller of Serve may be restarting
            _log.warning("Ray Serve gave no status: %r", error)

    def _connect(self) -> None:
        n_cpus = sum(one.placement.replicas * one.placement.cpus for one in self._deployed.values())
        own = {
            "address": "local",
            "include_dashboard": False,
            # The judges of one machine share it, be they more than its processors.
            "num_cpus": max(os.cpu_count() or 1, int(n_cpus + 1)),
        }
        if not self._ray.is_initialized():
            self._ray.init(
                **(own if self._is_own else {}), log_to_driver=False, logging_level=logging.ERROR
            )
        # It warns of a lost replica once for every request.
        logging.getLogger("ray.serve").addFilter(lambda record: record.levelno >= logging.ERROR)
        self._serve.start(proxy_location="Disabled")

    def _deploy(self) -> None:
        has_gpus = bool(self._ray.cluster_resources().get("GPU"))
        for deployed in self._deployed.values():
            placement = deployed.placement
            gpus = float(has_gpus) if placement.gpus is None else placement.gpus
            deployment = self._serve.deployment(JudgeReplica).options(
                name=_DEPLOYMENT,
                num_replicas=placement.replicas,
                ray_actor_options={"num_cpus": placement.cpus, "num_gpus": gpus},
                # The queue of the judge refuses first, and says so.
                max_ongoing_requests=2 * self._config.max_queue,
                max_constructor_retry_count=1,
                health_check_period_s=_HEALTH_CHECK_S,
                graceful_shutdown_wait_loop_s=0.1,
                logging_config={"enable_access_log": False},
            )
            target = self._serve.RunTarget(
                deployment.bind(deployed.reference, self._config),
                name=deployed.app,
                route_prefix=None,
            )
            (deployed.handle,) = self._serve.run_many([target], wait_for_applications_running=False)

    def _update(self, deployed: _Deployed, status: Any) -> None:
        name = deployed.reference.name
        deployed.n_running = status.replica_states.get("RUNNING", 0)
        if deployed.n_running and not deployed.description:
            describe = deployed.handle.describe.remote()
            deployed.family, deployed.description = describe.result(timeout_s=_START_S)
        state: State = "ready" if deployed.n_running else "loading"
        if not deployed.n_running and status.status == "DEPLOY_FAILED":
            state = "failed"
        deployed.reason = None if state == "ready" else _reason(status.message)
        if state != deployed.state:
            deployed.state = state
            _log.info("%s is %s%s", name, state, f": {deployed.reason}" if deployed.reason else "")

    def _leave(self) -> None:
        if not self._ray.is_initialized():
            return
        if self._is_own:
            self._ray.shutdown()
            return
        for deployed in self._deployed.values():
            if deployed.handle is not None:
                self._serve.delete(deployed.app)

    def close(self) -> None:
        """Take the judges from the cluster; one that was started here ends."""
        self._closing.set()
        self._thread.join(_START_S)


def _set_switches(*, is_own: bool) -> None:
    """Set what Ray reads from the environment when it is imported."""
    switches = {
        "RAY_USAGE_STATS_ENABLED": "0",
        # Its handler of SIGTERM ends this process after three seconds, whatever is being answered.
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER": "1",
    }
    if is_own and "ray" not in sys.modules:
        # The second makes a cluster one machine that listens on loopback. Replicas listen
        # everywhere nevertheless, and want the token.
        switches |= {"RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    for name, value in switches.items():
        os.environ.setdefault(name, value)


def _app_name(name: str, index: int, run: str) -> str:
    """Name of an application of Serve, which others on the cluster do not have.

    >>> _app_name("org/judge #1", 0, "c0ffee")
    'org-judge-1-0-c0ffee'
    """
    return f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', name)[-40:]}-{index}-{run}"


def _reason(message: str) -> str | None:
    """The reason of a replica that could not load its judge; else the message of Serve."""
    _, start, text = message.partition(_REASON[0])
    return text.partition(_REASON[1])[0] if start else one_line(message) or None
