"""A prompt in token ids, turned back into the messages that the chat template made it from: for servers that take
nothing but messages.

The template is rendered around marks, and what stands in their place in the prompt is the message. The proof is made on
every prompt: the messages, rendered and encoded, must give its tokens again.
"""

from typing import Any

from evalsuite.engines.openai import FailedError

MARKS = ("\u27e6one\u27e7", "\u27e6two\u27e7")
ROLES = (("user",), ("system", "user"))


class Messages:
    """The way back from prompts to messages, by one tokenizer."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._frames = [
            (roles, thinking, _cut(self._rendered(roles, MARKS[: len(roles)], thinking), len(roles)))
            for roles in ROLES
            for thinking in (False, True)
        ]

    def of(self, prompt: tuple[int, ...]) -> dict[str, Any]:
        """The fields of a chat request that stand for a prompt; FailedError if no messages give exactly its tokens."""
        text = str(self._tokenizer.decode(list(prompt), skip_special_tokens=False))
        for roles, thinking, frame in self._frames:
            contents = _between(text, frame)
            if contents is None:
                continue
            again = self._tokenizer.encode(self._rendered(roles, contents, thinking), add_special_tokens=False)
            if tuple(again) == prompt:
                messages = [{"role": role, "content": one} for role, one in zip(roles, contents, strict=True)]
                return {"messages": messages, "chat_template_kwargs": _kwargs(thinking)}
        raise FailedError("refused", "the prompt is not made of messages by the chat template (is it cut, or does the "
                                     "task begin the answer?); use `api: completions`")  # fmt: skip

    def _rendered(self, roles: tuple[str, ...], contents: tuple[str, ...], thinking: bool) -> str:
        turns = [{"role": role, "content": one} for role, one in zip(roles, contents, strict=True)]
        try:
            return str(self._tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **_kwargs(thinking)
            ))  # fmt: skip
        except Exception:  # noqa: BLE001 - some templates refuse a system turn, with errors of many kinds
            return ""


def _kwargs(thinking: bool) -> dict[str, bool]:
    return {"enable_thinking": thinking, "thinking": thinking}


def _cut(text: str, n: int) -> tuple[str, ...] | None:
    """The text around the first `n` marks; None if they do not stand in it once each and in order."""
    parts = []
    for mark in MARKS[:n]:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            return None
        parts.append(before)
    return (*parts, text)


def _between(text: str, frame: tuple[str, ...] | None) -> tuple[str, ...] | None:
    """What stands between the parts of a frame; None if they are not there."""
    if frame is None or not text.startswith(frame[0]) or not text.endswith(frame[-1]):
        return None
    inner = text[len(frame[0]) : len(text) - len(frame[-1])]
    if len(frame) == 2:
        return (inner,)
    one, found, two = inner.partition(frame[1])
    return (one, two) if found else None
