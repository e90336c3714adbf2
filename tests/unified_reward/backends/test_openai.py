"""A server that misbehaves in every way known to us, and the results of the caller."""

from __future__ import annotations

import asyncio
import copy
import json
import math
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image as Pictures

from tests.fake_server import Call, FakeServer, Reply, chat, token
from unified_reward.backends.openai import OpenAIModel
from unified_reward.backends.openai_options import KEY_VARIABLE, OpenAIOptions
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed, Unparsed


FAST = OpenAIOptions(retries=2, backoff_s=0.001, timeout_s=5.0)
TWO = [token("1", ("1", math.log(0.75)), ("2", math.log(0.25)))]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _remote(server: FakeServer, **kwargs: Any) -> OpenAIModel:
    return OpenAIModel(server.url, **{"model": "judge", "options": FAST, **kwargs})


def _asks(*texts: str, **kwargs: Any) -> list[Request]:
    return [Request((text,), **kwargs) for text in texts]


def _one(
    respond: Callable[[Call], Reply], request: Request, **kwargs: Any
) -> Answer | Failed | Unparsed:
    with FakeServer(respond) as server:
        return _remote(server, **kwargs).generate([request])[0]


def _error(answer: Answer | Failed | Unparsed) -> str:
    assert isinstance(answer, Failed), answer
    return answer.error


def test_a_request_is_one_user_turn_in_the_order_of_its_parts() -> None:
    red = Pictures.new("RGB", (4, 4), "red")
    with FakeServer(lambda _: chat("fine")) as server:
        request = Request((red, "What is", red, "this?"), max_new_tokens=7)
        assert _remote(server).generate([request]) == [Answer("fine")]
    body = server.calls[0].body
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text", "image_url", "text"]
    assert content[0]["image_url"]["url"].startswith("data:image/png;base64,")
    assert content[1]["text"] == "What is"
    rest = {name: value for name, value in body.items() if name != "messages"}
    assert rest == {"model": "judge", "max_tokens": 7, "temperature": 0.0, "seed": 0}


def test_order_is_kept_when_answers_come_back_out_of_order() -> None:
    texts = [str(i) for i in range(24)]
    with FakeServer(lambda c: chat(c.text + "!", delay_s=7 * int(c.text) % 5 / 100)) as server:
        answers = _remote(server).generate(_asks(*texts))
    assert answers == [Answer(text + "!") for text in texts]


@pytest.mark.parametrize("bound", [1, 3])
def test_no_more_requests_are_in_flight_than_allowed_and_as_many_are(bound: int) -> None:
    """Nobody is answered before as many as allowed have arrived."""
    together = threading.Barrier(bound)

    def respond(_: Call) -> Reply:
        together.wait(timeout=10)
        return chat("x", delay_s=0.01)

    options = OpenAIOptions(max_concurrency=bound)
    with FakeServer(respond) as server:
        answers = _remote(server, options=options).generate(_asks(*map(str, range(9))))
    assert answers == [Answer("x")] * 9
    assert server.most_at_once == bound


def test_a_refused_request_is_not_sent_again_and_fails_alone() -> None:
    def respond(call: Call) -> Reply:
        if call.text == "bad":
            return Reply(400, b'{"error": {"message": "prompt is too long"}}')
        return chat("ok")

    options = OpenAIOptions(max_concurrency=1)
    with FakeServer(respond) as server:
        good, bad, fine = _remote(server, options=options).generate(_asks("a", "bad", "b"))
    assert good == fine == Answer("ok")
    assert "answered 400 Bad Request: prompt is too long" in _error(bad)
    assert len(server.calls) == 3


def test_one_bad_item_of_two_hundred_costs_no_other() -> None:
    with FakeServer(lambda c: Reply(400) if c.text == "100" else chat(c.text)) as server:
        answers = _remote(server).generate(_asks(*map(str, range(200))))
    assert [i for i, answer in enumerate(answers) if answer != Answer(str(i))] == [100]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 529])
def test_a_passing_refusal_is_retried_until_it_passes(status: int) -> None:
    with FakeServer(lambda c: chat("ok") if c.attempt == 3 else Reply(status)) as server:
        assert _remote(server).generate(_asks("a")) == [Answer("ok")]
    assert len(server.calls) == 3


def test_retries_come_to_an_end() -> None:
    with FakeServer(lambda _: Reply(503, b"<html>model is loading</html>")) as server:
        (answer,) = _remote(server).generate(_asks("a"))
    expected = "answered 503 Service Unavailable, tried 3 times: <html>model is loading</html>"
    assert expected in _error(answer)
    assert server.url in _error(answer)
    assert len(server.calls) == 3


