"""Made-up benches for the tests of the pages: documents built window by window and judged by the real judge."""

from dataclasses import replace

import numpy as np
from test_judge_pairing import accuracy, world
from test_judge_rounds import DECODE, NULL, REPLAY, energy, measured, steady, window
from test_publish_sample import BF16, FP8, UE8M0

from evalsuite.judge import Answered, judge_bench
from evalsuite.publish import JudgedBench
from evalsuite.records import (
    Arm,
    Bench,
    BenchSpec,
    EnergyEstimate,
    ForeignEnergy,
    ForeignFile,
    ForeignSpeed,
    ForeignThroughput,
    ForeignWorkload,
    Measurement,
    Memory,
    MeterAbsent,
    MeterInfo,
    ModelRef,
    Roofline,
)

MODEL = ModelRef(id="reference")
LARGE = DECODE.model_copy(update={"batch": 32})
NAMES = ("bf16", NULL, "fp8-e4m3", "fp8-ue8m0")
FACTORS = {("bf16", 4): 1.0, (NULL, 4): 1.0, ("fp8-e4m3", 4): 1.07, ("bf16", 32): 6.0, (NULL, 32): 6.0,
           ("fp8-e4m3", 32): 5.4}  # fmt: skip
ABSENT = MeterAbsent(id="rapl", reason="rapl_absent_vm", detail="Run on the host, or use an external meter.")
METER = MeterInfo(id="nvml", scope="gpu_board", method="nvml.total_energy_counter", quality="L3", devices=("GPU-0",),
                  min_window_s=10.0, verified_on_hardware=True)  # fmt: skip
MEMORY = Memory(weights_bytes=9 << 20, resident_bytes=28 << 20, kv_bytes_per_token=3072, peak_bytes=30 << 20)


def roofline(factor: float, batch: int) -> Roofline:
    return Roofline(peaks="table", limit_tokens_per_s=100.0 * batch, bound="memory", bytes_per_step=1.0,
                    flops_per_step=1.0, fraction=None, limit_ratio=factor)  # fmt: skip


def native(arm: str, workload=DECODE, factor: float = 1.0, joules: float | None = None, **changes) -> Measurement:
    """Six rounds, the second of which was voided once."""
    seed = NAMES.index(arm) if arm in NAMES else 7
    speeds = steady(factor, seed=seed)
    cost = None if joules is None else [joules * s / (100 * factor) for s in speeds]
    fields = {"memory": MEMORY, "rooflines": (roofline(1.8 if arm.startswith("fp8") else 1.0, workload.batch),)}
    row = measured(arm, speeds, cost, workload=workload, **(fields | changes))
    bad = window(arm, 1, 0.8 * speeds[1], voided=True, reasons=("steal_time",), start_s=9.0)
    return row.model_copy(update={"windows": (*row.windows[:1], bad, *row.windows[1:])})


def emulated(arm: str = "fp8-ue8m0", workload=DECODE) -> Measurement:
    return Measurement(row_id=f"{workload.key}.{arm}", arm=arm, workload=workload, execution="emulated", realised=None,
                       speed_valid=False, memory=MEMORY, reasons=("emulated_speed",))  # fmt: skip


def document(*rows: Measurement, **changes) -> Bench:
    spec = BenchSpec(
        suite="reference", model=MODEL, baseline="bf16", null_arm=NULL, engine="local", presets=("cpu-std",), rounds=6,
        arms=tuple(Arm(id=r.id, model=MODEL, recipe=r) for r in (BF16, FP8, UE8M0)), window_s=10.0, warm_s=2.0,
    )  # fmt: skip
    fields = {
        "bench_id": "20261124T170517-bench-reference-a929", "created": "2026-11-24T17:05:17Z", "status": "done",
        "spec": spec, "machine": {"processor": "Example CPU 9000", "cores": 2}, "software": {"evalsuite": "0.1.0"},
        "environment": {"governor": "performance"}, "measurements": rows, "command": "evalsuite bench reference",
        "absent": (ABSENT,),
    }  # fmt: skip
    return Bench(**(fields | changes))


def rows(joules: float | None = None, batches=(DECODE, LARGE)) -> list[Measurement]:
    """BF16, its null arm and FP8 natively, UE8M0 by emulation, at two batches that disagree about the gain."""
    found = []
    for workload in batches:
        for arm in NAMES[:3]:
            saved = 0.9 if arm == "fp8-e4m3" else 1.0
            cost = None if joules is None else joules * saved
            found.append(native(arm, workload, FACTORS[arm, workload.batch], cost))
        found.append(emulated(workload=workload))
    return found


