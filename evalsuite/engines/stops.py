"""Stop strings, looked for only where the newest token can end one."""

from typing import Any

from evalsuite.engines import GenerateRequest


class Stops:
    """When an answer that grows token by token has reached a stop string."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._enders: dict[str, frozenset[int]] = {}

    def reached(self, request: GenerateRequest, tokens: list[int]) -> bool:
        """Whether the last of these tokens completes a stop string that counts."""
        for stop in request.stop:
            if tokens[-1] in self._can_end(stop):
                # A stop string of n bytes lies within the last n tokens; one more for the token that it begins in.
                text = self._tokenizer.decode(tokens[-len(stop.encode()) - 1 :], skip_special_tokens=True)
                if stop in text and self._counts(request, tokens, stop):
                    return True
        return False

    def _counts(self, request: GenerateRequest, tokens: list[int], stop: str) -> bool:
        if request.stop_after is None:
            return True
        text = self._tokenizer.decode(tokens, skip_special_tokens=True)
        return request.stop_after in text and stop in text.rsplit(request.stop_after, 1)[1]

    def _can_end(self, stop: str) -> frozenset[int]:
        """Tokens in whose text the last character of `stop` occurs: only they can complete it."""
        if stop not in self._enders:
            texts = self._tokenizer.batch_decode([[i] for i in range(len(self._tokenizer))])
            last = stop[-1]
            self._enders[stop] = frozenset(i for i, text in enumerate(texts) if last in text or "\ufffd" in text)
        return self._enders[stop]