def test_each_further_try_is_a_line_of_the_log_once_for_all_requests(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with FakeServer(lambda _: Reply(503, b"the key is sesame")) as server:
        _remote(server, api_key="sesame").generate(_asks(*"abcdefgh"))
    lines = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    expected = f"{server.url}/chat/completions: answered 503 Service Unavailable; next try in "
    assert [line.startswith(expected) for line in lines] == [True, True]
    assert "sesame" not in caplog.text


def test_no_wait_follows_the_last_attempt() -> None:
    """It would take an hour."""
    options = OpenAIOptions(retries=0, backoff_s=7200.0, max_wait_s=3600.0)
    answer = _one(lambda _: Reply(500), Request(("a",)), options=options)
    assert "tried 1 time" in _error(answer)


def test_a_slow_answer_is_given_up_and_asked_again() -> None:
    options = OpenAIOptions(retries=1, backoff_s=0.0, timeout_s=0.15)
    with FakeServer(lambda c: chat("ok", delay_s=0.6 if c.attempt == 1 else 0.0)) as server:
        assert _remote(server, options=options).generate(_asks("a")) == [Answer("ok")]
    answer = _one(lambda _: chat("late", delay_s=0.6), Request(("a",)), options=options)
    assert "did not answer within 0.15 s, tried 2 times" in _error(answer)


def test_a_connection_closed_midway_is_retried() -> None:
    def respond(call: Call) -> Reply:
        return chat("a long answer", send_frac=0.5 if call.attempt == 1 else 1.0)

    with FakeServer(respond) as server:
        assert _remote(server).generate(_asks("a")) == [Answer("a long answer")]
    assert len(server.calls) == 2


def test_a_server_that_dies_midway_fails_the_rest_and_keeps_what_was_answered() -> None:
    def respond(call: Call) -> Reply:
        if call.text == "5":
            server.die()
        return chat(call.text)

    options = OpenAIOptions(max_concurrency=1, retries=1, backoff_s=0.001)
    with FakeServer(respond) as server:
        answers = _remote(server, options=options).generate(_asks(*map(str, range(10))))
    assert answers[:5] == [Answer(str(i)) for i in range(5)]
    assert all("lost or refused the connection" in _error(answer) for answer in answers[5:])


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1"])
def test_connections_that_the_server_closes_are_opened_again(protocol: str) -> None:
    options = OpenAIOptions(max_concurrency=1, retries=1, backoff_s=0.0)
    with FakeServer(lambda c: chat(c.text, hangs_up=True), protocol=protocol) as server:
        answers = _remote(server, options=options).generate(_asks("a", "b", "c"))
    assert answers == [Answer("a"), Answer("b"), Answer("c")]


def test_a_host_that_does_not_exist_is_not_tried_again() -> None:
    """Else the waits of the retries would take half an hour."""
    options = OpenAIOptions(retries=1, backoff_s=3600.0, max_wait_s=3600.0)
    model = OpenAIModel("http://no-such-host.invalid/v1", model="m", options=options)
    (answer,) = model.generate(_asks("a"))
    assert "cannot be found: there is no such host" in _error(answer)


def test_nobody_at_the_address_fails_each_item() -> None:
    with FakeServer(lambda _: chat("x")) as server:
        pass
    answers = _remote(server).generate(_asks("a", "b"))
    assert ["lost or refused" in _error(answer) for answer in answers] == [True, True]


def test_a_cut_off_and_an_empty_answer_are_answers() -> None:
    cut = {"choices": [{"message": {"content": "Final Sc"}, "finish_reason": "length"}]}
    body = json.dumps(cut).encode()
    assert _one(lambda _: Reply(body=body), Request(("a",))) == Answer("Final Sc")
    assert _one(lambda _: chat(""), Request(("a",))) == Answer("")


def test_choices_are_asked_with_logprobs_and_read_behind_the_lead() -> None:
    tokens = [token("So: ", ("So: ", -0.1), ("x", -3.0)), *TWO]
    with FakeServer(lambda _: chat("So: 1", tokens=tokens)) as server:
        request = Request(("a",), choices=("1", "2"), verdict_prefix="So: ")
        (answer,) = _remote(server, votes=2).generate([request])
    assert isinstance(answer, Answer)
    assert answer.choice_logprobs == pytest.approx((math.log(0.75), math.log(0.25)))
    assert answer.votes == ()
    body = server.calls[0].body
    assert (body["logprobs"], body["top_logprobs"], len(server.calls)) == (True, 20, 1)


@pytest.mark.parametrize("status", [400, 422])
def test_a_server_that_refuses_logprobs_is_never_asked_for_them_again(status: int) -> None:
    def respond(call: Call) -> Reply:
        return Reply(status, b"bad field") if "logprobs" in call.body else chat("1", tokens=None)

    with FakeServer(respond) as server:
        remote = _remote(server)
        for text in ("a", "b", "c"):
            (answer,) = remote.generate(_asks(text, choices=("1", "2")))
            assert answer == Answer("1", notes=("the server refuses logprobs: left out",))
    assert ["top_logprobs" in call.body for call in server.calls] == [True, False, False, False]


def test_a_bad_item_does_not_cost_the_others_their_logprobs() -> None:
    def respond(call: Call) -> Reply:
        if call.text == "bad":
            return Reply(400, b"too long")
        return chat("1", tokens=TWO if call.body.get("logprobs") else None)

    with FakeServer(respond) as server:
        remote = _remote(server)
        bad, good = (remote.generate(_asks(t, choices=("1", "2")))[0] for t in ("bad", "good"))
    assert "too long" in _error(bad)
    assert isinstance(good, Answer)
    assert good.choice_logprobs is not None


@pytest.mark.parametrize("odd", [{}, "x", [None], [{"token": "1"}], [[]]])
def test_odd_logprobs_leave_the_text_alone(odd: Any) -> None:
    request = Request(("a",), choices=("1", "2"))
    assert _one(lambda _: chat("1", tokens=odd), request) == Answer("1")


def test_votes_are_sampled_with_their_seeds_where_probabilities_cannot_be_told() -> None:
    def respond(call: Call) -> Reply:
        return chat(f"seed {call.body['seed']} at {call.body['temperature']:g}")

    with FakeServer(respond) as server:
        request = Request(("a",), choices=("1", "2"))
        (answer,) = _remote(server, votes=3).generate([request])
    assert answer == Answer("seed 0 at 0", None, ("seed 1 at 1", "seed 2 at 1", "seed 3 at 1"))
    assert ["logprobs" in call.body for call in server.calls] == [True, False, False, False]


def test_a_failed_vote_is_left_out() -> None:
    def respond(call: Call) -> Reply:
        return Reply(400) if call.body["seed"] == 2 else chat(str(call.body["seed"]))

    assert _one(respond, Request(("a",)), votes=3) == Answer("0", None, ("1", "3"))


def test_requests_come_out_as_they_went_in() -> None:
    picture = Pictures.effect_noise((6, 6), 50).convert("RGBA")
    before = picture.tobytes()
    requests = [Request(("a", picture), choices=("1", "2"))]
    kept = copy.copy(requests)
    with FakeServer(lambda _: chat("1")) as server:
        _remote(server, votes=1).generate(requests)
    assert requests == kept
    assert (picture.mode, picture.tobytes()) == ("RGBA", before)


def test_a_picture_that_cannot_be_encoded_fails_alone() -> None:
    broken = Pictures.new("RGB", (2, 2))
    broken.close()
    with FakeServer(lambda _: chat("ok")) as server:
        bad, good = _remote(server).generate([Request((broken,)), Request(("fine",))])
    assert "an image of the request cannot be encoded" in _error(bad)
    assert good == Answer("ok")


def test_a_caller_inside_a_running_loop_is_served() -> None:
    """Works as in a notebook, whose cells run inside one."""

    async def cell() -> list[Answer | Failed | Unparsed]:
        return _remote(server).generate(_asks("a"))

    with FakeServer(lambda _: chat("x")) as server:
        assert asyncio.run(cell()) == [Answer("x")]


@pytest.fixture
def interruptible() -> Iterator[None]:
    """An interrupt raises, also where whoever started the tests had it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_gives_up_what_is_pending() -> None:
    """The server would take 20 s for each of 8 requests, one at a time."""

    def respond(_: Call) -> Reply:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        return chat("late", delay_s=20.0)

    options = OpenAIOptions(max_concurrency=1, timeout_s=60.0)
    with FakeServer(respond) as server, pytest.raises(KeyboardInterrupt):
        _remote(server, options=options).generate(_asks(*map(str, range(8))))
    assert len(server.calls) == 1


def test_a_long_retry_after_from_a_server_is_capped() -> None:
    """Uncapped this would take an hour."""

    def respond(call: Call) -> Reply:
        return chat("ok") if call.attempt == 2 else Reply(429, headers={"Retry-After": "3600"})

    options = OpenAIOptions(retries=1, backoff_s=0.0, max_wait_s=0.01)
    assert _one(respond, Request(("a",)), options=options) == Answer("ok")
