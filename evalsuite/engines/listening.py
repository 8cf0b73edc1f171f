"""What processes say on the standard error while they are started, read along: where a library starts processes of its
own and one of them fails, the reason is there and nowhere else.
"""

import os
import re
import threading
from collections import deque
from types import TracebackType

ERROR = re.compile(r"\b([A-Z]\w*(?:Error|Exception): .+)$")
"""The last line of a traceback, whatever a logger has written in front of it."""
PREFIX = re.compile(r"^(\([^)]*\) )?([A-Z]+ [^\]]*\] )?\s*")
"""What vLLM's loggers write in front of a line."""
LINES = 2000
PATIENCE_S = 3.0


class Listening:
    """A context in which all that is written to the standard error, by this process and by those that it starts, is
    kept as well as passed on. Processes that outlive it are passed on as long as they live."""

    def __init__(self) -> None:
        self._kept: deque[str] = deque(maxlen=LINES)
        self._thread: threading.Thread | None = None
        self._before = -1

    def __enter__(self) -> "Listening":
        reading, writing = os.pipe()
        self._before = os.dup(2)
        os.dup2(writing, 2)
        os.close(writing)
        onward = os.dup(self._before)
        self._thread = threading.Thread(target=self._pass_on, args=(reading, onward), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.dup2(self._before, 2)
        os.close(self._before)

    def lines(self, pattern: re.Pattern[str]) -> list[str]:
        """What the pattern matched in the lines so far (its first group), each once, in order."""
        found = (pattern.search(line) for line in tuple(self._kept))
        return list(dict.fromkeys(match.group(1) for match in found if match))

    def errors(self) -> list[str]:
        """Errors that were named, `KindError: message`, first one first, with the next line where a message ends in a
        colon. Waits a moment for the last words."""
        if self._thread is not None:
            self._thread.join(PATIENCE_S)
        lines, found = [line.rstrip() for line in self._kept], []
        for at, line in enumerate(lines):
            if match := ERROR.search(line):
                more = PREFIX.sub(" ", lines[at + 1]) if line.endswith(":") and at + 1 < len(lines) else ""
                found.append(match.group(1) + more)
        return list(dict.fromkeys(found))

    def _pass_on(self, reading: int, onward: int) -> None:
        with os.fdopen(reading, "rb") as lines, os.fdopen(onward, "wb", buffering=0) as out:
            for line in lines:
                self._kept.append(line.decode("utf-8", errors="replace"))
                out.write(line)
