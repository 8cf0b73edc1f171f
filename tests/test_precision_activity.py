import pytest
import torch
from test_precision_models import IDS, constant_of, logits, qwen3, qwen3_moe, runnable, wide

from evalsuite.errors import UsageError
from evalsuite.precision import RECIPES, apply, formats
from evalsuite.precision.activity import PENDING_INPUTS, Tally
from evalsuite.precision.fake import FakeQuant

SHAPE = (9, 352)


@pytest.fixture(scope="module")
def model():
    return qwen3()


@pytest.fixture
def tensor():
    x = wide(SHAPE)
    x[2, 40], x[5, 300] = torch.nan, torch.inf
    return x


@pytest.mark.parametrize("key", [key for key in RECIPES if RECIPES[key].activations])
def test_counts_of_elements_are_those_of_codes_and_scales(key, tensor):
    quant = RECIPES[key].activations
    constant = constant_of(quant, tensor) / 4 if quant.static else None
    fake, expected = FakeQuant(quant, tensor.device, constant), formats.quantize_as(tensor, quant, constant)
    tally = Tally(fake.flags)
    values, seen = fake.watch(tensor, "elements")
    tally.add(seen)
    found = tally.take()

    assert torch.equal(values.view(torch.int32), fake(tensor).view(torch.int32))
    assert {name: found[name] for name in expected.counts} == expected.counts
    assert found["blocks"] == expected.scales.numel()
    assert found["nonfinite_blocks"] > 0
    assert found["elements"] >= tensor.numel()


@pytest.mark.parametrize("key", ["mxfp8-floor", "mxfp8-even", "mxfp8-rceil", "fp8-e4m3", "fp8-e4m3-tensor-static"])
def test_a_block_counts_as_clipped_if_one_of_its_elements_is(key):
    x, quant = wide(SHAPE), RECIPES[key].activations
    constant = constant_of(quant, x) / 4 if quant.static else None
    fake = FakeQuant(quant, x.device, constant)
    tally = Tally(fake.flags)
    tally.add(fake.watch(x)[1])
    width = quant.block[1] if quant.block[1] > 0 else 352
    q = formats.quantize_as(x, quant, constant)
    clipped = 0
    for i in range(9):
        for j in range(0, 352, width):
            scaled = x[i, j : j + width].float().abs() / q.scales[i, j // width]
            clipped += bool((scaled > 448 * formats.ONE_ROUNDING).any())

    assert tally.take()["clipped_blocks"] == clipped
    assert (clipped > 0) == (key in ("mxfp8-floor", "mxfp8-even", "fp8-e4m3-tensor-static"))


def test_counts_add_up_over_more_inputs_than_are_held_and_start_again_after_they_are_taken():
    fake = FakeQuant(RECIPES["fp8-ue8m0"].activations, torch.device("cpu"))
    tally, x = Tally(fake.flags), wide((3, 256))
    x[1, 7] = torch.nan
    for _ in range(2 * PENDING_INPUTS + 5):
        tally.add(fake.watch(x)[1])
    n = 2 * PENDING_INPUTS + 5

    assert tally.take() == {"blocks": 6 * n, "nonfinite_blocks": n, "clipped_blocks": 0}
    assert tally.take() == {}


def test_layers_that_share_an_input_each_report_its_counts(model):
    with apply(model, RECIPES["mxfp8-floor"]) as applied:
        logits(model)
        found = applied.activity()
        again = applied.activity()

    assert set(found) == set(applied.realised.modules)
    q, k, v = (found[f"model.layers.0.self_attn.{name}_proj"] for name in "qkv")
    assert q == k == v
    assert q["blocks"] == IDS.numel() * 256 // 32
    assert q["clipped_blocks"] > 0
    assert again == {}


def test_a_nan_that_reaches_a_layer_is_counted_there_and_wherever_it_goes_on_to(model):
    def spoil(module, args):
        x = args[0].clone()
        x[0, 3, 5] = torch.nan
        return (x,)

    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        handle = model.model.layers[1].mlp.down_proj.register_forward_pre_hook(spoil)
        logits(model)
        handle.remove()
        found = applied.activity()

    bad = {name: counts["nonfinite_blocks"] for name, counts in found.items() if counts["nonfinite_blocks"]}
    assert bad == {"model.layers.1.mlp.down_proj": 1}


def test_elements_are_counted_on_request_only(model):
    with apply(model, RECIPES["fp8-ue8m0"]) as applied:
        logits(model)
        by_blocks = applied.activity()
        applied.count("elements")
        logits(model)
        by_elements = applied.activity()
        with pytest.raises(UsageError, match="Unknown count 'all'"):
            applied.count("all")
    name = "model.layers.0.mlp.down_proj"

    assert set(by_blocks[name]) == {"blocks", "nonfinite_blocks", "clipped_blocks"}
    assert by_elements[name]["elements"] == IDS.numel() * 640
    assert by_elements[name]["zero_flushed"] >= 0
    assert by_blocks[name].items() <= by_elements[name].items()


def test_experts_and_the_cache_are_counted_too():
    moe = qwen3_moe()
    with apply(moe, RECIPES["fp8-ue8m0-kv8"]) as applied:
        logits(moe)
        found = applied.activity()

    experts = found["model.layers.1.mlp.experts.gate_up_proj"]
    assert experts["blocks"] == IDS.numel() * 2  # two of four experts a token, 128 wide
    assert found["kv_cache.keys"]["blocks"] == found["kv_cache.values"]["blocks"] == 2 * IDS.numel()


def test_unquantised_inputs_are_not_counted(model):
    for key in ("bf16", "fp32", "w8a16-ue8m0"):
        with apply(model, RECIPES[key]) as applied:
            logits(model)
            assert applied.activity() == {}


def test_counts_of_weights_by_module_are_in_the_record_without_zeros(model):
    with apply(model, runnable("mxfp8-floor", model)) as applied:
        record = applied.realised

    assert set(record.module_counts) == set(record.modules)
    assert all(all(counts.values()) for counts in record.module_counts.values())
    for key, total in record.counts.items():
        assert total == sum(counts.get(key, 0) for counts in record.module_counts.values())
