"""The probabilities of given answers, read out of a generated answer's token log-probabilities.

Pure: it knows the entries of the OpenAI chat protocol, but no server, no tokenizer, no task.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple


MAX_STRAY = 0.01
"""Probability a token's undecidable alternatives may hold before the choices count as unknown."""
IMPOSSIBLE = -9999.0
"""Log-probability, in nats, of what a server masks; the protocol's own number for it. Its
probability is 0 in floating point."""
_ROUNDING = 1e-3
"""Most that a log-probability may lie above 0: servers compute it in 32 bits or fewer."""
_MAX_MASS = 1.5
"""Most that the probabilities of one token may sum to: more is no rounding, but a server that sends
the same number for every token."""
_GOES_ON = re.compile(rb"(?<=\w)(?:\w|[.,]\d)")


_Token = tuple[bytes, float]


class _Step(NamedTuple):
    """One generated token, and it and its alternatives with their log-probabilities."""

    piece: bytes
    top: Sequence[_Token]

    def stripped(self) -> _Step:
        """The step without leading space: a verdict may follow with or without it."""
        return _Step(self.piece.lstrip(), [(p.lstrip(), x) for p, x in self.top])


def choice_logprobs_from_tokens(
    tokens: Sequence[Any], choices: Sequence[str], verdict_prefix: str = ""
) -> tuple[float, ...] | None:
    """Read the log-probability of each choice out of one generated answer.

    The walk follows the generated tokens from the verdict on. Where a choice leaves the generated
    text, it gets the log-probability of the tokens walked plus that of the alternatives that
    continue it there. A choice that others extend ("10", "100") gets, at its end, what their
    continuations leave. Space before the verdict does not count. This is approximate:

    - letters behind the point where a choice leaves are taken as certain;
    - a choice without an alternative in the list gets that list's smallest log-probability,
      which is an overestimate, unless the list holds an impossible one;
    - null, -inf and -9999 are impossible, with probability 0: masked by the server;
    - an alternative that continues the same choices as the generated token counts with it, and
      one that continues all of them says nothing: both are the same letters, cut otherwise;
    - other alternatives that continue several choices ("1" of "10" and "100" where "80" was
      generated) are left out while they hold at most ``MAX_STRAY`` together.

    Args:
        tokens: ``choices[0].logprobs.content`` of the response: per generated token ``token``,
            ``logprob``, ``top_logprobs``, and ``bytes`` where the server sends them.
        choices: Complete alternative answers.
        verdict_prefix: Text after whose last occurrence the choice follows; empty for the
            beginning.

    Returns:
        One log-probability per choice, in nats, given the text before the verdict; not
        normalised; never below ``IMPOSSIBLE``. None if it is unknown: the text has no
        ``verdict_prefix`` or names no choice there, entries are malformed (no number, or one above
        0), lack alternatives or sum to far more than 1, a generated token is impossible, too much
        probability lies on alternatives that fit several choices, or the text ends before the
        choices part.

    Example:
        >>> top = [{"token": "A", "logprob": -0.1}, {"token": " B", "logprob": -2.5}]
        >>> found = choice_logprobs_from_tokens([{**top[0], "top_logprobs": top}], ("A", "B"))
        >>> [round(logprob, 6) for logprob in found]
        [-0.1, -2.5]
    """
    known = [token for token in map(_token, tokens) if token and token[1] > IMPOSSIBLE]
    if not choices or len(known) < len(tokens):
        return None
    pieces = [piece for piece, _ in known]
    text = b"".join(pieces)
    _, found, verdict = (
        text.rpartition(verdict_prefix.encode()) if verdict_prefix else (b"", b"", text)
    )
    if verdict_prefix and not found:
        return None
    start = len(text) - len(verdict.lstrip())
    goals = [text[:start] + choice.lstrip().encode() for choice in choices]
    generated = [i for i, goal in enumerate(goals) if _begins_with(text, goal)]
    if not generated:
        return None
    ends = list(itertools.accumulate(map(len, pieces)))
    first = next((i for i, end in enumerate(ends) if end > start), len(ends))
    at = ends[first - 1] if first else 0
    steps = [_step(token) for token in tokens[first:]]
    return _walk(steps, goals, max(generated, key=lambda i: len(goals[i])), at, start)


