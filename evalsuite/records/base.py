"""What all nouns share: frozen, strict about field names, hashable by content; modes and verdicts."""

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

SCHEMA = 1
"""Version of everything under `results/`. History: 1, first."""

Mode = Literal["direct", "thinking"]
Verdict = Literal["SAFE", "UNSAFE", "INCONCLUSIVE", "INVALID"]
VERDICTS: tuple[Verdict, ...] = ("INVALID", "UNSAFE", "INCONCLUSIVE", "SAFE")
"""Worst first: several decisions are summed up by the first of these that occurs."""
VERDICT_EXIT: dict[Verdict, int] = {"SAFE": 0, "UNSAFE": 10, "INCONCLUSIVE": 11, "INVALID": 12}


class Noun(BaseModel):
    """Base of all nouns: frozen, strict about field names, hashable by content through `digest`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def digest(self) -> str:
        """First 16 hex digits of the SHA-256 of the canonical JSON of this noun."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
