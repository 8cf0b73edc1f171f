"""The three forms an item takes: thinking, direct, and raw multiple choice.

The chat template is stated once, here, and stored with the tokenizer. `<think>` and `</think>` are ordinary added
tokens, so they survive decoding; the turn markers are special. Prompt and response are encoded apart: no token spans
the border between them.
"""

from __future__ import annotations

from typing import Literal

from evalsuite.reference.families import Item

Form = Literal["thinking", "direct", "choice"]

END = "<|end|>"
PAD = "<|endoftext|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"
THINK = "<think>"
END_THINK = "</think>"

CHAT_TEMPLATE = (
    "{%- set ns = namespace(system='') -%}"
    "{%- for message in messages -%}"
    "{%- if message.role == 'system' -%}{%- set ns.system = message.content ~ '\\n' -%}"
    "{%- elif message.role == 'user' -%}{{- '<|user|>\\n' ~ ns.system ~ message.content ~ '<|end|>\\n' -}}"
    "{%- set ns.system = '' -%}"
    "{%- else -%}{{- '<|assistant|>\\n' ~ message.content ~ '<|end|>\\n' -}}{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>\\n' -}}"
    "{%- if enable_thinking is not defined or enable_thinking -%}{{- '<think>\\n' -}}"
    "{%- else -%}{{- '<think>\\n\\n</think>\\n\\n' -}}{%- endif -%}{%- endif -%}"
)


def prompt_of(question: str, form: Form) -> str:
    """Everything before the first token the model writes; equal to what the chat template gives."""
    if form == "choice":
        return f"Question: {question}\nAnswer:"
    opening = f"{THINK}\n" if form == "thinking" else f"{THINK}\n\n{END_THINK}\n\n"
    return f"{USER}\n{question}{END}\n{ASSISTANT}\n{opening}"


def response_of(item: Item, form: Form) -> str:
    """Everything the model has to write, the end token included."""
    if form == "choice":
        return f" {item.answer}{END}"
    if form == "thinking":
        return f"{item.steps}\n{END_THINK}\n\nThe answer is {item.answer}.{END}"
    return f"The answer is {item.answer}.{END}"


def answer_in(text: str) -> str | None:
    """The answer a response states, or None where it states none (an unclosed thought included)."""
    spoken = text.rsplit(END_THINK, maxsplit=1)[-1] if END_THINK in text else text
    _, found, after = spoken.rpartition("The answer is ")
    if not found:
        return None
    return after.split(END)[0].split("\n")[0].strip().removesuffix(".")
