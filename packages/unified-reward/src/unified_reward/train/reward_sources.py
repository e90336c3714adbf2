"""Sources of rewards: judges that score or compare, and functions. Servers are waited for."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Literal

import unified_reward_client as wire
from unified_reward.core.base_judge import BaseJudge
from unified_reward.core.errors import ConfigError, ServerError
from unified_reward.core.ranking import rank_by_score
from unified_reward.core.samples import Sample, Task
from unified_reward.core.verdicts import Failed, Scored, Unparsed, Verdict
from unified_reward.train.reward_functions import RewardFunction, call_function
from unified_reward.train.win_rates import comparisons, win_rates


Rewards = list[wire.Reward | float | None]
_FIRST_WAIT_S = 1.0


class RewardSource:
    """A judge or a function that gives rewards to groups of samples."""

    def __init__(
        self, name: str, source: BaseJudge | RewardFunction, patience_s: float, opponents: int
    ) -> None:
        """Set up.

        Args:
            name: Name in messages.
            source: The judge or the function.
            patience_s: Seconds to wait for a server that is down.
            opponents: Most samples of the group that each is compared with, >= 2.

        Raises:
            ConfigError: The judge cannot judge new samples.
        """
        self._name, self._source = name, source
        self._patience_s, self._opponents = patience_s, opponents
        facts = source.describe() if isinstance(source, BaseJudge) else {}
        if facts.get("kind") == "table":
            raise ConfigError(f"{name} looks verdicts up by id, and new samples are in no table")
        self._tasks: Mapping[str, Any] = facts.get("tasks") or {}
        """Facts about each task by name; empty where none are known."""

    def check(self, term: wire.RewardTerm) -> None:
        """Refuse a term that a function cannot give.

        Raises:
            ConfigError: It cannot.
        """
        plain = {"form": "score", "aspect": ""}
        wrong = {name: value for name in plain if (value := getattr(term, name)) != plain[name]}
        wrong |= {"min_spread": "sigma"} if term.min_spread == "sigma" else {}
        if wrong and not isinstance(self._source, BaseJudge):
            name, value = next(iter(wrong.items()))
            raise ConfigError(f"{self._name} is a function and cannot have {name}={value!r}")

    def check_tasks(
        self, term: wire.RewardTerm, tasks: Collection[Task], *, is_measured: bool = False
    ) -> None:
        """Refuse a term for tasks of which the judge is known not to answer the question.

        Args:
            term: The term.
            tasks: Tasks of the prompts.
            is_measured: It measures a policy, which win rates in a group do not.

        Raises:
            ConfigError: There is one.
        """
        for task in tasks if self._tasks else ():
            known = self._tasks.get(task.value, {})
            form, aspects = self._form(term.form, task), known.get("aspects") or {}
            if is_measured and form == "compare":
                raise ConfigError(
                    f"{self._name} compares, and win rates in a group are 0.5 in the mean whatever "
                    "the policy; measure by a judge that scores"
                )
            if form not in known.get("forms", ()) or (term.aspect and form != "score"):
                able = [f"{each} ({', '.join(v['forms'])})" for each, v in self._tasks.items()]
                raise ConfigError(
                    f"{self._name} does not {'score' if term.aspect else form} {task.value}, and "
                    f"prompts are of it; it can do {', '.join(able)}"
                )
            if term.aspect not in ("", "mean", *(aspects or [term.aspect])):
                raise ConfigError(
                    f"{self._name} has no aspect {term.aspect!r}; it has {', '.join(aspects)}"
                )

    def _form(self, form: str, task: Task) -> Literal["score", "compare"]:
        """Question that makes a reward; a judge that only compares makes win rates."""
        forms = self._tasks.get(task.value, {}).get("forms", ())
        compares = form == "win_rate" or ("compare" in forms and "score" not in forms)
        return "compare" if compares else "score"

    def rewards(
        self, form: str, groups: Sequence[Sequence[Sample]]
    ) -> list[tuple[Sequence[wire.Reward | float | None], int]]:
        """Rewards of every group, and the number of its comparisons that could not be read.

        Raises:
            RewardFunctionError: The function failed, or returned something else than rewards.
            ServerError: The server did not answer for too long.
        """
        if not isinstance(self._source, BaseJudge):
            flat = [sample for group in groups for sample in group]
            values = iter(call_function(self._name, self._source, flat))
            return [([next(values) for _ in group], 0) for group in groups]
        compared = [
            bool(group) and self._form(form, group[0].task) == "compare" for group in groups
        ]
        questions = [
            comparisons(group, self._opponents) if is_compared else group
            for group, is_compared in zip(groups, compared, strict=True)
        ]
        with self._source.cache_media() if any(compared) else nullcontext():
            flat = [question for each in questions for question in each]
            verdicts = iter(ask_patiently(self._name, self._source, flat, self._patience_s))
        answers = [[next(verdicts) for _ in each] for each in questions]
        return [
            win_rates(len(group), self._opponents, given) if is_compared else (_scores(given), 0)
            for group, is_compared, given in zip(groups, compared, answers, strict=True)
        ]


def _scores(verdicts: Sequence[Verdict]) -> list[wire.Reward]:
    """Overall scores of a group; of aspects alone the mean of those on [0, 1]."""
    ranking = rank_by_score(verdicts)
    rewards: list[wire.Reward] = []
    for verdict, comparable, value in zip(verdicts, ranking.verdicts, ranking.scores, strict=True):
        reason = "" if value is not None else _reason(comparable)
        if isinstance(verdict, Scored):
            aspects = {name: score.value for name, score in verdict.aspects.items()}
            sigma = verdict.score and verdict.score.sigma
            row = {"status": "scored"}
            rewards.append(wire.Reward(value, reason, sigma=sigma, aspects=aspects, row=row))
        else:
            rewards.append(wire.Reward(None, reason))
    return rewards


def _reason(verdict: Verdict) -> str:
    match verdict:
        case Failed(reason=reason) | Unparsed(reason=reason):
            return reason
        case Scored(aspects=aspects):
            known = f", only aspects: {', '.join(aspects)}" if aspects else ""
            return f"the judge gave no overall score{known}"
        case _:
            return f"the judge answered with {type(verdict).__name__}"


def ask_patiently(
    name: str, judge: BaseJudge, samples: Sequence[Sample], patience_s: float
) -> list[Verdict]:
    """Verdicts of a judge whose server is waited for.

    Questions that the server did not answer are asked again, beside one that it did. If it answers
    that one again and none of them, they have failed; if it answers nothing, it is down.

    Args:
        name: Name in messages.
        judge: The judge.
        samples: Questions.
        patience_s: Seconds to wait for a server that is down.

    Raises:
        ServerError: It was down for longer.
    """
    verdicts = [*judge.ask(samples)] if samples else []
    lost = _lost(verdicts)
    wait_s, deadline = _FIRST_WAIT_S, time.monotonic() + patience_s
    while lost:
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise ServerError(f"{name}: {_reason(verdicts[lost[0]])}")
        time.sleep(min(wait_s, left_s))
        known = [i for i in range(len(samples)) if i not in lost][:1]
        again = judge.ask([samples[i] for i in lost + known])
        for i, verdict in zip(lost + known, again, strict=True):
            verdicts[i] = verdict
        before, lost = lost, _lost(verdicts)
        if len(lost) < len(before):
            wait_s, deadline = _FIRST_WAIT_S, time.monotonic() + patience_s
        elif known and known[0] not in lost:
            break
        else:
            wait_s *= 2
    return verdicts


def _lost(verdicts: Sequence[Verdict]) -> list[int]:
    """Places of the questions that a server did not answer."""
    return [
        i
        for i, verdict in enumerate(verdicts)
        if isinstance(verdict, Failed) and isinstance(verdict.cause, ServerError)
    ]
