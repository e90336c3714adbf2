"""Proxies and certificates of the environment: what is used, and what is refused in one line."""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fake_server import Call, FakeServer, Reply, chat
from unified_reward.backends.http_settings import check_route_to_hub, route_to
from unified_reward.backends.openai import OpenAIModel
from unified_reward.backends.openai_options import OpenAIOptions
from unified_reward.bench.run import data_folder
from unified_reward.core.errors import ConfigError
from unified_reward.core.requests import Answer, Request
from unified_reward.core.verdicts import Failed
from unified_reward.judges.registry import open_judge
from unified_reward.policies import is_pipeline


REMOTE = "http://judge.example.org/v1"
ONCE = OpenAIOptions(retries=0, timeout_s=5.0)


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith("SSL"):
            monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "socksio", None)  # as if it were not installed


def _set(monkeypatch: pytest.MonkeyPatch, **variables: str) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


UNUSABLE = [
    *("socks5://127.0.0.1:9", "socks5h://127.0.0.1:9", "socks://127.0.0.1:9", "ftp://h:1"),
    *("http://", "://", "http://h:port", "http://h:99999", "http://[bad", "a b", "[", "//", "h:0"),
]


@pytest.mark.parametrize("value", UNUSABLE)
@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"])
def test_a_proxy_that_cannot_be_used_is_one_line_with_its_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    _set(monkeypatch, **{variable: value})
    with pytest.raises(ConfigError) as caught:
        open_judge(REMOTE, model="m")
    message = str(caught.value)
    assert message.startswith(f"{variable}={value} cannot be used: ")
    assert "\n" not in message


