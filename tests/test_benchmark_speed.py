"""The speed benchmarks: what they compare is checked quickly; the whole scripts run among the long tests."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "benchmarks" / "speed.py"
sys.path.insert(0, str(SCRIPT.parent))


def test_rounds_turn_the_order_and_ratios_pair_them(monkeypatch: pytest.MonkeyPatch):
    import speed_parts

    order: list[str] = []
    seconds, results = speed_parts.paired({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 7}, 3)

    assert order == ["a", "b", "b", "a", "a", "b"]
    assert results["b"] == 7
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}
    assert speed_parts.ratio({"a": [2.0, 9.0, 4.0], "b": [1.0, 3.0, 1.0]}, "a", "b") == {
        "median": 3.0, "least": 2.0, "largest": 4.0, "rounds": 3}  # fmt: skip


def test_the_choice_task_asks_for_texts_or_for_letters(data: Path):
    import speed_parts

    texts, letters = (speed_parts.choice_task(data, kind, 3) for kind in ("texts", "letters"))
    one, other = next(iter(texts.test_docs())), next(iter(letters.test_docs()))

    assert len(list(texts.test_docs())) == 3
    assert len(list(texts.fewshot_docs())) == 5
    assert one["question"] == other["question"]
    assert other["choices"] == list("ABCDE")
    assert f"({'ABCDE'[one['gold']]}) {one['choices'][one['gold']]}" in one["question"]


@pytest.mark.long
@pytest.mark.parametrize("part", [["growth", "--once", "20"], ["forward", "--limit", "2"]])
def test_a_part_runs_and_files_its_report(tmp_path: Path, part: list[str]):
    out = tmp_path / "speed.json"
    command = [sys.executable, str(SCRIPT), *part, "--out", str(out), "--work", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    report = json.loads(out.read_text())[part[0]]

    assert report["peak_rss_bytes"] > 1e8 if part[0] == "growth" else 0 < report["share"] <= 1
