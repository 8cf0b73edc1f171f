"""What engines over model folders have in common: the prompts that a folder reads, and what an arm's folder turns out
to be. `LocalEngine` and `VllmEngine` stand on it."""

from pathlib import Path
from typing import Any

from evalsuite.engines.models import eos_ids, locate, reader_of, reads_otherwise, weights_sha256
from evalsuite.precision.checkpoints import Checkpoint, is_quantized, read
from evalsuite.precision.recipes import is_as_shipped, needs_calibration
from evalsuite.records import Arm, Finding, ModelRef


class FolderEngine:
    """The half of an `Engine` that loads nothing."""

    def __init__(self, model: ModelRef) -> None:
        self._folder = locate(model)
        self.model = model.model_copy(update={"weights_sha256": weights_sha256(self._folder)})
        self.tokenizer: Any
        self.tokenizer, self.config = reader_of(self._folder)
        self.eos = eos_ids(self._folder, self.tokenizer)
        self.max_length: int = self.config.max_position_embeddings
        self._checkpoints: dict[Path, Checkpoint] = {}

    def cannot_run(self, arm: Arm, *, scores: bool = False) -> str | None:  # noqa: ARG002 - it always can
        """Another model must read the same prompts; a quantised checkpoint runs as shipped or not at all; static scales
        need texts."""
        folder = self.folder_of(arm)
        if folder != self._folder:
            reason = reads_otherwise(folder, self)
            if reason:
                return f"the prompts of arm '{arm.id}' would differ: {reason} than that of '{self.model.id}'"
        if not is_as_shipped(arm.recipe) and is_quantized(folder):
            return (f"arm '{arm.id}' asks for recipe '{arm.recipe.id}' of '{arm.model.id}', which is quantised; "
                    "recipes start from a BF16 master. Say `recipe: as-shipped`, or name the BF16 model")  # fmt: skip
        if needs_calibration(arm.recipe) and arm.calibration is None and arm.recipe.calibration is None:
            return f"arm '{arm.id}' has static activation scales and names no `calibration`"
        return None

    def resolve(self, arm: Arm) -> tuple[Arm, tuple[Finding, ...]]:
        """The arm with the hash of its weights and, as shipped, the recipe that its tensors show."""
        folder = self.folder_of(arm)
        own = folder == self._folder
        ref = self.model if own else arm.model.model_copy(update={"weights_sha256": weights_sha256(folder)})
        if not is_as_shipped(arm.recipe):
            return arm.model_copy(update={"model": ref}), ()
        checkpoint = self.checkpoint(folder)
        return arm.model_copy(update={"model": ref, "recipe": checkpoint.recipe}), checkpoint.findings

    def folder_of(self, arm: Arm) -> Path:
        """Where the arm's model is."""
        same = (arm.model.id, arm.model.revision) == (self.model.id, self.model.revision)
        return self._folder if same else locate(arm.model)

    def checkpoint(self, folder: Path) -> Checkpoint:
        """A quantised checkpoint, read once."""
        if folder not in self._checkpoints:
            self._checkpoints[folder] = read(folder)
        return self._checkpoints[folder]
