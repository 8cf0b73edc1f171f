"""What the tests share: a tiny model that any test can run in a second, suites over it, and the real items."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def data() -> Path:
    """Real benchmark items: the folder named by EVALSUITE_DATA; skips, saying so, where it is absent."""
    folder = Path(os.environ.get("EVALSUITE_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "gsm8k" / "test.jsonl").is_file():
        pytest.skip(f"no real benchmark items in {folder}; name their folder with EVALSUITE_DATA")
    return folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Qwen3 of random weights (2 layers, 128 wide) with the reference tokenizer: answers noise, in milliseconds."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from evalsuite import resources

    folder = tmp_path_factory.mktemp("tiny_model")
    tokenizer = AutoTokenizer.from_pretrained(resources.reference_model())
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=len(tokenizer), hidden_size=128, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=64, intermediate_size=256, max_position_embeddings=4096, tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).to(torch.bfloat16)
    # Random weights as they come give almost flat logits; wider ones make text that varies and sometimes ends.
    for parameter in model.parameters():
        parameter.data *= 4
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


SUITE = """\
schema: 1
name: {name}
model: {model}
arms: [bf16, fp8-ue8m0]
baseline: bf16
noise_floor: true
engine: {{name: local, options: {{group_tokens: {group_tokens}}}}}
tasks:
  - {{task: ref_chain_sum, max_gen_toks: {{direct: 8, thinking: 24}}}}
  - ref_ordering_mc
decision: {{margin: 0.02}}
limit: {limit}
"""


@pytest.fixture
def suite(tmp_path: Path, tiny_model: Path) -> Callable[..., Path]:
    """Writes a small suite over the tiny model into the test's folder; keywords replace parts of it."""

    def write(**changes: Any) -> Path:
        values = {"name": "tiny", "model": tiny_model, "group_tokens": 1024, "limit": 24, **changes}
        path = tmp_path / f"{values['name']}.yaml"
        path.write_text(SUITE.format(**values), encoding="utf-8")
        return path

    return write
