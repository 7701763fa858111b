import math
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from cosent.kernels import attention as attention_module
from cosent.kernels import by_length as by_length_module
from cosent.kernels import fused
from cosent.kernels.attention import KERNELS, attention, choose, wants_sorted
from cosent.kernels.bounds import Options
from cosent.kernels.dropout import keep_mask
from tests.kernels.loops import LENGTHS, bounds_of, gradients, inputs, naive

MASKS = [{}, {"causal": True}, {"window": 3}, {"causal": True, "window": 2}]
# float32 of the GPU's tensor cores keeps ten bits, as float16 does
BOUNDS = {torch.float32: 2e-3, torch.float16: 5e-3, torch.bfloat16: 4e-2}
PLAIN, WINDOWED, DROPPED = Options(0.3), Options(0.3, window=5), Options(0.3, dropout=0.1)
FUSED = ["flash-attn", "flash", "memory-efficient", "padded"]


def attend(name, *tensors, bounds, options):
    """One row of the table, whatever it would be chosen for."""
    query, key, value = tensors
    if not KERNELS[name].grouped:
        key, value = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (key, value))
    return KERNELS[name].attend(query, key, value, bounds, options)


def of_gpu(monkeypatch, capability=(9, 0), **is_there):
    """Let `choose` see a GPU, with all kernels or as told."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    kernels = {
        name: replace(kernel, is_there=is_there.get(name.replace("-", "_"), True)) for name, kernel in KERNELS.items()
    }
    monkeypatch.setattr(attention_module, "KERNELS", kernels)


class Query:
    """What `choose` looks at; there need be no such device."""

    def __init__(self, dtype, dim=64, device="cuda"):
        self.dtype, self.shape, self.device = dtype, (100, 4, dim), torch.device(device)


@pytest.mark.parametrize("name", ["padded", "by length"])
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_values_and_gradients_equal_those_of_a_loop(name, masks, key_heads):
    tensors, options = inputs(key_heads=key_heads), Options(0.3, **masks)
    found = attend(name, *tensors, bounds=bounds_of(LENGTHS), options=options)
    expected = naive(*tensors, options)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["padded", "by length"])
def test_the_longest_text_may_be_taken_for_longer(name):
    tensors, options = inputs(), Options(0.3, window=40)
    found = attend(name, *tensors, bounds=bounds_of(LENGTHS, max_length=64), options=options)
    assert_close(found, naive(*tensors, options), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("window", [29, 30, 31, 64])
def test_a_window_that_hides_nothing_is_left_out(window, monkeypatch):
    """The longest text has 30 tokens: the first sees the last in a window of 30, and in none below."""
    seen = []

    def by_length(query, key, value, bounds, options):
        seen.append(options.window)
        return KERNELS["by length"].attend(query, key, value, bounds, options)

    monkeypatch.setattr(attention_module, "KERNELS", {"by length": replace(KERNELS["by length"], attend=by_length)})
    tensors, options = inputs(), Options(0.3, window=window)
    assert_close(attention(*tensors, bounds_of(LENGTHS), options), naive(*tensors, options), rtol=1e-10, atol=1e-10)
    assert seen == [window if window < 30 else None]


def test_the_table_has_a_kernel_for_every_call(monkeypatch):
    of_gpu(monkeypatch)
    half, single = Query(torch.bfloat16), Query(torch.float32)
    assert choose(half, PLAIN) == choose(half, WINDOWED) == choose(half, DROPPED) == "flash-attn"
    of_gpu(monkeypatch, flash_attn=False)
    assert choose(half, PLAIN) == choose(Query(torch.float16), WINDOWED) == "flash"
    assert choose(single, PLAIN) == "memory-efficient"
    assert choose(single, WINDOWED) == choose(single, DROPPED) == "padded"
    assert choose(Query(torch.float64), PLAIN) == "padded"
    for dim, name in ((8, "flash"), (256, "flash"), (264, "padded"), (12, "padded")):
        assert choose(Query(torch.bfloat16, dim), PLAIN) == name
    of_gpu(monkeypatch, (7, 5), flash_attn=False)  # before Ampere
    assert choose(half, PLAIN) == "memory-efficient"
    of_gpu(monkeypatch, flash_attn=False, flash=False, memory_efficient=False)
    assert choose(half, PLAIN) == choose(single, WINDOWED) == "padded"
    assert choose(Query(torch.float32, device="cpu"), WINDOWED) == "by length"
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    of_gpu(monkeypatch, flash_attn=False)
    assert choose(half, PLAIN) == "flash"
    assert choose(single, PLAIN) == "padded"


def test_only_where_texts_are_taken_by_length_do_they_want_to_be_sorted():
    assert wants_sorted(torch.device("cpu"))
    assert not wants_sorted(torch.device("cuda"))


def test_torch_declares_its_operators_as_known():
    assert fused.HAS_FLASH and fused.HAS_MEMORY_EFFICIENT
    assert not fused._is_as_known("_no_such_operator", fused._FLASH)
    assert not fused._is_as_known("_flash_attention_forward", fused._FLASH.replace("SymInt max_q", "Tensor max_q"))


@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_the_flash_operator_takes_what_it_is_given(masks, key_heads):
    """On tensors without data: shapes, types, autograd, and nothing that asks the device for a value."""
    tensors = [x.detach().requires_grad_() for x in inputs(key_heads=key_heads, dtype=torch.bfloat16, device="meta")]
    out = fused.flash(*tensors, bounds_of(LENGTHS, "meta"), Options(0.3, dropout=0.1, **masks))
    assert out.shape == tensors[0].shape and out.dtype == torch.bfloat16
    out.sum().backward()
    assert all(x.grad.shape == x.shape for x in tensors)


def test_the_memory_efficient_operator_takes_what_it_is_given():
    tensors = [x.detach() for x in inputs(dtype=torch.float32, device="meta")]
    out = fused.memory_efficient(*tensors, bounds_of(LENGTHS, "meta"), Options(0.3, causal=True))
    assert out.shape == tensors[0].shape and out.dtype == torch.float32


def test_flash_kernels_are_told_which_places_a_token_sees(monkeypatch):
    """No GPU: stand-ins note what the kernels are told."""
    calls = []

    def package(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1),
    ):  # fmt: skip
        assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist() == [0, 3, 5]
        calls.append((max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, window_size))
        return q

    class Operators:
        @staticmethod
        def _flash_attention_forward(
            query, key, value, cum_seq_q, cum_seq_k, max_q, max_k, dropout_p, is_causal, return_debug_mask, *, scale,
            window_size_left, window_size_right,
        ):  # fmt: skip
            assert cum_seq_q.tolist() == cum_seq_k.tolist() == [0, 3, 5] and not return_debug_mask
            calls.append((max_q, max_k, dropout_p, scale, is_causal, (window_size_left, window_size_right)))
            return query, None

    monkeypatch.setattr(fused, "flash_attn_varlen_func", package)
    monkeypatch.setattr(torch.ops, "aten", Operators)
    kinds = [Options(0.5, 0.1, causal, window) for causal in (False, True) for window in (None, 5)]
    for kernel in (fused.flash_attn, fused.flash):
        calls.clear()
        for options in kinds:
            kernel(*inputs(key_heads=2), bounds_of([3, 2]), options)
        assert {call[:4] for call in calls} == {(3, 3, 0.1, 0.5)}
        assert [call[5] for call in calls] == [(-1, -1), (4, 4), (-1, 0), (4, 0)]
        # torch's is causal where its window is (-1, 0), flash-attn's where it is told so
        assert [call[4] for call in calls] == [False, False, True, kernel is fused.flash_attn]


@pytest.mark.parametrize("most", [1 << 18, 100])  # scores at a time: one block, and many
@pytest.mark.parametrize("masks", [{}, {"causal": True, "window": 3}])
def test_dropout_drops_weights_and_its_gradients_know_which(most, masks, monkeypatch):
    monkeypatch.setattr(by_length_module, "_MAX_SCORES", most)
    tensors, bounds, options = inputs(key_heads=2), bounds_of(LENGTHS), Options(0.3, dropout=0.4, **masks)

    def dropped(*tensors):
        torch.manual_seed(5)
        return attention(*tensors, bounds, options)

    assert_derivatives(dropped, tensors, step=1e-6, rtol=1e-5)
    assert torch.equal(dropped(*tensors), dropped(*tensors))
    assert not torch.equal(dropped(*tensors), attention(*tensors, bounds, replace(options, dropout=0.0)))


def assert_derivatives(function, tensors, *, step, rtol):
    """Gradients against differences along random directions; gradcheck's fast mode does not notice a forgotten mask."""
    generator = torch.Generator().manual_seed(2)

    def random():
        return torch.randn(tensors[0].shape, generator=generator, dtype=torch.float64).to(tensors[0])

    weights = random()
    grads = torch.autograd.grad((function(*tensors) * weights).sum(), tensors)
    for place in range(3):
        direction = random()[:, : tensors[place].shape[1]] * step
        moved = [[x.detach().clone() for x in tensors] for _ in range(2)]
        moved[0][place] += direction
        moved[1][place] -= direction
        ahead, back = ((function(*one) * weights).double().sum() for one in moved)
        assert_close((ahead - back) / 2, (grads[place] * direction).double().sum(), rtol=rtol, atol=0)


