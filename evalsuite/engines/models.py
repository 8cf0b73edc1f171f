"""Where a model's files are (the embedded one, a folder, a hub id in transformers' own cache), and what they hold.

Two models can be arms of one run only if every prompt gives both the same tokens and answers end alike:
`reads_otherwise` says what differs.
"""

import hashlib
import json
from pathlib import Path
from typing import Any, Protocol

from evalsuite import resources
from evalsuite.errors import CannotRunError
from evalsuite.records import ModelRef

_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")


class Reader(Protocol):
    """What makes prompts, and where answers end: an engine, or what becomes one."""

    tokenizer: Any
    eos: tuple[int, ...]
    max_length: int


def locate(model: ModelRef, *, weights: bool = True) -> Path:
    """The folder with the model's files (`weights`: these too); CannotRunError if it is not to be had."""
    if model.id == "reference":
        return _checked(resources.reference_model(), "the embedded reference model", weights=weights)
    folder = Path(model.id).expanduser()
    if folder.is_dir():
        return _checked(folder.resolve(), f"model folder '{model.id}'", weights=weights)
    if folder.is_absolute() or model.id.startswith((".", "~")) or model.id.count("/") != 1:
        raise CannotRunError(f"Model folder '{model.id}' does not exist. Name a folder, or a hub id like ORG/NAME.")
    return _from_hub(model, _FILES if weights else _FILES[1:])


def _from_hub(model: ModelRef, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(model.id, revision=model.revision, allow_patterns=list(files)))
    except Exception as error:  # noqa: BLE001 - the hub client raises many kinds; each means: not to be had
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CannotRunError(
            f"Model '{model.id}' is neither a local folder nor to be had from the hub ({reason}). "
            "Download it where there is internet and name its folder with --model."
        ) from None


def _checked(folder: Path, what: str, *, weights: bool) -> Path:
    if not (folder / "config.json").is_file():
        raise CannotRunError(f"{what[0].upper()}{what[1:]} ({folder}) has no config.json.")
    if weights and not any(folder.glob("*.safetensors")):
        raise CannotRunError(f"{what[0].upper()}{what[1:]} ({folder}) has no *.safetensors weights.")
    return folder


def weights_sha256(folder: Path) -> str:
    """SHA-256 over the names and contents of all weight files and the configuration of a model folder."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), folder / "config.json"]):
        total.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def reader_of(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and text configuration of a model folder; CannotRunError if either cannot be read."""
    from transformers import AutoConfig, AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder), AutoConfig.from_pretrained(folder).get_text_config()
    except (OSError, ValueError) as error:
        raise CannotRunError(f"{folder}: {str(error).splitlines()[0]}") from None


def load_master(folder: Path) -> Any:
    """The model of a folder with BF16 weights; CannotRunError if it cannot be loaded, or a weight holds NaN or Inf."""
    import torch
    from transformers import AutoModelForCausalLM

    from evalsuite.precision.emulate import refuse_nonfinite

    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    except (OSError, ValueError, RuntimeError) as error:
        raise CannotRunError(f"{folder}: weights cannot be loaded: {str(error).splitlines()[0]}") from None
    refuse_nonfinite(model)
    return model


def reads_otherwise(folder: Path, engine: Reader) -> str | None:
    """What in another model's folder would make other prompts, or other ends of answers, than the engine's model has;
    None if nothing."""
    tokenizer, config = reader_of(folder)
    if fingerprint(tokenizer) != fingerprint(engine.tokenizer):
        return "its tokenizer is another"
    if tokenizer.chat_template != engine.tokenizer.chat_template:
        return "its chat template is another"
    if eos_ids(folder, tokenizer) != engine.eos:
        return f"its answers end at tokens {eos_ids(folder, tokenizer)} rather than {engine.eos}, other"
    if config.max_position_embeddings < engine.max_length:
        return f"its context is {config.max_position_embeddings} tokens, shorter"
    return None


def fingerprint(tokenizer: Any) -> str:
    """Hash over everything that makes token ids of a text; two tokenizers of one fingerprint give the same ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts = json.loads(backend.to_str())
        known: Any = {key: value for key, value in parts.items() if key not in ("padding", "truncation")}
    else:
        known = [type(tokenizer).__name__, tokenizer.get_vocab(), str(tokenizer.special_tokens_map)]
    return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def eos_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """End-of-sequence ids from generation_config.json, config.json, or the tokenizer; CannotRunError if none names one.

    A model without one never ends its answers, and stock lm-eval then keeps the text behind it: it scores near zero.
    """
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        value = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id") if path.is_file() else None
        if value is not None:
            return tuple(value) if isinstance(value, list) else (int(value),)
    if tokenizer.eos_token_id is not None:
        return (int(tokenizer.eos_token_id),)
    raise CannotRunError(f"{folder}: neither its configuration nor its tokenizer names an end-of-sequence token. "
                         "Set `eos_token_id` in generation_config.json.")  # fmt: skip
