import socket

import pytest

from tests.unified_reward.serve.brightness import Brightness
from tests.unified_reward.serve.requests import item, request
from tests.unified_reward.serve.running import serving
from unified_reward.core.errors import ConfigError
from unified_reward.serve.config import ServeConfig


TOKEN = "s3cret"  # noqa: S105


@pytest.fixture(scope="module")
def url():
    with serving({"light": Brightness()}, token=TOKEN, max_body_bytes=10_000) as url:
        yield url


@pytest.mark.parametrize("header", [None, TOKEN, "Bearer", "Bearer s3cre", "Bearer s3crets"])
@pytest.mark.parametrize("path", ["/v1/score", "/v1/judges", "/metrics", "/docs", "/openapi.json"])
def test_nothing_but_health_is_answered_without_the_token(url, path, header):
    headers = {"Authorization": header} if header else {}
    response = request(url + path, {"items": []} if "score" in path else None, **headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert TOKEN not in response.text


def test_the_token_opens_the_server(url):
    response = request(f"{url}/v1/score", {"items": [item(4)]}, Authorization=f"Bearer {TOKEN}")
    assert response.json()["results"]["light"][0]["value"] == 4
    assert request(f"{url}/health").status_code == 200


@pytest.mark.parametrize(
    ("header", "status"), [("Content-Length: 10001", 413), ("Transfer-Encoding: chunked", 411)]
)
def test_a_body_that_is_large_or_of_unknown_size_is_refused_before_it_is_sent(url, header, status):
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        client.sendall(
            f"POST /v1/score HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"{header}\r\n\r\n".encode()
        )
        assert client.recv(4096).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_web_page_does_not_reach_a_local_server_by_its_own_name(url):
    response = request(f"{url}/v1/judges", Host="evil.example", Authorization=f"Bearer {TOKEN}")
    assert (response.status_code, response.json()["error"]["type"]) == (421, "wrong_host")


def test_bytes_of_all_requests_are_bounded():
    with serving({"light": Brightness()}, max_pending_bytes=100) as url:
        response = request(f"{url}/v1/score", {"items": [item(4)]})
        assert (response.status_code, response.json()["error"]["type"]) == (429, "busy")


def test_prompts_are_logged_only_when_wanted(caplog):
    caplog.set_level("INFO")
    for wanted in (False, True):
        with serving({"light": Brightness()}, log_prompts=wanted) as url:
            request(f"{url}/v1/score", {"items": [item(4, prompt="my secret plan")]})
        assert ("my secret plan" in caplog.text) is wanted


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.0.5", "::", "example.org"])  # noqa: S104
def test_an_open_address_needs_a_token(host):
    with pytest.raises(ConfigError, match="--token-file"):
        ServeConfig(host=host)
    with pytest.raises(ConfigError, match="loopback"):
        ServeConfig(host=host, token=TOKEN, accept_pickle=True)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.0.1.1"])
def test_loopback_needs_none(host):
    assert ServeConfig(host=host).is_loopback