def test_dropout_keeps_the_mean():
    tensors, bounds = [x.detach() for x in inputs()], bounds_of(LENGTHS)
    torch.manual_seed(0)
    mean = torch.stack([attention(*tensors, bounds, Options(0.3, dropout=0.4)) for _ in range(2000)]).mean(0)
    plain = attention(*tensors, bounds, Options(0.3))
    assert_close(mean, plain, rtol=0, atol=0.15)  # the mean of 2,000 draws: its deviation is about 0.03


@pytest.mark.parametrize("masks", MASKS)
def test_many_blocks_of_scores_give_the_same(masks, monkeypatch):
    monkeypatch.setattr(by_length_module, "_MAX_SCORES", 100)
    tensors, options = inputs(key_heads=2), Options(0.3, **masks)
    found, expected = attention(*tensors, bounds_of(LENGTHS), options), naive(*tensors, options)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_scores_are_held_in_bounded_blocks(monkeypatch):
    monkeypatch.setattr(by_length_module, "_MAX_SCORES", 100)
    runs = by_length_module._runs(torch.tensor(LENGTHS), 4)
    blocks = list(by_length_module._blocks(runs))
    rows = [row for block in blocks for run in block for row in range(run.start, run.start + run.count * run.length)]
    assert rows == list(range(4 * sum(LENGTHS)))
    for block in blocks:
        scores = sum(run.count * run.length**2 for run in block)
        assert scores <= 100 or (len(block) == 1 and block[0].count == 1)


