"""Setup of a remote model: URL, key, model's name, options and waits."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import time
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fake_server import Call, FakeServer, Reply, chat
from unified_reward.backends.openai import OpenAIModel
from unified_reward.backends.openai_options import KEY_VARIABLE, OpenAIOptions, wait_s
from unified_reward.core.errors import ConfigError, ServerError
from unified_reward.core.requests import Answer, Model, Request
from unified_reward.core.verdicts import Failed, Unparsed


FAST = OpenAIOptions(retries=2, backoff_s=0.001, timeout_s=5.0)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def _remote(server: FakeServer, **kwargs: Any) -> OpenAIModel:
    return OpenAIModel(server.url, **{"model": "judge", "options": FAST, **kwargs})


def _asks(*texts: str, **kwargs: Any) -> list[Request]:
    return [Request((text,), **kwargs) for text in texts]


def _error(answer: Answer | Failed | Unparsed) -> str:
    assert isinstance(answer, Failed), answer
    return answer.error


def test_without_a_name_the_only_model_is_taken_once() -> None:
    with FakeServer(lambda _: chat("x"), models=("tiny",)) as server:
        remote = _remote(server, model=None)
        assert remote.name == server.url
        remote.generate(_asks("a"))
        server.models = Reply(500)
        remote.generate(_asks("b"))
    assert [call.body["model"] for call in server.calls] == ["tiny", "tiny"]
    assert remote.name == f"tiny at {server.url}"


def test_several_models_must_be_told_apart_by_the_caller() -> None:
    with (
        FakeServer(lambda _: chat("x"), models=("small", "large")) as server,
        pytest.raises(ConfigError, match="several models, name one of them: 'small', 'large'"),
    ):
        _remote(server, model=None).generate(_asks("a"))


@pytest.mark.parametrize(
    ("reply", "trouble"),
    [
        (Reply(body=b'{"data": []}'), "names no model it serves; pass model="),
        (Reply(body=b"<html>"), "answered with a page, not with JSON"),
        (Reply(body=b'{"data": [{"id": "two\\nlines"}]}'), "names no model it serves"),
        (Reply(404), "answered 404 Not Found; pass model="),
        (Reply(500), "answered 500 Internal Server Error, tried 3 times"),
    ],
)
def test_a_server_that_cannot_name_its_model_is_an_error(reply: Reply, trouble: str) -> None:
    with FakeServer(lambda _: chat("x")) as server:
        server.models = reply
        with pytest.raises(ServerError, match=trouble):
            _remote(server, model=None).generate(_asks("a"))


def test_nothing_is_contacted_for_no_requests() -> None:
    assert OpenAIModel("http://127.0.0.1:9").generate([]) == []


def test_the_key_is_sent_and_never_shown() -> None:
    def respond(call: Call) -> Reply:
        return Reply(401, f"wrong: {call.headers['Authorization']}".encode())

    with FakeServer(respond) as server:
        remote = _remote(server, api_key=" sk-very-secret\n")
        error = _error(remote.generate(_asks("a"))[0])
    assert server.calls[0].headers["Authorization"] == "Bearer sk-very-secret"
    assert error.endswith("wrong: Bearer ***")
    assert "secret" not in error + repr(remote) + remote.name


def test_a_key_at_the_cut_of_a_long_error_is_not_shown_in_part() -> None:
    with FakeServer(lambda _: Reply(400, b"x " * 145 + b"sk-very-secret")) as server:
        (answer,) = _remote(server, api_key="sk-very-secret").generate(_asks("a"))
    assert "sk-" not in _error(answer)


@pytest.mark.parametrize(
    ("variable", "given", "sent"),
    [
        (KEY_VARIABLE, None, "Bearer from-env"),
        (KEY_VARIABLE, "own", "Bearer own"),
        (KEY_VARIABLE, "", None),
        ("OPENAI_API_KEY", None, None),
    ],
)
def test_only_our_own_variable_names_a_key(
    monkeypatch: pytest.MonkeyPatch, variable: str, given: str | None, sent: str | None
) -> None:
    monkeypatch.setenv(variable, "from-env")
    with FakeServer(lambda _: chat("x")) as server:
        _remote(server, api_key=given).generate(_asks("a"))
    assert server.calls[0].headers.get("Authorization") == sent


@pytest.mark.parametrize("key", ["two\nlines", "schlüssel"])
def test_a_key_that_no_header_can_carry_is_refused_unshown(key: str) -> None:
    with pytest.raises(ConfigError, match="are invalid in an HTTP header") as caught:
        OpenAIModel("http://localhost", api_key=key)
    assert key not in str(caught.value)


def test_a_key_of_the_environment_that_no_header_can_carry_names_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "schlüssel")
    with pytest.raises(ConfigError, match=f"^{KEY_VARIABLE} has characters"):
        OpenAIModel("http://localhost")


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:8000", "ftp://host", "http://", "", "http://h/v1?a=b", "http://h:port"),
        *("http://h:99999/v1", "http://h/v1#part", "http://h/v1\n"),
    ],
)
def test_what_is_no_base_of_a_server_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is not a URL|such as http://localhost:8000/v1"):
        OpenAIModel(url)


def test_a_url_with_the_path_of_a_request_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="leave out /chat/completions"):
        OpenAIModel("http://h/v1/chat/completions")


def test_a_query_is_refused_unshown_unless_it_is_the_version_of_the_api() -> None:
    with pytest.raises(ConfigError, match="no query but api-version") as caught:
        OpenAIModel("http://h/v1?key=hunter2")
    assert "hunter2" not in str(caught.value)
    with FakeServer(lambda _: chat("x")) as server:
        url = f"{server.url}/deployments/gpt%2F4?api-version=2024-10-21"
        remote = OpenAIModel(url, model="judge", options=FAST)
        assert remote.generate(_asks("a")) == [Answer("x")]
    path = "/v1/deployments/gpt%2F4/chat/completions?api-version=2024-10-21"
    assert server.calls[0].path == path
    assert "api-version" not in remote.name


@pytest.mark.parametrize("name", ["two\nlines", "\udcff", "\x00"])
def test_a_name_of_a_model_that_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="not a name of a model"):
        OpenAIModel("http://h/v1", model=name)


def test_a_login_in_the_url_is_refused_unshown() -> None:
    with pytest.raises(ConfigError, match="must not carry a login") as caught:
        OpenAIModel("http://me:hunter2@host/v1")
    assert "hunter2" not in str(caught.value)


def test_a_slash_at_the_end_of_the_url_is_the_same_url() -> None:
    with FakeServer(lambda _: chat("x")) as server:
        remote = OpenAIModel(server.url + "/", model="judge")
        assert remote.name == f"judge at {server.url}"
        assert remote.generate(_asks("a")) == [Answer("x")]


@pytest.mark.parametrize(
    "options",
    [
        *({"max_concurrency": 0}, {"timeout_s": 0.0}, {"retries": -1}, {"backoff_s": -1.0}),
        *({"max_pixels": 0}, {"image_format": "tiff"}, {"image_quality": 0}),
        *({"extra_body": {"top_p": math.nan}}, {"extra_body": {"stream": True}}),
        *({"extra_body": [1]}, {"extra_headers": ["a: b"]}, {"extra_headers": {"a": 1}}),
        *({"extra_headers": {"a b": "c"}}, {"extra_headers": {"Content-Length": "1"}}),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=rf"{name}|is not a name of an HTTP header|cannot be set"):
        OpenAIOptions(**options)


@pytest.mark.parametrize("value", ["schlüssel", "a\r\nb: c"])
def test_a_header_that_cannot_be_sent_is_refused_unshown(value: str) -> None:
    with pytest.raises(ConfigError, match="the header api-key has characters") as caught:
        OpenAIOptions(extra_headers={"api-key": value})
    assert value not in str(caught.value)


def test_negative_votes_are_refused() -> None:
    with pytest.raises(ConfigError, match="votes must not be negative: -1"):
        OpenAIModel("http://localhost", votes=-1)


def test_it_travels_to_workers_and_is_a_model() -> None:
    model: Model = pickle.loads(pickle.dumps(OpenAIModel("http://localhost:1/v1", model="m")))  # noqa: S301
    assert model.name == "m at http://localhost:1/v1"


def test_it_brings_no_torch() -> None:
    opened = "import sys, unified_reward as ur; ur.open_judge('http://localhost:9/v1')"
    code = f"{opened}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@given(
    attempt=st.integers(0, 2000),
    index=st.integers(0, 10**6),
    header=st.text(max_size=12) | st.floats().map(str) | st.just(formatdate(4e9)),
)
def test_a_wait_is_between_half_the_backoff_and_the_cap(
    attempt: int, index: int, header: str
) -> None:
    options = OpenAIOptions(backoff_s=0.5, max_wait_s=60.0)
    wait = wait_s(options, attempt, index=index, retry_after=header)
    assert min(0.5 * 2 ** min(attempt, 20) / 2, 60.0) <= wait <= 60.0


def test_retry_after_is_honoured_in_seconds_and_as_a_date() -> None:
    options = OpenAIOptions(backoff_s=0.5, max_wait_s=60.0)
    assert wait_s(options, 0, retry_after="7") == 7.0
    assert 20 < wait_s(options, 0, retry_after=formatdate(time.time() + 30, usegmt=True)) <= 30
    assert wait_s(options, 0, retry_after=formatdate(0, usegmt=True)) == 0.25
    assert wait_s(options, 0, retry_after="soon") == 0.25