def metered() -> Bench:
    """The same with a meter, and a replay that answers are priced at."""
    replay = [native(arm, REPLAY, f, c) for arm, f, c in (("bf16", 1.0, 2.0), (NULL, 1.0, 2.0), ("fp8-e4m3", 1.2, 1.6))]
    return document(*rows(2.0), *replay, emulated(workload=REPLAY), meters=(METER,), absent=(),
                    idle_w={"nvml": 71.5})  # fmt: skip


def two_meters() -> Bench:
    """A board's counter and the wall: energies that must never share a panel."""
    base = metered()
    more = []
    for row in base.measurements:
        own = tuple(
            w.model_copy(update={"energy": (*w.energy, energy(1.5 * w.energy[0].energy_j, meter="wall", scope="node_ac",
                                                              method="external.ac_meter", quality="L4"))})
            if w.energy else w for w in row.windows
        )  # fmt: skip
        more.append(row.model_copy(update={"windows": own}))
    wall = METER.model_copy(update={"id": "wall", "scope": "node_ac", "method": "external.ac_meter", "quality": "L4"})
    return base.model_copy(update={"measurements": tuple(more), "meters": (METER, wall)})


def estimated() -> Bench:
    """Modelled energy beside no measured one."""
    guess = EnergyEstimate(method="model.tdp_linear", low_j=123456.0, high_j=654321.0, inputs={}, assumption="P = TDP")
    made = [row.model_copy(update={"windows": tuple(w.model_copy(update={"energy_estimate": guess})
                                                    for w in row.windows)}) for row in rows()]  # fmt: skip
    return document(*made)


def scaled() -> Bench:
    """BF16 on one to eight devices: beyond four it does not pay."""
    made = [native("bf16", DECODE.model_copy(update={"devices": n}), f, communication=c, rooflines=())
            for n, f, c in ((1, 1.0, None), (2, 1.9, 0.05), (4, 3.4, 0.12), (8, 3.9, 0.4))]  # fmt: skip
    return document(*made)


def answered(bench: Bench) -> Answered:
    """Answers of the three arms to 200 items of one task, BF16 twice."""
    right, less = accuracy(200, 0.8), accuracy(200, 0.75, seed=1)
    arms = {"bf16": right, "bf16@aa": right, "fp8-e4m3": less, "fp8-ue8m0": less}
    manifest, samples = world({(arm, "t", "direct"): got for arm, got in arms.items()})
    length = {"bf16": 100, "bf16@aa": 101, "fp8-e4m3": 106, "fp8-ue8m0": 104}
    samples["n_output_tokens"] = samples["arm"].map(length) + np.arange(len(samples)) % 7
    again = Arm(id="bf16@aa", model=MODEL, recipe=BF16, noise_floor=True)
    spec = manifest.spec.model_copy(update={"arms": (*bench.spec.arms, again)})
    return Answered(manifest.model_copy(update={"spec": spec}), samples)


def judged(bench: Bench, *, answers: bool = False) -> JudgedBench:
    """A bench as published; `answers`: joined with those of a run."""
    found = answered(bench) if answers else None
    return JudgedBench(bench, judge_bench(bench, found), found.manifest.spec.arms if found else ())


def renamed(made: JudgedBench, **changes) -> JudgedBench:
    """The same with other fields of the document."""
    bench = made.bench.model_copy(update=changes)
    return replace(made, bench=bench, judgement=made.judgement.model_copy(update={"bench_id": bench.bench_id}))


def foreign(**changes) -> ForeignFile:
    """One result of another program."""
    fields = {
        "row": 0, "source_tool": "llama-bench", "source_version": "b4567", "file_name": "some.json",
        "file_sha256": "0" * 64, "label": "tg128", "model": "qwen3 8B Q8_0", "hardware": "Example GPU",
        "precision": "Q8_0", "workload": ForeignWorkload(output_tokens=128, batch=1), "window": "steady_state",
        "throughput": ForeignThroughput(decode_tok_s=123.4), "latency": {"ttft_s": {"p50": 0.0125}},
        "energy": (ForeignEnergy(scope="gpu_board", method="nvml", quality="L3-", j_per_output_token=0.267),),
        "reasons": ("length_saturated",), "notes": ("warm-up is not excluded",),
    }  # fmt: skip
    return ForeignFile(format="llama-bench", file_name="some.json", file_sha256="0" * 64,
                       imported="2026-11-24T18:00:00Z", rows=(ForeignSpeed(**(fields | changes)),))  # fmt: skip


def test_the_samples_hold_what_the_pages_must_show() -> None:
    made = judged(metered(), answers=True)

    assert {r.resolved for r in made.judgement.ratios if r.arm == "fp8-e4m3"} >= {True}
    assert made.emulated == ("fp8-ue8m0",)
    assert [joint.arm for joint in made.judgement.joints] == ["bf16", "fp8-e4m3", "fp8-ue8m0"]
    assert made.judgement.joints[1].j_per_correct is not None
    assert judged(scaled()).judgement.scaling[0].stops_at == 8
