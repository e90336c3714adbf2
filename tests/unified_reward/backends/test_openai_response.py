"""Responses that are no plain answer: errors inside of 200, refusals, reasoning, no JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_server import FakeServer, Reply, answer, chat
from unified_reward.backends import openai_connection
from unified_reward.backends.openai import OpenAIModel
from unified_reward.backends.openai_options import OpenAIOptions
from unified_reward.backends.openai_response import (
    Completion,
    Fault,
    read_completion,
    read_response,
)
from unified_reward.core.errors import ServerError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed, Unparsed


FAST = OpenAIOptions(retries=2, backoff_s=0.0, timeout_s=5.0)


def ask(reply: Reply, options: OpenAIOptions = FAST) -> tuple[Answer | Failed | Unparsed, int]:
    """Result of a reply, and the number of times that it was asked for."""
    with FakeServer(lambda _: reply) as server:
        (result,) = OpenAIModel(server.url, model="m", api_key="", options=options).generate(
            [Request(("q",))]
        )
    return result, len(server.calls)


def failure(reply: Reply, options: OpenAIOptions = FAST) -> tuple[str, int]:
    result, n_calls = ask(reply, options)
    assert isinstance(result, Failed), result
    assert isinstance(result.cause, ServerError)
    return result.error, n_calls


@pytest.mark.parametrize(
    "error",
    [
        {"code": 429},
        {"code": "429"},
        {"code": 502},
        {"code": 529},
        {"status": 503},
        {"status": "UNAVAILABLE"},
        {"status": "RESOURCE_EXHAUSTED", "code": "x"},
        {"code": "rate_limit_exceeded"},
        {"type": "overloaded_error"},
        {"type": "server_error", "code": None},
        {"metadata": {"code": 429}},
        {"metadata": {"status_code": "500"}},
    ],
)
def test_a_passing_error_inside_of_200_is_tried_again(error: dict[str, Any]) -> None:
    text, n_calls = failure(answer({"error": {"message": "not now", **error}}))
    assert "answered with error" in text
    assert "tried 3 times: not now" in text
    assert n_calls == 3


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "no such thing", "code": 404}},
        {"error": {"message": "no such thing", "code": True}},
        {"error": {"message": "no such thing"}},
        {"error": "no such thing"},
        {"error": True, "message": "no such thing"},
        [{"error": {"message": "no such thing", "status": "INVALID_ARGUMENT"}}],
        {"object": "error", "message": "no such thing", "code": 404},
        {"detail": "no such thing"},
        {"detail": [{"loc": ["body", "x"], "msg": "no such thing"}]},
        {"choices": [], "error": {"message": "no such thing", "code": 402}},
        {"error": {"message": "Insufficient", "code": 402, "metadata": {"raw": "no such thing"}}},
    ],
)
def test_a_lasting_error_inside_of_200_fails_at_once_in_its_own_words(body: Any) -> None:
    text, n_calls = failure(answer(body))
    assert "no such thing" in text
    assert n_calls == 1


def test_retry_after_inside_of_200_is_honoured_up_to_the_cap() -> None:
    """Uncapped this would take an hour, and without it 20 s."""
    options = OpenAIOptions(retries=1, backoff_s=0.0, max_wait_s=0.01)
    reply = answer({"error": {"code": 429}}, headers={"Retry-After": "3600"})
    assert "tried 2 times" in failure(reply, options)[0]


def test_a_used_up_quota_is_not_tried_again() -> None:
    error = {"message": "no money", "type": "insufficient_quota", "code": "insufficient_quota"}
    text, n_calls = failure(answer({"error": error}, 429))
    assert "answered 429 Too Many Requests: no money" in text
    assert n_calls == 1


@pytest.mark.parametrize(
    ("choice", "words", "n_calls"),
    [
        ({"error": {"code": 502, "message": "upstream died"}}, "502 Bad Gateway", 3),
        ({"error": {"message": "upstream died"}}, "upstream died", 1),
        ({"error": "upstream died"}, "upstream died", 1),
        ({"finish_reason": "error"}, "finish_reason error", 1),
        ({"finish_reason": "abort"}, "finish_reason abort", 1),
    ],
)
@pytest.mark.parametrize("text", ["", "Final Score: 4"])
def test_an_answer_that_ended_in_an_error_is_failed(
    choice: dict[str, Any], words: str, n_calls: int, text: str
) -> None:
    found = failure(answer({"choices": [{"message": {"content": text}, **choice}]}))
    assert words in found[0]
    assert found[1] == n_calls


def test_an_error_of_half_letters_and_control_codes_can_be_written() -> None:
    text, _ = failure(answer({"error": {"message": "half \ud83d \x1b[31m red\x00"}}, 400))
    assert text.encode().decode().endswith("half ? ?[31m red?")


def test_an_empty_error_beside_an_answer_is_none() -> None:
    body = {"choices": [{"message": {"content": "4"}, "error": None}], "error": {"code": 0}}
    assert ask(answer(body))[0] == Answer("4")


@pytest.mark.parametrize(
    "finish", ["content_filter", "safety", "prohibited_content", "content_filter: recitation"]
)
def test_a_filtered_answer_is_failed_even_where_some_of_it_came(finish: str) -> None:
    text, n_calls = failure(chat("Final Score: 4", finish=finish))
    assert f"withheld the answer (finish_reason {finish})" in text
    assert n_calls == 1


def test_no_answer_with_an_end_of_the_servers_own_is_failed() -> None:
    text, _ = failure(chat("", finish="malformed_response"))
    assert "ended without an answer (finish_reason malformed_response)" in text


@pytest.mark.parametrize(
    "reply",
    [
        chat(None, message={"refusal": "No, I will not judge that."}),
        chat("", message={"refusal": "No, I will not judge that."}),
        chat([{"type": "refusal", "refusal": "No, I will not judge that."}]),
    ],
)
def test_a_refusal_of_the_judge_is_unparsed_and_no_answer(reply: Reply) -> None:
    words = "No, I will not judge that."
    assert ask(reply)[0] == Unparsed(f"the judge refuses to answer: {words}", words)


def test_reasoning_that_used_up_all_tokens_is_unparsed_with_the_remedy() -> None:
    reply = chat(None, finish="length", message={"reasoning_content": "Final Score: 5, or"})
    result, _ = ask(reply)
    assert isinstance(result, Unparsed)
    assert "all its tokens were used up before it" in result.reason
    assert "--extra-body" in result.reason
    assert result.text == "Final Score: 5, or"


def test_reasoning_beside_an_answer_is_not_read() -> None:
    reply = chat("Final Score: 4", message={"reasoning_content": "Final Score: 1"})
    assert ask(reply)[0] == Answer("Final Score: 4")
    only = ask(chat(None, message={"reasoning": "Final Score: 1"}))[0]
    assert only == Unparsed("the answer is empty: reasoning only", "Final Score: 1")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            [{"type": "text", "text": "Final "}, {"type": "text", "text": "Score: 4"}],
            "Final Score: 4",
        ),
        ([{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}], "4"),
        ([], ""),
        (None, ""),
        ("half a letter: \ud83d", "half a letter: ?"),
    ],
)
def test_content_is_read_as_text_or_parts(content: Any, text: str) -> None:
    assert ask(chat(content))[0] == Answer(text)


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        (Reply(body=b"{broken"), "other than a chat completion, broken or cut off JSON: {broken"),
        (Reply(body=b"<html>login</html>"), "a page, not with JSON; is this the base URL"),
        (Reply(body=b'data: {"choices": []}\n\n'), "a stream of events, which was not requested"),
        (Reply(body=b": PROCESSING\n\ndata: [DONE]"), "a stream of events"),
        (Reply(), "answered with an empty body"),
        (Reply(204), "answered with an empty body"),
        (Reply(body=b"\xff\xfe\x00"), "other than a chat completion"),
        (Reply(body=b"[" * 100_000 + b"]" * 100_000), "other than a chat completion"),
        (Reply(body=b"1" * 5000), "other than a chat completion"),
        (Reply(body=b"null"), "other than a chat completion"),
        (Reply(body=b"{}"), "other than a chat completion"),
        (Reply(body=b'{"choices": []}'), "answered without a choice"),
        (Reply(body=b'{"choices": [{"message": "hi"}]}'), "other than a chat completion"),
        (Reply(body=b'{"choices": [{"text": "hi"}]}'), "other than a chat completion"),
        (chat(7), "other than a chat completion"),
        (chat(["text"]), "other than a chat completion"),
        (chat({"text": "hi"}), "other than a chat completion"),
        (Reply(body=b"not gzip", headers={"Content-Encoding": "gzip"}), "unreadable bytes"),
        (
            Reply(307, headers={"Location": "https://elsewhere/v1?token=secret"}),
            "answered 307 Temporary Redirect, which is not followed: https://elsewhere/v1",
        ),
        (Reply(401, b'{"message": "no key"}'), "answered 401 Unauthorized: no key"),
        (answer({"error": "no model"}, 404), "answered 404 Not Found: no model"),
        (answer({"detail": [{"loc": ["body", "x"], "msg": "odd"}]}, 413), "body.x: odd"),
        (Reply(404, b"x " * 9999), "answered 404 Not Found: " + "x " * 150 + "…"),
    ],
)
def test_nonsense_is_a_failure_in_words_and_is_not_retried(reply: Reply, trouble: str) -> None:
    text, n_calls = failure(reply)
    assert trouble in text
    assert "token=secret" not in text
    assert len(text) < 450
    assert n_calls == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["message", "code", "status", "metadata", "raw"]), inner)
    ),
    max_leaves=4,
)
NAMES = ("error", "choices", "message", "detail", "content", "refusal", "finish_reason", "logprobs")


@given(
    body=st.dictionaries(st.sampled_from(NAMES), JSON)
    | st.dictionaries(st.sampled_from(NAMES), JSON).map(lambda m: {"choices": [{"message": m}]})
    | st.dictionaries(st.sampled_from(NAMES), JSON).map(
        lambda choice: {"choices": [{"message": {"content": "4"}, **choice}]}
    )
    | JSON,
    status=st.sampled_from([200, 204, 302, 400, 429, 500, 599]),
)
def test_no_response_however_odd_raises(body: Any, status: int) -> None:
    found = read_response(status, json.dumps(body).encode(), {})
    assert status == 200 or isinstance(found, Fault) or status == 204
    if not isinstance(found, Fault):
        completion = read_completion(found)
        assert isinstance(completion, Completion | Unparsed | Fault)
        assert not isinstance(completion, Completion) or isinstance(completion.text, str)


@given(content=st.binary(max_size=40))
def test_no_bytes_however_odd_raise(content: bytes) -> None:
    for status in (200, 500):
        assert read_response(status, content, {})


def test_a_byte_order_mark_and_a_wrong_type_do_not_hide_an_answer() -> None:
    body = chat("4").body
    marked = Reply(body=b"\xef\xbb\xbf  " + body, headers={"Content-Type": "text/html"})
    assert ask(marked)[0] == Answer("4")
    wide = Reply(body=body.decode().encode("utf-16"))
    assert ask(wide)[0] == Answer("4")


def test_a_response_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openai_connection, "MAX_BYTES", 1000)
    text, n_calls = failure(chat("x" * 2000))
    assert "answered with more than 1000 bytes" in text
    assert n_calls == 1


@pytest.mark.parametrize("slash", ["/", "\\/"])
def test_an_echoed_request_is_not_repeated_in_the_message(slash: str) -> None:
    """A server that validates the request repeats it: the image in base64 and the headers."""
    body = {"messages": [{"url": "data:image/png;base64," + f"iVBOR{slash}w0KGgo=" * 500}]}
    echo = json.dumps({"input": body, "api-key": "hunter-22", "auth": "Bearer abcdef-1"})
    options = OpenAIOptions(
        retries=0, extra_headers={"api-key": "hunter-22", "Authorization": "Bearer abcdef-1"}
    )
    text, _ = failure(Reply(422, echo.encode()), options)
    assert "(data)" in text
    assert "iVBOR" not in text
    assert "hunter" not in text
    assert "abcdef" not in text
    assert len(text) < 450
