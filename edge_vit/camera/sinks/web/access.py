"""Who may see the dashboard: this machine alone, or clients with the token."""

from __future__ import annotations

import hmac
import http.cookies
import ipaddress
import secrets
from collections.abc import Mapping
from typing import Literal

from edge_vit.errors import SpecError

COOKIE = "edgevit"
TOKEN_VARIABLE = "EDGEVIT_TOKEN"
SHORTEST_TOKEN = 16
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})

Verdict = Literal["granted", "new cookie", "token", "host", "cross-site"]
"""``new cookie``: granted, and the token stood in the address, where a browser's history keeps it;
the last three are refusals: no or a wrong token, a strange host name, a page of another site.
"""


class Access:
    """Decides about each request to a server that listens on `host`.

    On a loopback address `token` may be None: then this machine alone has access.
    """

    def __init__(self, host: str, token: str | None) -> None:
        if token is None and not is_loopback(host):
            raise SpecError(
                f"dashboard on {host}: anybody could watch. Give a token: export {TOKEN_VARIABLE}="
                "$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))')"
            )
        if token is not None and len(token) < SHORTEST_TOKEN:
            raise SpecError(
                f"{TOKEN_VARIABLE}: got {len(token)} characters, expected {SHORTEST_TOKEN} at least"
            )
        self._token = token
        self._hosts = _LOCAL_NAMES | {host.lower()}
        self._cookie = secrets.token_urlsafe(32)  # worthless once this process has ended

    @property
    def cookie(self) -> str:
        """The header ``Set-Cookie`` for a client that showed the token."""
        return f"{COOKIE}={self._cookie}; HttpOnly; SameSite=Strict; Path=/"

    def judge(self, headers: Mapping[str, str], query: Mapping[str, str]) -> Verdict:
        """Return what to do with a request, by its headers (lower-case names) and its query."""
        is_navigation = headers.get("sec-fetch-mode") == "navigate"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and not is_navigation:
            return "cross-site"
        origin = headers.get("origin")  # of browsers that send no sec-fetch-site
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            return "cross-site"
        if self._token is None:
            return "granted" if self._is_known_host(headers.get("host", "")) else "host"
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _equal(given.strip(), self._token):
            return "granted"
        if _equal(_cookie_of(headers), self._cookie):
            return "granted"
        return "new cookie" if _equal(query.get("token", ""), self._token) else "token"

    def _is_known_host(self, host: str) -> bool:
        """Whether `host` is a name of this machine, not one that a stranger has pointed at it."""
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        return name.strip("[]").lower() in self._hosts


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _equal(given: str, wanted: str) -> bool:
    """Whether both are the same, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _cookie_of(headers: Mapping[str, str]) -> str:
    try:
        jar = http.cookies.SimpleCookie(headers.get("cookie", ""))
    except http.cookies.CookieError:
        return ""
    return jar[COOKIE].value if COOKIE in jar else ""
