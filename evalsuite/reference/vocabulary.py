"""The tokenizer: byte-level BPE of 1,536 entries, trained on generated items alone.

Every digit is a token of its own and every byte is in the alphabet, so any text comes back exactly. Trained from a
fixed seed: the same code gives the same vocabulary on every machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from evalsuite.reference.families import FAMILIES
from evalsuite.reference.families.words import PEOPLE
from evalsuite.reference.prompts import ASSISTANT, CHAT_TEMPLATE, END, END_THINK, PAD, THINK, USER, response_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SIZE = 1536
ITEMS_PER_FAMILY = 3000
NAME_REPEATS = 600
SEED = "vocabulary"
CONTEXT = 4096
PIECES = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _texts() -> Iterator[str]:
    """Generated items in equal shares, and the names often enough that each becomes a token of its own."""
    for _ in range(NAME_REPEATS):
        yield "".join(f" {name}" for name in PEOPLE)
    for name, family in FAMILIES.items():
        rng = random.Random(f"{SEED}:{name}")
        for _ in range(ITEMS_PER_FAMILY):
            item = family(rng, rng.random())
            yield f"Question: {item.question}\nAnswer:"
            yield response_of(item, "thinking").removesuffix(END).replace(END_THINK, "")


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the vocabulary and wrap it for transformers, chat template included."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    special = [PAD, USER, ASSISTANT, END]
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE - 2,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    core.train_from_iterator(_texts(), trainer)
    core.add_tokens([AddedToken(text, normalized=False, special=False) for text in (THINK, END_THINK)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT],
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """Build the tokenizer and write its files into `folder`."""
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(str(folder))
    return tokenizer
