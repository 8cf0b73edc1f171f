"""Writes the files here that were made by hand or by rule; `python make.py` gives the same bytes again."""

import json
from pathlib import Path

HERE = Path(__file__).parent


def write(name: str, *documents: object, indent: int | None = None) -> None:
    (HERE / name).write_text("".join(json.dumps(one, indent=indent) + "\n" for one in documents), encoding="utf-8")


def serve(**changes: object) -> dict[str, object]:
    """A result of `vllm bench serve --save-result`, in the order in which it writes its keys."""
    return {
        "date": "20260301-101500", "endpoint_type": "openai", "backend": "openai", "label": None,
        "model_id": "Qwen/Qwen3-8B", "tokenizer_id": "Qwen/Qwen3-8B", "num_prompts": 200, "request_rate": "inf",
        "burstiness": 1.0, "max_concurrency": 64, "duration": 100.0, "completed": 200, "failed": 0,
        "total_input_tokens": 204800, "total_output_tokens": 204800, "request_throughput": 2.0,
        "request_goodput": None, "output_throughput": 2048.0, "total_token_throughput": 4096.0,
        "max_output_tokens_per_s": 2500.0, "max_concurrent_requests": 66, "mean_ttft_ms": 120.0,
        "median_ttft_ms": 110.0, "std_ttft_ms": 30.0, "p99_ttft_ms": 300.0, "mean_tpot_ms": 25.0,
        "median_tpot_ms": 24.5, "std_tpot_ms": 1.5, "p99_tpot_ms": 30.0, "mean_itl_ms": 25.0, "median_itl_ms": 24.0,
        "std_itl_ms": 4.0, "p99_itl_ms": 60.0, "p99.9_itl_ms": 90.0, "tp": "1", **changes,
    }  # fmt: skip