def test_dropped_weights_are_those_of_the_mask():
    query, key, _ = inputs(heads=1, key_heads=1)
    length = LENGTHS[0]
    value = torch.zeros(sum(LENGTHS), 1, 8, dtype=torch.float64)
    value[:length, 0, :length] = torch.eye(length, dtype=torch.float64)  # so the result is the weights
    torch.manual_seed(3)
    out = attention(query, key, value, bounds_of(LENGTHS), Options(1.0, dropout=0.5))[:length, 0, :length]
    torch.manual_seed(3)
    seed = torch.randint(2**62, (), dtype=torch.int64)
    generator = torch.Generator().manual_seed(int(seed))
    weights = (query[:length, 0] @ key[:length, 0].T).softmax(-1)
    mask = keep_mask(torch.empty(2, length, length, dtype=torch.float64), 0.5, generator)[0]
    assert_close(out, weights * mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    tensors, options = inputs(dtype=dtype), Options(0.3)
    found = attention(*tensors, bounds_of(LENGTHS), options)
    assert found.dtype == dtype
    exact = [x.detach().float().requires_grad_() for x in tensors]
    expected = naive(*exact, options).to(dtype)
    bound = {"rtol": 2e-3 if dtype == torch.float16 else 1e-2, "atol": 1e-3}
    assert_close(found, expected, **bound)
    for one, other in zip(gradients(found, tensors), gradients(expected, exact), strict=True):
        assert one.dtype == dtype
        assert_close(one, other.to(dtype), **bound)


def test_autocast_decides_the_dtype():
    tensors = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(*tensors, bounds_of(LENGTHS), Options(0.3)).dtype == torch.bfloat16


def on_gpu(name, dtype, options):
    """Skip what a row does not take on this GPU."""
    kernel = KERNELS[name]
    if not kernel.is_there or torch.cuda.get_device_capability() < kernel.capability:
        pytest.skip(f"{name} is not there")
    is_known = kernel.windows or "window" not in options, kernel.dropout or "dropout" not in options
    if (kernel.dtypes and dtype not in kernel.dtypes) or not all(is_known):
        pytest.skip(f"{name} does not take this")


@pytest.mark.cuda
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("masks", MASKS)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_cuda_kernels_equal_a_loop(name, dtype, masks, key_heads):
    on_gpu(name, dtype, masks)
    tensors = [x.detach().requires_grad_() for x in inputs(key_heads=key_heads, dtype=dtype, device="cuda")]
    options = Options(0.3, **masks)
    found = attend(name, *tensors, bounds=bounds_of(LENGTHS, "cuda", max_length=128), options=options)
    references = [x.detach().cpu().double().requires_grad_() for x in tensors]
    expected = naive(*references, options)
    bound = BOUNDS[dtype]
    assert_close(found.cpu().double(), expected, rtol=bound, atol=bound)
    for one, other in zip(gradients(found, tensors), gradients(expected, references), strict=True):
        assert_close(one.cpu().double(), other, rtol=bound, atol=bound * max(1, math.sqrt(other.abs().max())))


@pytest.mark.cuda
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_cuda_dropout_keeps_the_mean_and_follows_the_seed(name, dtype):
    on_gpu(name, dtype, {"dropout": 0.4})
    tensors, bounds = [x.detach() for x in inputs(dtype=dtype, device="cuda")], bounds_of(LENGTHS, "cuda")
    plain = attend(name, *tensors, bounds=bounds, options=Options(0.3)).float()

    def dropped():
        return attend(name, *tensors, bounds=bounds, options=Options(0.3, dropout=0.4)).float()

    drawn = torch.stack([dropped() for _ in range(2000)])
    assert drawn[0].ne(drawn[1]).any()
    assert_close(drawn.mean(0), plain, rtol=0, atol=0.15)
    torch.manual_seed(7)
    one = dropped()
    torch.manual_seed(7)
    assert torch.equal(dropped(), one)


@pytest.mark.cuda
@pytest.mark.parametrize("name", FUSED)
@pytest.mark.parametrize("dtype", BOUNDS)
def test_cuda_gradients_are_of_the_dropout_that_was_drawn(name, dtype):
    """Values that are the unit vectors show which weights were dropped; with these, a reference has the gradients."""
    on_gpu(name, dtype, {"dropout": 0.4})
    lengths, rate = [7, 5, 8], 0.4
    query, key, value = (x[: sum(lengths)].detach().requires_grad_() for x in inputs(dtype=dtype, device="cuda"))
    bounds = bounds_of(lengths, "cuda")

    def dropped(value):
        torch.manual_seed(5)
        return attend(name, query, key, value, bounds=bounds, options=Options(0.3, dropout=rate))

    units = torch.cat([torch.eye(8, dtype=dtype, device="cuda")[:length] for length in lengths])
    kept = dropped(units[:, None].expand(-1, 4, -1).contiguous()).cpu() != 0  # (T, H, 8)
    assert 0.4 < kept.sum() / (4 * sum(length**2 for length in lengths)) < 0.8
    references = [x.detach().cpu().double().requires_grad_() for x in (query, key, value)]
    expected = []
    for q, k, v, mask in zip(*(x.split(lengths) for x in [*references, kept]), strict=True):
        weights = torch.einsum("ihd,jhd->ihj", q, k).mul(0.3).softmax(-1) * mask[..., : len(q)] / (1 - rate)
        expected.append(torch.einsum("ihj,jhd->ihd", weights, v))
    found, expected = dropped(value), torch.cat(expected)
    bound = BOUNDS[dtype]
    assert_close(found.cpu().double(), expected, rtol=bound, atol=bound)
    theirs = gradients(expected, references)
    for one, other in zip(gradients(found, [query, key, value]), theirs, strict=True):
        assert_close(one.cpu().double(), other, rtol=bound, atol=bound * max(1, math.sqrt(other.abs().max())))