def _token(entry: object) -> _Token | None:
    match entry:
        case {"token": str(text), "logprob": given}:
            logprob = _logprob(given)
        case _:
            return None
    if logprob is None:
        return None
    match entry:
        case {"bytes": [_, *_] as raw} if all(map(_is_byte, raw)):
            return bytes(raw), logprob  # Half a letter has no readable text.
    return text.encode(errors="replace"), logprob


def _logprob(given: object) -> float | None:
    """A log-probability; None for what is none. Servers write an impossible one as they like."""
    if given is None or (isinstance(given, str) and given.lower() in ("-inf", "-infinity")):
        return IMPOSSIBLE
    if isinstance(given, bool) or not isinstance(given, int | float) or not given <= _ROUNDING:
        return None
    return min(float(max(given, IMPOSSIBLE)), 0.0)


def _is_byte(value: object) -> bool:
    return isinstance(value, int) and 0 <= value < 256


def _step(entry: object) -> _Step | None:
    own = _token(entry)
    match entry:
        case {"top_logprobs": [*top]} if own is not None:
            listed = [token for token in map(_token, top) if token is not None]
        case _:
            return None
    if len(listed) < len(top) or all(logprob == IMPOSSIBLE for _, logprob in listed):
        return None
    if own[0] not in {piece for piece, _ in listed}:
        listed.append(own)
    mass = sum(math.exp(logprob) for _, logprob in listed)
    return _Step(own[0], listed) if mass <= _MAX_MASS else None


def _begins_with(text: bytes, start: bytes) -> bool:
    """True if ``text`` begins with ``start`` as a whole: "10" and "1.5" do not begin with "1"."""
    return text.startswith(start) and not _GOES_ON.match(text, len(start))


def _walk(
    steps: Iterable[_Step | None], goals: Sequence[bytes], chosen: int, at: int, start: int
) -> tuple[float, ...] | None:
    """Follow the generated text from byte ``at`` until all choices but the generated one left."""
    done: dict[int, float] = {}
    total = 0.0
    for step in steps:
        if step is None:
            return None
        end = at + len(step.piece)
        tails = {i: goal[at:] for i, goal in enumerate(goals) if i not in done}
        if at <= start:
            tails = {i: tail.lstrip() for i, tail in tails.items()}
        parted = _part(step.stripped() if at <= start else step, tails, chosen)
        if parted is None:
            return None
        left, walked = parted
        done |= {i: total + logprob for i, logprob in left.items()}
        total += walked
        if done.keys() | {chosen} == set(range(len(goals))):
            found = {chosen: total, **done}
            return tuple(max(found[i], IMPOSSIBLE) for i in range(len(goals)))
        at = end
    return None


def _part(
    step: _Step, tails: Mapping[int, bytes], chosen: int
) -> tuple[dict[int, float], float] | None:
    """Log-probability of the choices that leave at one token, and of those that go on."""
    fits = [
        (frozenset(i for i, tail in tails.items() if _fits(piece, tail)), logprob)
        for piece, logprob in step.top
    ]
    stay = frozenset(i for i, tail in tails.items() if _fits(step.piece, tail))
    goes_astray = chosen not in stay if tails[chosen] else bool(stay)
    undecided = [fit for fit in fits if len(fit[0]) > 1 and fit[0] not in (stay, set(tails))]
    if len(fits) < 2 or goes_astray or _mass(undecided) > MAX_STRAY:
        return None
    walked = _mass(fit for fit in fits if fit[0] == stay)
    if stay and not walked:
        return None
    floor = min(logprob for _, logprob in fits)

    def log(mass: float) -> float:
        return max(floor, math.log(min(mass, 1.0))) if mass > 0 else floor

    left: dict[int, float] = {}
    for i in tails.keys() - stay:
        if tails[i]:
            left[i] = log(_mass(fit for fit in fits if fit[0] == {i}))
        else:
            left[i] = log(1 - _mass(fit for fit in fits if fit[0]))
    return left, log(walked) if stay else 0.0


def _mass(fits: Iterable[tuple[frozenset[int], float]]) -> float:
    return sum(math.exp(logprob) for _, logprob in fits)


def _fits(piece: bytes, tail: bytes) -> bool:
    """True if a token continues a choice; an empty one, or one after its end, does not."""
    if not piece or not tail:
        return False
    return tail.startswith(piece) or _begins_with(piece, tail)