def detailed() -> dict[str, object]:
    """Two places, eight requests of 10 tokens: the first token after 0.2 s, each next after 0.1 s, pair after pair."""
    return serve(
        model_id="tiny", num_prompts=8, max_concurrency=2, duration=4.4, completed=8, total_input_tokens=80,
        total_output_tokens=80, request_throughput=8 / 4.4, output_throughput=80 / 4.4,
        total_token_throughput=160 / 4.4, input_lens=[10] * 8, output_lens=[10] * 8, ttfts=[0.2] * 8,
        itls=[[0.1] * 9] * 8, start_times=[1000 + 1.1 * (i // 2) for i in range(8)], generated_texts=[""] * 8,
        errors=[""] * 8,
    )  # fmt: skip


def main() -> None:
    write("vllm-serve.json", serve())
    write("vllm-serve-append.jsonl", serve(), serve(max_concurrency=128, output_throughput=3000.0, label="fp8"))
    write("vllm-serve-detailed.json", detailed())
    write("vllm-throughput.json", {"elapsed_time": 50.0, "num_requests": 1000, "total_num_tokens": 256000,
                                   "requests_per_second": 20.0, "tokens_per_second": 5120.0}, indent=4)  # fmt: skip
    write("vllm-latency.json", {
        "avg_latency": 1.25, "std_latency": 0.05, "latencies": [1.2, 1.25, 1.3],
        "percentiles": {"10": 1.21, "25": 1.225, "50": 1.25, "75": 1.275, "90": 1.29, "99": 1.299},
    }, indent=4)  # fmt: skip
    times = {"unit": "s", "values": [2.0, 2.2], "count": 2, "total": 4.2, "mean": 2.1, "p50": 2.1, "p90": 2.18,
             "p95": 2.19, "p99": 2.198, "stdev": 0.1, "stdev_": 4.76}  # fmt: skip
    energy = {"unit": "kWh", "cpu": 2e-5, "ram": 1e-6, "gpu": 1e-4, "total": 1.21e-4}
    rate = {"unit": "tokens/s", "value": 95.0}
    efficiency = {"unit": "tokens/kWh", "value": 1.6e6}
    target = {"memory": None, "latency": times, "throughput": rate, "energy": energy, "efficiency": efficiency}
    report = {
        "load_model": {"memory": None, "latency": times, "throughput": None, "energy": None, "efficiency": None},
        "first_generate": {"memory": None, "latency": times, "throughput": None, "energy": None, "efficiency": None},
        "generate": target, "prefill": {**target, "throughput": {"unit": "samples/s", "value": 12.0}},
        "decode": {**target, "energy": {**energy, "gpu": 0.0}},
        "per_token": {"memory": None, "latency": times, "throughput": rate, "energy": None, "efficiency": None},
    }  # fmt: skip
    write("optimum-benchmark.json", report, indent=4)
    write("optimum-benchmark-both.json", {"config": {
        "name": "bench", "backend": {"name": "pytorch", "model": "gpt2", "torch_dtype": "float16",
                                     "quantization_scheme": None, "device": "cuda"},
        "scenario": {"name": "inference", "input_shapes": {"batch_size": 4, "sequence_length": 128},
                     "generate_kwargs": {"max_new_tokens": 100, "min_new_tokens": 100}},
        "environment": {"cpu": " AMD EPYC", "gpu": ["NVIDIA A100-SXM4-80GB"], "optimum_benchmark_version": "0.5.0",
                        "optimum_benchmark_commit": None},
    }, "report": {key: value for key, value in report.items() if key != "per_token"}}, indent=4)  # fmt: skip
    write("ml-energy-results.json", {
        "model_id": "Qwen/Qwen3-8B", "gpu_model": "H100", "num_gpus": 1, "max_num_seqs": 64, "num_prompts": 198,
        "completed": 198, "duration": 700.0, "steady_state_duration": 500.0, "steady_state_energy": 335000.0,
        "steady_state_energy_per_token": 0.268, "total_input_tokens": 39600, "total_output_tokens": 1584000,
        "request_throughput": 0.2829, "output_throughput": 2262.9, "total_token_throughput": 2319.4,
        "median_itl_ms": 26.0, "p99_itl_ms": 31.0,
        "steady_state_measurement": {"time": 500.0, "gpu_energy": {"0": 335000.0}, "cpu_energy": None},
        "entire_benchmark_measurement": {"time": 700.0, "gpu_energy": {"0": 430000.0}, "cpu_energy": None},
        "timeline": {"power": {}, "temperature": {}},
        "results": [{"input_len": 200, "output_len": 8000, "ttft": 0.1, "itl": [0.026], "latency": 208.0,
                     "energy": 2144.0, "success": True}],
    }, indent=2)  # fmt: skip
    write("inferencex-agg.json", {
        "hw": "h200", "conc": 64, "image": "vllm/vllm-openai:v0.13.0", "model": "Qwen/Qwen3-8B",
        "infmax_model_prefix": "qwen3", "framework": "vllm", "precision": "fp8", "spec_decoding": "none",
        "disagg": False, "isl": 1024, "osl": 1024, "is_multinode": False, "tp": 2, "ep": 1, "dp_attention": "false",
        "tput_per_gpu": 4000.0, "output_tput_per_gpu": 2000.0, "input_tput_per_gpu": 2000.0, "mean_ttft": 0.25,
        "median_ttft": 0.2, "std_ttft": 0.05, "p99_ttft": 0.6, "mean_tpot": 0.016, "mean_intvty": 62.5,
        "median_tpot": 0.015, "median_intvty": 66.67, "p99_tpot": 0.02, "p99_intvty": 50.0, "mean_e2el": 16.6,
        "power_metric_schema_version": 2, "power_valid": 1, "avg_power_w": 600.0, "avg_total_gpu_power_w": 1200.0,
        "total_gpu_energy_j": 120000.0, "joules_per_successful_query": 307.2, "joules_per_input_token": 0.3,
        "joules_per_output_token": 0.3, "joules_per_total_token": 0.15,
    }, indent=2)  # fmt: skip
    spread = {"p50": 10.0, "p90": 12.0, "p95": 13.0, "p99": 15.0, "minimum": 8.0, "maximum": 16.0, "average": 10.5}
    write("trtllm-bench.json", {
        "engine": {"model": "meta-llama/Llama-3.1-8B", "model_path": "None", "engine_dir": "None", "version": "1.2.0",
                   "backend": "Pytorch", "dtype": "bfloat16", "kv_cache_dtype": "FP8", "quantization": "FP8"},
        "machine": {"name": "NVIDIA H200", "memory.total": 139.8, "clocks.mem": 3.201},
        "world_info": {"tp_size": 1, "pp_size": 1, "ep_size": None, "world_size": 1, "max_batch_size": 2048,
                       "max_num_tokens": 8192, "scheduling_policy": "GUARANTEED_NO_EVICT",
                       "kv_cache_percentage": 0.9, "issue_rate": 1.0e13},
        "request_info": {"num_requests": 3000, "avg_num_concurrent_requests": 1500.0, "avg_input_length": 128.0,
                         "avg_output_length": 2048.0},
        "performance": {"total_latency_ms": 240000.0, "avg_request_latency_ms": 120000.0,
                        "request_throughput_req_s": 12.5, "system_output_throughput_tok_s": 25600.0,
                        "system_total_throughput_tok_s": 27200.0, "output_throughput_per_user_tok_s": 17.0,
                        "output_throughput_per_gpu_tok_s": 25600.0, "request_latency_percentiles_ms": spread},
        "energy": {"total_energy_j": 160000.0, "output_tps_per_w": 38.4, "average_gpu_power": 666.7},
        "streaming_metrics": {"token_output_speed_tok_s": 18.0, "avg_ttft_ms": 10.5, "avg_tpot_ms": 10.5,
                              "tpot_percentiles": spread, "ttft_percentiles": spread, "gen_tps_percentiles": spread},
        "dataset": {"isl": {}, "osl": {}},
    }, indent=4)  # fmt: skip


if __name__ == "__main__":
    main()
