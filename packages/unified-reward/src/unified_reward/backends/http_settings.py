"""Proxy and certificates of the environment, for one server.

Variables are read here and not by the HTTP library, which raises errors of many kinds at values it
cannot use, also where the server needs neither. Knows no protocol above HTTP.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import re
import ssl
import urllib.request
from dataclasses import dataclass

import httpx

from unified_reward.core.errors import ConfigError, one_line
from unified_reward.core.paths import is_folder


_CERTIFICATES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")
_WITH_PORT = re.compile(r"(\[.*\]|[^:]*):(\d+)")
_LOGIN = re.compile(r"^(\w[\w+.-]*://)?.*@")


@dataclass(frozen=True)
class Route:
    """The way to a server."""

    proxy: httpx.Proxy | None
    proxy_name: str
    """The proxy in messages, without its login; empty if there is none."""
    tls: ssl.SSLContext


def route_to(url: httpx.URL) -> Route:
    """Find proxy and certificates for a server.

    This machine itself (``localhost``, 127.0.0.0/8, ::1) is reached without a proxy. Others are
    reached through ``http_proxy`` or ``https_proxy``, else ``all_proxy``, in small or capital
    letters, unless ``no_proxy`` names them: a host with all below it, an address, a network such as
    10.0.0.0/8, each also with a port, or ``*``. Certificates are those of ``SSL_CERT_FILE`` or
    ``SSL_CERT_DIR``, else of certifi; they are read only where there is TLS.

    Raises:
        ConfigError: A variable that is needed cannot be used; names it, without a login.
    """
    setting = None if _is_this_machine(url.host) else _proxy_setting(url.scheme)
    if setting and _is_excluded(url):
        setting = None
    if setting is None:
        tls = _certificates() if url.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return Route(None, "", tls)
    variable, value = setting
    address = _proxy_address(variable, value)
    uses_tls = "https" in (url.scheme, address.scheme)
    tls = _certificates() if uses_tls else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        proxy = httpx.Proxy(address, ssl_context=tls if address.scheme == "https" else None)
    except ValueError as error:
        raise _unusable(variable, value, "an http://, https:// or socks5:// proxy is") from error
    return Route(proxy, f"the proxy at {_without_login(str(address))} ({variable})", tls)


def check_route_to_hub() -> None:
    """Check proxy and certificates before the hub's own library meets them, unless it is offline.

    Raises:
        ConfigError: A variable that is needed cannot be used.
    """
    offline = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    if offline.upper() in ("1", "ON", "YES", "TRUE"):
        return
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    try:
        url = httpx.URL(endpoint)
    except httpx.InvalidURL as error:
        raise _unusable("HF_ENDPOINT", endpoint, "it is not a URL") from error
    route_to(url)


def _is_this_machine(host: str) -> bool:
    address = _ip_address(host)
    if address is None:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def _ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _variable(name: str) -> tuple[str, str]:
    """A variable in small letters, else in capitals, as it is named, and its value."""
    variable = name if name in os.environ else name.upper()
    return variable, os.environ.get(variable, "").strip()


def _proxy_setting(scheme: str) -> tuple[str, str] | None:
    """Variable and value of the proxy for a scheme; those of the system where no variable is."""
    for name in (f"{scheme}_proxy", "all_proxy"):
        variable, value = _variable(name)
        if value:
            return variable, value
    system = urllib.request.getproxies().get(scheme, "").strip()
    return ("the system's proxy settings", system) if system else None


def _proxy_address(variable: str, value: str) -> httpx.URL:
    try:
        address = httpx.URL(value if "://" in value else f"http://{value}")
    except httpx.InvalidURL as error:
        raise _unusable(variable, value, "it is not a URL") from error
    port = 1 if address.port is None else address.port
    if not re.fullmatch(r"[\w.:-]+", address.host) or not 0 < port < 65536:
        raise _unusable(variable, value, "a proxy is HOST:PORT or http://HOST:PORT")
    if address.scheme.startswith("socks5"):
        try:
            import socksio  # noqa: F401  # pyright: ignore[reportMissingImports, reportUnusedImport]
        except ImportError as error:
            raise _unusable(variable, value, "SOCKS needs pip install 'httpx[socks]'") from error
    return address


def _is_excluded(url: httpx.URL) -> bool:
    variable, value = _variable("no_proxy")
    port = url.port or (80 if url.scheme == "http" else 443)
    return any(
        _covers(entry.rpartition("://")[2].rstrip("/").lower(), url.host, port, variable)
        for entry in re.split(r"[\s,;]+", value)
    )


def _covers(entry: str, host: str, port: int, variable: str) -> bool:
    if entry == "*":
        return True
    if match := _WITH_PORT.fullmatch(entry):
        entry, given = match.groups()
        if int(given) != port:
            return False
    try:
        network = ipaddress.ip_network(re.sub(r"[][]", "", entry), strict=False)
    except ValueError as error:
        if "/" in entry:
            raise _unusable(variable, entry, "it is neither a host nor a network") from error
        name = entry.removeprefix("*").strip(".")
        return name != "" and f".{host}".endswith(f".{name}")
    address = _ip_address(host)
    return address is not None and address in network


def _certificates() -> ssl.SSLContext:
    return _context(*(os.environ.get(variable, "") for variable in _CERTIFICATES))


@functools.cache
def _context(file: str, folder: str, key_log: str) -> ssl.SSLContext:
    """Made once per setting: reading the certificates takes longer than a small request."""
    if not file and folder and not any(is_folder(part) for part in folder.split(os.pathsep)):
        raise _unusable("SSL_CERT_DIR", folder, "there is no such folder")
    try:
        if file or folder:
            return ssl.create_default_context(cafile=file or None, capath=folder or None)
        return httpx.create_ssl_context(trust_env=False)
    except OSError as error:
        given = {"SSL_CERT_FILE": file, "SSL_CERT_DIR": folder, "SSLKEYLOGFILE": key_log}
        variables = " and ".join(name for name, value in given.items() if value)
        values = " and ".join(value for value in given.values() if value)
        reason = error.strerror or error.__class__.__name__
        raise _unusable(variables, values, f"no certificates can be read: {reason}") from error


def _unusable(variable: str, value: str, reason: str) -> ConfigError:
    text = one_line(_without_login(value), 200)
    return ConfigError(f"{variable}={text} cannot be used: {reason}; change or unset {variable}")


def _without_login(value: str) -> str:
    return _LOGIN.sub(r"\1***@", value)
