"""InferenceX `agg_*.json`: one result, throughput for one GPU, latencies in seconds.

`tput_per_gpu` counts input and output tokens. Energy is taken only where the file says that it passed InferenceX's own
checks (`power_valid` 1): integrated board power of the whole run, one sample a second, which is `L1` here. Tokens a
second for a megawatt (keys that end in `_per_mw`) are of provisioned power: no measurement, never energy.
"""

from evalsuite.importing.speeds.fields import Fields, Source, objects
from evalsuite.importing.speeds.vllm_serve import latencies
from evalsuite.records import ForeignEnergy, ForeignSpeed, ForeignThroughput, ForeignWorkload, ProvisionedPower

TOOL = "inferencex"
POWER = {"energy_j": "total_gpu_energy_j", "power_w": "avg_total_gpu_power_w",
         "j_per_output_token": "joules_per_output_token", "j_per_total_token": "joules_per_total_token",
         "j_per_request": "joules_per_successful_query"}  # fmt: skip


def read_inferencex(source: Source) -> list[ForeignSpeed]:
    """One row a result; a file may hold one, or a list."""
    return [_row(result, i) for i, result in enumerate(objects(source))]


def _row(result: Fields, index: int) -> ForeignSpeed:
    result.require(("tput_per_gpu", "output_tput_per_gpu"), "an aggregate of InferenceX")
    prefill, decode = result.count("num_prefill_gpu"), result.count("num_decode_gpu")
    if result.data.get("disagg") in (True, "true"):
        result.notes.append("prefill and decode on different GPUs: output tokens are for one decode GPU, all tokens "
                            "for one of all GPUs")  # fmt: skip
        devices = prefill + decode if prefill is not None and decode is not None else None
    else:
        devices = result.count("tp")
        result.notes.append("devices is tp; pipeline and context parallelism are not in it")
    parallel = [f"{key} {value}" for key in ("tp", "ep", "dp_attention", "spec_decoding")
                if (value := result.text(key)) is not None]  # fmt: skip
    energy = _energy(result, devices)
    return ForeignSpeed(
        **result.row(index, TOOL), model=result.text("model"), hardware=result.text("hw"),
        precision=result.text("precision"), framework=result.text("framework"), label=", ".join(parallel) or None,
        workload=ForeignWorkload(input_tokens=result.number("isl"), output_tokens=result.number("osl"),
                                 batch=result.number("conc"), devices=devices or None),
        window="whole_run", energy=energy, provisioned_power=_provisioned(result), latency=latencies(result),
        throughput=ForeignThroughput(
            per_device=True, output_tok_s=result.figure("output_tput_per_gpu"),
            total_tok_s=result.figure("tput_per_gpu"), prefill_tok_s=None,
        ),
        notes=tuple(result.notes), reasons=() if energy else ("no_meter",),
    )  # fmt: skip


def _energy(result: Fields, devices: int | None) -> tuple[ForeignEnergy, ...]:
    stated = [key for key in POWER.values() if result.data.get(key) is not None]
    if result.number("power_valid") != 1:
        if stated:
            result.notes.append(f"energy left out: power_valid is {result.data.get('power_valid', 'not there')}")
        return ()
    figures = {name: value for name, key in POWER.items() if (value := result.figure(key)) is not None}
    if not figures:
        return ()
    return (ForeignEnergy(scope="gpu_board", method="smi.power_integral", quality="L1", devices=devices or None,
                          **figures),)  # fmt: skip


def _provisioned(result: Fields) -> ProvisionedPower | None:
    keys = [key for key in result.data if key.endswith("_per_mw") and len(key) < 60 and key.isascii()]
    found = {key: value for key in keys if (value := result.figure(key)) is not None}
    return ProvisionedPower(tokens_per_s_per_mw=found) if found else None
