"""Talking to a server of the OpenAI protocol: its address, the key, patience, and failures that have names.

What goes wrong is a `FailedError` of a kind from `KINDS`; those in `RETRIED` are tried again, after the time that the
server names or after a wait that doubles (with jitter: many clients do not come back at once). The key is read from the
environment, is sent to the server, and stands nowhere else: what a server says is cleaned of it before it is repeated.
"""

import asyncio
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx

from evalsuite.errors import CannotRunError, UsageError

KINDS = {
    "unreachable": "no connection, or it broke before an answer",
    "timeout": "nothing came for too long",
    "rate_limited": "429, however often it was asked",
    "server_error": "5xx, however often it was asked, or an error in place of an answer",
    "garbage": "the answer is not what the protocol says",
    "cut": "the answer broke off",
    "refused": "another status than 200",
    "denied": "401 or 403: the key is missing or wrong",
    "no_such": "404: no such path, or no such model",
    "other_model": "another model answered",
    "gone": "the server is no longer there",
}
"""Kinds of failure."""
RETRIED = frozenset({"unreachable", "timeout", "rate_limited", "server_error", "garbage", "cut"})
"""Kinds after which the same request may succeed."""
FATAL = frozenset({"denied", "no_such", "other_model"})
"""Kinds after which no request will."""
KEY = "OPENAI_API_KEY"
"""Environment variable of the key, where no other is named."""
LONGEST_PAUSE_S = 60.0
EXCERPT = 200
"""Characters of a server's words that are repeated."""

T = TypeVar("T")


class FailedError(Exception):
    """A request that did not succeed."""

    def __init__(self, kind: str, detail: str, after_s: float | None = None) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail = kind, detail
        self.after_s = after_s
        """What the server asks to wait."""


def address(text: str) -> str:
    """The address with `/v1`, without a slash at its end; UsageError if it is none, or holds what may be a secret."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"Endpoint '{text}' is no address: expected http://HOST:PORT or https://HOST.")
    if parts.username or parts.password or parts.query:
        raise UsageError(f"The address of endpoint {parts.hostname} holds a password or a query, and addresses are "
                         f"stored. Put the key into the environment variable {KEY} instead.")  # fmt: skip
    path = parts.path.rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path if path.endswith("/v1") else f"{path}/v1", "", ""))


def key_of(variable: str | None) -> str | None:
    """The key in the named environment variable (None: in `KEY`, if it is set); CannotRunError if it is not there."""
    key = os.environ.get(variable or KEY)
    if variable and not key:
        raise CannotRunError(f"The environment variable {variable}, named by `api_key_env`, is not set.")
    return key or None


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for, and how often it is asked again."""

    timeout_s: float = 600.0
    """Longest wait for an answer; also the longest that a busy server may ask for."""
    retries: int = 5
    backoff_s: float = 0.5
    """First wait; doubles, up to `LONGEST_PAUSE_S`."""

    def pause(self, attempt: int, error: FailedError, chance: float) -> float | None:
        """Seconds until a request is sent again behind its failure number `attempt` (from 0); None: no more.

        `chance`, in [0, 1), is the jitter: the wait is between half and one and a half times the nominal one.
        """
        if error.kind not in RETRIED or attempt >= self.retries:
            return None
        if error.after_s is not None:
            return error.after_s if error.after_s <= self.timeout_s else None
        return min(self.backoff_s * 2.0**attempt, LONGEST_PAUSE_S) * (0.5 + chance)


@dataclass
class Client:
    """A connection pool to one server. All methods run in one event loop."""

    url: str
    """With `/v1`."""
    key: str | None = field(repr=False)
    patience: Patience = Patience()
    retried: int = 0
    """Requests that were sent again."""

    def __post_init__(self) -> None:
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {self.key}"} if self.key else {},
            timeout=httpx.Timeout(self.patience.timeout_s, connect=min(10.0, self.patience.timeout_s), pool=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=30),
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def ask(
        self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T],
        hopeless: Callable[[FailedError], bool] = lambda _: False,
    ) -> T:  # fmt: skip
        """Send a request, again where that may help, and read the answer's document.

        Args:
            path: below the address, or with a leading slash below its root (without `/v1`).
            body: posted as JSON; None: GET.
            read: what to make of the document; an error of a wrong shape means that the answer is garbage.
            hopeless: whether a failure, else one to try again after, is the last: asked before and after the wait.

        Raises:
            FailedError: it did not succeed.
        """
        attempt = 0
        while True:
            try:
                return self._read(await self._send(path, body), read)
            except FailedError as error:
                pause = self.patience.pause(attempt, error, random.random())
                if pause is None or hopeless(error):
                    raise
                attempt, self.retried = attempt + 1, self.retried + 1
                await asyncio.sleep(pause)
                if hopeless(error):
                    raise

    async def _send(self, path: str, body: dict[str, Any] | None) -> Any:
        url = self.url.removesuffix("/v1") + path if path.startswith("/") else f"{self.url}/{path}"
        try:
            response = await (self._http.get(url) if body is None else self._http.post(url, json=body))
        except httpx.TimeoutException:
            raise FailedError("timeout", f"{url}: nothing for {self.patience.timeout_s:g} s") from None
        except httpx.HTTPError as error:
            said = str(error) or type(error).__name__
            broke = "incomplete" in said or "without sending complete" in said
            raise FailedError("cut" if broke else "unreachable", f"{url}: {self.clean(said)}") from None
        if response.status_code != 200:
            raise self._refused(response, url)
        try:
            return response.json()
        except ValueError:
            raise FailedError("garbage", f"{url}: no JSON: {self.clean(response.text)}") from None

    def _refused(self, response: httpx.Response, url: str) -> FailedError:
        status, said = response.status_code, f"{url}: {response.status_code}: {self.clean(response.text)}"
        if status in (408, 429) or status >= 500:
            after = wait_of(response.headers.get("retry-after"))
            return FailedError("rate_limited" if status == 429 else "server_error", said, after)
        return FailedError({401: "denied", 403: "denied", 404: "no_such"}.get(status, "refused"), said)

    def _read(self, document: Any, read: Callable[[Any], T]) -> T:
        if isinstance(document, dict) and document.get("error"):
            raise FailedError("server_error", self.clean(json.dumps(document["error"])))
        try:
            return read(document)
        except (LookupError, TypeError, ValueError, AttributeError):
            raise FailedError("garbage", self.clean(json.dumps(document))) from None

    def clean(self, text: str) -> str:
        """The beginning of what a server said, on one line, without the key."""
        text = " ".join(text.split())
        return (text.replace(self.key, "***") if self.key else text)[:EXCERPT]


def wait_of(value: str | None) -> float | None:
    """Seconds that a `Retry-After` asks for: a number, or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None
