"""Counting on the meta device, against numbers worked out by hand."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from palate.training.count_cache import remember
from palate.training.counting import count_forward, count_forward_backward
from palate.training.gpu_path import GpuPath

META = torch.device("meta")


def linear(inside, outside, trained=True, dtype=torch.float32):
    layer = nn.Linear(inside, outside, bias=False, device=META, dtype=dtype)
    return layer.requires_grad_(trained)


def test_a_linear_layer_costs_two_flops_a_weight_and_row_forward_and_twice_that_backward():
    layer, x = linear(8, 16), torch.empty(4, 8, device=META, requires_grad=True)
    counted = count_forward_backward(lambda: layer(x).sum())
    assert counted.flops_forward == 2 * 4 * 8 * 16
    assert counted.flops_backward == 2 * counted.flops_forward


def test_a_frozen_weight_needs_no_weight_gradient():
    layer, x = linear(8, 16, trained=False), torch.empty(4, 8, device=META, requires_grad=True)
    counted = count_forward_backward(lambda: layer(x).sum())
    assert counted.flops_backward == counted.flops_forward


def test_saved_bytes_are_the_tensors_that_autograd_keeps_each_storage_once():
    first, second, x = linear(8, 16), linear(16, 16), torch.empty(4, 8, device=META)

    def run():
        hidden = first(x).relu()  # relu's result serves its own backward and the second layer's: one storage
        return second(hidden).sum()

    loss = 4
    assert count_forward_backward(run).saved_bytes == 4 * 16 * 4 + loss


def test_the_peak_holds_temporaries_and_gradients():
    x = torch.empty(1000, device=META, requires_grad=True)
    # exp's result (kept) and its double (a temporary) live together before the sum
    counted = count_forward_backward(lambda: (x.exp() * 2).sum())
    assert counted.saved_bytes == 4000 + 4
    # backward: the kept result, the gradient of the product, and x's gradient
    assert 12000 <= counted.peak_bytes <= 12000 + 16


def test_gradients_that_are_there_before_are_accumulated_into_and_not_counted():
    x = torch.empty(1000, 1000, device=META, requires_grad=True)
    fresh = count_forward_backward(lambda: x.sum()).peak_bytes
    assert fresh >= 4_000_000
    y = torch.empty(10, 10, device=META)
    layer = linear(10, 10)
    layer.weight.grad = torch.empty_like(layer.weight)
    counted = count_forward_backward(lambda: layer(y).sum())
    assert counted.peak_bytes < 2 * 400 + 400 + 16


def test_attention_is_fused_and_keeps_no_scores():
    shape = (1, 2, 64, 8)
    q, k, v = (torch.empty(shape, device=META, requires_grad=True) for _ in range(3))
    counted = count_forward_backward(lambda: nn.functional.scaled_dot_product_attention(q, k, v).sum())
    product = 2 * 2 * 64 * 64 * 8
    assert counted.flops_forward == 2 * product
    assert counted.flops_backward == 4 * product  # the fifth product, a recomputation, is not the model's
    output, log_sum_exp = 2 * 64 * 8 * 4, 2 * 64 * 4
    assert output <= counted.saved_bytes <= output + 2 * log_sum_exp + 64
    assert counted.saved_bytes < 2 * 64 * 64 * 4


def test_cross_attention_counts_its_own_lengths():
    q, k = torch.empty(1, 2, 64, 8, device=META), torch.empty(1, 2, 16, 8, device=META)
    counted = count_forward(lambda: nn.functional.scaled_dot_product_attention(q, k, k))
    assert counted.flops_forward == 2 * (2 * 2 * 64 * 16 * 8)


def test_checkpointing_adds_the_forward_flops_once_and_keeps_only_inputs():
    layers = nn.ModuleList([linear(32, 32) for _ in range(4)])
    x = torch.empty(64, 32, device=META, requires_grad=True)

    def block(layer, hidden):
        return nn.functional.scaled_dot_product_attention(*[layer(hidden).exp().view(1, 1, 64, 32)] * 3).view(64, 32)

    def run(checkpointed):
        hidden = x
        for layer in layers:
            hidden = checkpoint(block, layer, hidden, use_reentrant=False) if checkpointed else block(layer, hidden)
        return hidden.sum()

    plain = count_forward_backward(lambda: run(False))
    saving = count_forward_backward(lambda: run(True))
    assert saving.flops_forward == plain.flops_forward
    assert saving.flops_backward == plain.flops_backward + plain.flops_forward
    state = 64 * 32 * 4
    assert saving.saved_bytes <= 4 * state + 64  # three inner states, the last one, and the loss
    assert saving.peak_bytes < plain.peak_bytes


def test_repeated_operations_are_answered_from_memory_with_the_same_counts():
    x = torch.empty(16, 16, device=META, requires_grad=True)
    layers = [linear(16, 16) for _ in range(6)]

    def run(count):
        hidden = x
        for layer in layers[:count]:
            hidden = layer(hidden).exp()
        return hidden.sum()

    one, two, six = (count_forward_backward(lambda n=n: run(n)) for n in (1, 2, 6))
    assert six.flops_forward - two.flops_forward == 4 * (two.flops_forward - one.flops_forward)
    assert six.saved_bytes - two.saved_bytes == 4 * (two.saved_bytes - one.saved_bytes)


def test_autocast_takes_products_in_bfloat16_and_norms_in_float32():
    x = torch.empty(4, 8, 8, device=META)
    with GpuPath(torch.bfloat16):
        assert (x @ x).dtype == torch.bfloat16
        assert linear(8, 8)(x).dtype == torch.bfloat16
        assert nn.functional.layer_norm(x.bfloat16(), (8,)).dtype == torch.float32
        assert nn.functional.group_norm(x.bfloat16(), 2).dtype == torch.float32
        assert nn.functional.silu(x.bfloat16()).dtype == torch.bfloat16
        assert nn.functional.scaled_dot_product_attention(x, x, x).dtype == torch.bfloat16
    with GpuPath(None):
        assert (x @ x).dtype == torch.float32


def test_autocast_keeps_a_bfloat16_copy_of_what_a_trained_layer_reads():
    layer, x = linear(8, 8), torch.empty(1024, 8, device=META)
    plain = count_forward_backward(lambda: layer(x).sum())
    cast = count_forward_backward(lambda: layer(x).sum(), autocast=torch.bfloat16)
    assert cast.saved_bytes - plain.saved_bytes == 1024 * 8 * 2


def test_counting_without_gradients_keeps_nothing_but_the_result():
    layers, x = [linear(32, 32) for _ in range(3)], torch.empty(8, 32, device=META)
    counted = count_forward(lambda: layers[2](layers[1](layers[0](x))))
    assert (counted.flops_forward, counted.flops_backward) == (3 * 2 * 8 * 32 * 32, 0)
    assert counted.saved_bytes == 8 * 32 * 4
    assert counted.peak_bytes == 2 * 8 * 32 * 4


def test_a_real_tensor_is_refused():
    with pytest.raises(AssertionError, match="meta device"):
        count_forward_backward(lambda: torch.zeros(2, requires_grad=True).sum())


def test_counts_are_remembered_by_key_and_recounted_when_the_file_is_cut(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("palate.training.count_cache._remembered", {})
    calls = []

    def count():
        calls.append(1)
        return {"flops": 2**70}

    assert remember({"a": 1}, count) == remember({"a": 1}, count) == {"flops": 2**70}
    assert len(calls) == 1
    monkeypatch.setattr("palate.training.count_cache._remembered", {})
    assert remember({"a": 1}, count) == {"flops": 2**70}
    assert len(calls) == 1
    assert remember({"a": 2}, count) == {"flops": 2**70}
    assert len(calls) == 2
    for file in (tmp_path / "palate" / "counts").iterdir():
        file.write_text(file.read_text()[:-9])
    monkeypatch.setattr("palate.training.count_cache._remembered", {})
    assert remember({"a": 1}, count) == {"flops": 2**70}
    assert len(calls) == 3


def test_an_unwritable_cache_costs_no_more_than_a_recount(tmp_path, monkeypatch):
    (tmp_path / "palate").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("palate.training.count_cache._remembered", {})
    assert remember({"b": 1}, lambda: {"n": 1}) == {"n": 1}
