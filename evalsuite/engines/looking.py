"""What a server says it is and can do, before the first item: its models, its version, how it must be asked."""

from dataclasses import dataclass, replace
from typing import Any

from evalsuite.engines import GenerateRequest
from evalsuite.engines.openai import Client, FailedError
from evalsuite.engines.wire import EXTRAS, NEUTRAL, Api, Dialect, Reader, Scoring, body_of, can_score, choice_of
from evalsuite.records import Served

TRIAL = "One, two, three,"
WORDS = ("Compute 12 - 5 + 3, please: naïve?", TRIAL)
"""Texts that server and client must read as the same tokens."""
VERSIONS = ("/version", "/server_info", "/get_server_info")
"""Where servers tell their version."""
CANNOT = ("refused", "garbage", "no_such", "server_error")
"""Kinds of failure by which a server may say that it does not know a field or a path."""


@dataclass(frozen=True)
class Seen:
    """A server that was looked at."""

    served: Served
    dialect: Dialect
    facts: dict[str, str]


async def look(client: Client, asked: tuple[str, Api], reader: Reader) -> Seen:
    """Look at a server. `asked`: the model's name there, and which kind of request to make.

    Raises:
        FailedError: it is not there, has another model, reads texts as other tokens, or takes no request.
    """
    model, api = asked
    served, models = await identify(client, model)
    checked = await _reads_alike(client, model, reader)
    dialect = await _dialect(client, Dialect(model, api), reader)
    if api == "completions":
        dialect = replace(dialect, scoring=await _scoring(client, model, reader))
    facts = {
        "models": ", ".join(models), "api": api, "tokens": "token_ids" if dialect.ids else "retokenised",
        "sampling": "stated" if NEUTRAL.keys() <= dialect.extras.keys() else "the server's own defaults",
        "scoring": dialect.scoring or "none", "tokenizer": "compared" if checked else "not compared",
    }  # fmt: skip
    return Seen(served, dialect, facts)


async def identify(client: Client, model: str) -> tuple[Served, list[str]]:
    """What the server says it is, and the names of its models; FailedError if it has not that one."""
    entries = await client.ask("models", None, lambda document: {str(one["id"]): one for one in document["data"]})
    if model not in entries:
        known = ", ".join(client.clean(name) for name in entries) or "none"
        raise FailedError("other_model", f"{client.url} has no model '{model}'; it has: {known}. Name one of them "
                                         "with `served_model`.")  # fmt: skip
    own = entries[model]
    length, maker = own.get("max_model_len"), own.get("owned_by")
    served = Served(
        model=model, software=None if maker is None else client.clean(str(maker)), version=await _version(client),
        max_length=length if isinstance(length, int) and length > 0 else None,
    )  # fmt: skip
    return served, [client.clean(name) for name in entries]


async def _version(client: Client) -> str | None:
    for path in VERSIONS:
        found = await _tried(client, path, None, lambda document: document["version"])
        if found is not None:
            return client.clean(str(found))
    return None


async def _reads_alike(client: Client, model: str, reader: Reader) -> bool:
    """Whether the server's tokenizer was compared with ours; FailedError if it gives other tokens."""
    for text in WORDS:
        body = {"model": model, "prompt": text, "add_special_tokens": False}
        theirs = await _tried(client, "/tokenize", body, lambda document: tuple(document["tokens"]))
        if theirs is None:
            return False
        if theirs != reader.tokens(text):
            raise FailedError("other_model", f"{client.url} reads {text!r} as other tokens than the tokenizer here. "
                                             "Name the served model's own with `tokenizer`.")  # fmt: skip
    return True


async def _dialect(client: Client, plain: Dialect, reader: Reader) -> Dialect:
    """How the server takes requests for text: with as many of `EXTRAS` as it does not refuse."""
    trial = GenerateRequest(reader.tokens(TRIAL), 4, ())
    prompt: dict[str, Any] = {"prompt": list(trial.prompt)}
    if plain.api == "chat":
        prompt = {"messages": [{"role": "user", "content": TRIAL}]}
    refusal = FailedError("refused", "nothing was asked")
    for extras in EXTRAS:
        dialect = replace(plain, extras=extras)
        try:
            body = body_of(trial, dialect, prompt)
            choice = await client.ask(dialect.path, body, lambda document: choice_of(document, plain.model))
        except FailedError as error:
            if error.kind != "refused":
                raise _advised(error, plain.api) from None
            refusal = error
            continue
        return replace(dialect, ids=choice.get("token_ids") is not None)
    raise _advised(refusal, plain.api)


def _advised(error: FailedError, api: Api) -> FailedError:
    """A failure of the first request, with the way out if the path or token ids are not known there."""
    if api == "completions" and error.kind in ("refused", "no_such", "server_error"):
        return FailedError(error.kind, f"{error.detail} (A server without completions of token ids: `api: chat`.)")
    return error


async def _scoring(client: Client, model: str, reader: Reader) -> Scoring | None:
    ids = list(reader.tokens(TRIAL))
    ways: tuple[tuple[Scoring, dict[str, Any]], ...] = (
        ("prompt_logprobs", {"prompt_logprobs": 1}), ("echo", {"echo": True, "logprobs": 1}),
    )  # fmt: skip
    for scoring, how in ways:
        body = {"model": model, "prompt": ids, "max_tokens": 1, "temperature": 0, **how}
        choice = await _tried(client, "completions", body, lambda document: choice_of(document, model))
        if choice is not None and can_score(choice, len(ids), scoring):
            return scoring
    return None


async def _tried(client: Client, path: str, body: dict[str, Any] | None, read: Any) -> Any:
    """What a server answers, or None where it does not know the path or the fields."""
    try:
        return await client.ask(path, body, read, lambda error: error.kind == "garbage")
    except FailedError as error:
        if error.kind not in CANNOT:
            raise
        return None
