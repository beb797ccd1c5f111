"""Who may ask: host names, origins and the token, checked before anything of a request is read."""

from __future__ import annotations

import hashlib
import hmac
import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any
from urllib.parse import parse_qs

from edgepose.errors import InvalidInputError
from edgepose.serve.refusal import Refusal

__all__ = ["OPEN_PATHS", "Guard", "check_token"]

OPEN_PATHS = ("/healthz", "/readyz", "/static/")
"""Beginnings of paths answered without a token: whether the server lives, and files of the package."""
LEAST_TOKEN = 16

_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; script-src 'self'; style-src 'self'; "
     b"connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; form-action 'none'; "
     b"frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)  # fmt: skip

_log = logging.getLogger("edgepose")

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def check_token(token: str) -> str:
    """A token as it is.

    Raises:
        InvalidInputError: it is short, or cannot stand in a header and an address.
    """
    if len(token) < LEAST_TOKEN or not re.fullmatch(r"[A-Za-z0-9._~-]+", token):
        raise InvalidInputError(
            f"the token is not usable; found {len(token)} characters; give at least {LEAST_TOKEN} of "
            "A-Z a-z 0-9 . _ ~ -"
        )
    return token


class Guard:
    """ASGI middleware: refuses who may not ask, counts what is answered, and sets the headers of safety.

    Args:
        app: what is guarded.
        token: that everybody must show; None: nobody.
        allowed_hosts: names in the Host header, without port; None: any.
        entrance: the page that browsers get which have shown no token.
        paths: those that are counted by name.
        count: called with path and status of each answer.
    """

    def __init__(
        self,
        app: App,
        token: str | None,
        allowed_hosts: Sequence[str] | None,
        entrance: bytes,
        paths: frozenset[str],
        count: Callable[[str, int], None],
    ) -> None:
        self._app = app
        self._token = None if token is None else check_token(token).encode()
        # The cookie is not the token itself, so that one that leaks opens this page alone. Its name is of
        # this token, since browsers keep one cookie of a name for all the ports of a host.
        self._cookie = b"edgepose_" + _derived(self._token or b"", b"name")[:8]
        self._session = None if self._token is None else _derived(self._token, b"page")
        self._hosts = None if allowed_hosts is None else {host.lower() for host in allowed_hosts}
        self._entrance = entrance
        self._paths = paths
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":  # a WebSocket; there is none here
            await send({"type": "websocket.close", "code": 1008})
            return
        path: str = scope["path"]
        answered = False
        cookie: bytes | None = None

        async def send_on(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                self._count(path if path in self._paths else "other", message["status"])
                own = {name for name, _ in message.get("headers", ())}
                extra = [header for header in _HEADERS if header[0] not in own]
                if cookie is not None:
                    extra.append((b"set-cookie", cookie))
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            await send(message)

        headers = dict(scope["headers"])
        try:
            self._check_host(headers)
            self._check_origin(headers, scope)
            cookie = self._check_token(headers, scope)
            await self._app(scope, receive, send_on)
        except Refusal as refusal:
            if answered:
                raise
            cookie = None
            body, kind = refusal.to_json(), b"application/json"
            if refusal.status == 401 and path == "/" and b"text/html" in headers.get(b"accept", b""):
                body, kind = self._entrance, b"text/html; charset=utf-8"
            await _answer(refusal, body, kind, send_on)
        except Exception:
            _log.exception("a request has failed: %r", path)
            if answered:
                raise
            cookie = None
            failure = "the server failed; found an internal error; see the server's log"
            answer = Refusal(500, "internal", failure)
            await _answer(answer, answer.to_json(), b"application/json", send_on)

    def _check_host(self, headers: dict[bytes, bytes]) -> None:
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = re.sub(r":\d+$", "", host)
        if self._hosts is not None and name not in self._hosts:
            raise Refusal(
                421,
                "unknown_host",
                f"this server is not known by that name; found the host {name[:100]!r}; use "
                f"{', '.join(sorted(self._hosts))}, or start it with --allowed-host",
            )

    def _check_origin(self, headers: dict[bytes, bytes], scope: Scope) -> None:
        """Refuse what another web site has the browser ask; what is no browser sends neither header."""
        site = headers.get(b"sec-fetch-site", b"none")
        visit = scope["method"] == "GET" and headers.get(b"sec-fetch-mode") == b"navigate"
        foreign = site in (b"cross-site", b"same-site") and not visit
        origin = headers.get(b"origin")
        if origin is not None:
            place = origin.decode("latin-1").lower().partition("://")[2]
            foreign = foreign or place != headers.get(b"host", b"").decode("latin-1").lower()
        if foreign:
            raise Refusal(
                403,
                "foreign_origin",
                "the request comes from another web site; found its origin in the headers; open this "
                "server's own page, or ask from a program",
            )

    def _check_token(self, headers: dict[bytes, bytes], scope: Scope) -> bytes | None:
        """The cookie to set, where the page was opened with a token."""
        if self._token is None or self._session is None or scope["path"].startswith(OPEN_PATHS):
            return None
        page = scope["path"] == "/" and scope["method"] == "GET"
        secure = b"; Secure" if scope.get("scheme") == "https" else b""
        entered = self._cookie + b"=" + self._session + b"; Path=/; HttpOnly; SameSite=Strict" + secure
        scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
        if scheme.lower() == b"bearer" and hmac.compare_digest(given.strip(), self._token):
            return entered if page else None
        # By hand: what other servers of the host have set may be no cookie by the books.
        cookies = [each.strip().partition(b"=") for each in headers.get(b"cookie", b"").split(b";")]
        if any(
            name == self._cookie and hmac.compare_digest(value, self._session) for name, _, value in cookies
        ):
            return None
        if page:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            if hmac.compare_digest(query.get("token", [""])[0].encode(), self._token):
                return entered
        raise Refusal(
            401,
            "token",
            "this server asks for a token; found none, or another one; send Authorization: Bearer TOKEN, or "
            "open /?token=TOKEN once in the browser",
            {"WWW-Authenticate": "Bearer"},
        )


def _derived(token: bytes, purpose: bytes) -> bytes:
    return hmac.new(token, purpose, hashlib.sha256).hexdigest().encode()


async def _answer(refusal: Refusal, body: bytes, kind: bytes, send: Send) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in refusal.headers.items()]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