@pytest.mark.parametrize("value", ["socks://me:hunter2@h:1", "me:hunter2@h:port", "x://hunter2@"])
def test_the_login_of_a_proxy_is_never_printed(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    _set(monkeypatch, HTTP_PROXY=value)
    with pytest.raises(ConfigError, match=r"^HTTP_PROXY=.*\*\*\*@") as caught:
        open_judge(REMOTE)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("value", UNUSABLE)
def test_a_server_on_this_machine_needs_no_proxy_and_no_certificates(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    _set(monkeypatch, ALL_PROXY=value, http_proxy=value, NO_PROXY="fe80::/999")
    _set(monkeypatch, SSL_CERT_FILE="/nope", SSL_CERT_DIR="/nope", SSLKEYLOGFILE="/nope/x")
    with FakeServer(lambda _: chat("x")) as server:
        model = OpenAIModel(server.url, model="m", options=ONCE)
        assert model.generate([Request(("q",))]) == [Answer("x")]


@pytest.mark.parametrize(
    "host",
    ["localhost", "judge.localhost", "127.0.0.1", "127.8.9.1", "[::1]", "0.0.0.0"],  # noqa: S104
)
def test_names_of_this_machine(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    _set(monkeypatch, ALL_PROXY="http://proxy:1")
    assert route_to(httpx.URL(f"http://{host}:8000/v1")).proxy is None
    assert route_to(httpx.URL("http://localhost.example.org/v1")).proxy is not None


@pytest.mark.parametrize(
    ("entry", "host"),
    [
        ("*", "a.b"),
        ("b", "b"),
        ("b", "a.b"),
        (".b", "a.b"),
        ("*.b", "a.b"),
        ("A.B", "a.b"),
        ("x, a.b ,y", "a.b"),
        ("x a.b", "a.b"),
        ("a.b:8000", "a.b"),
        ("http://a.b", "a.b"),
        ("10.1.2.3", "10.1.2.3"),
        ("10.0.0.0/8", "10.1.2.3"),
        ("10.1.2.3/8", "10.9.9.9"),
        ("10.1.2.3:8000", "10.1.2.3"),
        ("fe80::/10", "[fe80::1]"),
        ("[fe80::1]", "[fe80::1]"),
        ("[fe80::]/10", "[fe80::1]"),
        ("[fe80::1]:8000", "[fe80::1]"),
        ("fd00::1/128", "[fd00::1]"),
    ],
)
@pytest.mark.parametrize("variable", ["no_proxy", "NO_PROXY"])
def test_hosts_and_networks_of_no_proxy_are_reached_directly(
    monkeypatch: pytest.MonkeyPatch, variable: str, entry: str, host: str
) -> None:
    _set(monkeypatch, **{"ALL_PROXY": "socks://nonsense", variable: entry})
    assert route_to(httpx.URL(f"http://{host}:8000/v1")).proxy is None


@pytest.mark.parametrize(
    "entry",
    ["", ",", "b.c", "xa.b", "a", "a.b:80", "::1/128", "[::1]", "10.0.0.0/8", "fe80::/10", "*.b.c"],
)
def test_others_are_reached_through_the_proxy(monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    _set(monkeypatch, ALL_PROXY="proxy:3128", NO_PROXY=entry)
    for host in ("a.b", "11.1.2.3", "[fd00::1]"):
        assert route_to(httpx.URL(f"http://{host}:8000/v1")).proxy is not None


@pytest.mark.parametrize("entry", ["10.0.0.0/99", "fe80::/200", "a.b/c", "localhost,10.0.0.0/x"])
def test_a_network_of_no_proxy_that_is_none_is_refused(
    monkeypatch: pytest.MonkeyPatch, entry: str
) -> None:
    _set(monkeypatch, ALL_PROXY="http://proxy:3128", NO_PROXY=entry)
    with pytest.raises(ConfigError, match=r"NO_PROXY=\S+ cannot be used: it is neither a host nor"):
        open_judge(REMOTE)


@pytest.mark.parametrize(
    ("variables", "url", "used"),
    [
        ({"http_proxy": "small:1", "HTTP_PROXY": "large:1"}, "http://h", "small"),
        ({"HTTP_PROXY": "large:1", "ALL_PROXY": "all:1"}, "http://h", "large"),
        ({"HTTPS_PROXY": "secure:1", "ALL_PROXY": "socks://x"}, "https://h", "secure"),
        ({"HTTP_PROXY": "socks://x"}, "https://h", None),
        ({"http_proxy": "", "HTTP_PROXY": "large:1"}, "http://h", None),
        ({"ALL_PROXY": "  "}, "http://h", None),
        ({"HTTP_PROXY": "  "}, "http://h", None),
    ],
)
def test_the_variable_of_the_scheme_comes_before_the_general_one(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], url: str, used: str | None
) -> None:
    _set(monkeypatch, **variables)
    proxy = route_to(httpx.URL(url)).proxy
    assert (proxy and proxy.url.host) == used


def test_a_proxy_is_used_with_its_login(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Call] = []

    def respond(call: Call) -> Reply:
        calls.append(call)
        return chat("x")

    with FakeServer(respond) as proxy:
        address = proxy.url.removesuffix("/v1").replace("http://", "http://me:hunter2@")
        _set(monkeypatch, http_proxy=address)
        model = OpenAIModel(REMOTE, model="m", options=ONCE)
        assert model.generate([Request(("q",))]) == [Answer("x")]
    assert calls[0].path == f"{REMOTE}/chat/completions"
    assert calls[0].headers["Proxy-Authorization"] == "Basic bWU6aHVudGVyMg=="


@pytest.mark.parametrize("url", [REMOTE, REMOTE.replace("http", "https")])
def test_a_proxy_that_is_not_there_is_named_and_not_the_server(
    monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    with FakeServer(lambda _: chat("x")) as gone:
        pass
    port = gone.url.rpartition(":")[2].removesuffix("/v1")
    _set(monkeypatch, ALL_PROXY=f"http://me:hunter2@127.0.0.1:{port}")
    (answer,) = OpenAIModel(url, model="m", options=ONCE).generate([Request(("q",))])
    assert isinstance(answer, Failed)
    start = f"the proxy at http://***@127.0.0.1:{port} (ALL_PROXY) lost or refused the connection"
    assert answer.error.startswith(start)


@pytest.mark.parametrize("status", [407, 200])
def test_a_proxy_that_wants_a_login_is_named(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    with FakeServer(
        lambda _: Reply(status, b'{"error": {"message": "who?", "code": 407}}')
    ) as proxy:
        _set(monkeypatch, ALL_PROXY=proxy.url.removesuffix("/v1"))
        model = OpenAIModel(REMOTE, model="m", options=ONCE)
        (answer,) = model.generate([Request(("q",))])
    assert isinstance(answer, Failed)
    assert answer.error.startswith("the proxy at") is (status == 407)


def _context(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Any:
    _set(monkeypatch, **variables)
    return route_to(httpx.URL("https://judge.example.org/v1")).tls


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE"])
def test_certificates_that_are_not_there_are_refused_with_their_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    _set(monkeypatch, **{variable: "/nope/nothing"})
    with pytest.raises(ConfigError, match=rf"^{variable}=/nope/nothing cannot be used: ") as caught:
        open_judge("https://judge.example.org/v1")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a certificate", b"\x30\x82\x00\x00", None])
def test_a_file_that_holds_no_certificate_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None
) -> None:
    file = tmp_path / "certificates.pem"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"^SSL_CERT_FILE="):
        _context(monkeypatch, SSL_CERT_FILE=str(file))


def test_certificates_of_the_environment_are_trusted_and_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import certifi

    text = Path(certifi.where()).read_text("utf-8")
    end = "-----END CERTIFICATE-----\n"
    file = tmp_path / "one.pem"
    file.write_text(text.partition(end)[0] + end, "utf-8")
    context = _context(monkeypatch, SSL_CERT_FILE=str(file))
    assert isinstance(context, ssl.SSLContext)
    assert len(context.get_ca_certs()) == 1
    assert context.verify_mode == ssl.CERT_REQUIRED
    monkeypatch.delenv("SSL_CERT_FILE")
    assert len(_context(monkeypatch).get_ca_certs()) > 1
    assert _context(monkeypatch, SSL_CERT_DIR=str(tmp_path)).get_ca_certs() == []


@pytest.mark.parametrize(
    "door",
    [
        lambda: open_judge("org/name"),
        lambda: open_judge("pickscore:org/name"),
        lambda: is_pipeline("org/name"),
        lambda: data_folder("org/name"),
    ],
    ids=["checkpoint", "scorer", "policy", "benchmark"],
)
def test_every_way_to_the_hub_refuses_what_cannot_be_used(
    monkeypatch: pytest.MonkeyPatch, door: Any
) -> None:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for variable, value in (("ALL_PROXY", "socks://h"), ("SSL_CERT_FILE", "/nope")):
        with monkeypatch.context() as only:
            only.setenv(variable, value)
            with pytest.raises(ConfigError, match=f"^{variable}={value} cannot be used"):
                door()


def test_the_hub_offline_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    _set(monkeypatch, ALL_PROXY="socks://h", HF_HUB_OFFLINE="1")
    check_route_to_hub()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    _set(monkeypatch, HF_ENDPOINT="http://localhost:port")
    with pytest.raises(ConfigError, match="HF_ENDPOINT=http://localhost:port cannot be used"):
        check_route_to_hub()
