import math
from inspect import signature

import pytest
import torch
from torch.testing import assert_close

from cosent.kernels import attention as attention_module
from cosent.kernels.attention import TextBounds, attention
from cosent.kernels.dropout import keep_mask

LENGTHS = [7, 7, 1, 4, 4, 4, 1, 30]


def bounds_of(lengths):
    lengths = torch.tensor(lengths)
    return TextBounds(lengths, torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).int(), int(lengths.max()))


def naive(query, key, value, scale, causal=False, window=None):
    """One query at a time."""
    out = torch.zeros_like(query)
    start = 0
    for length in LENGTHS:
        for i in range(length):
            seen = [
                j for j in range(length) if not (causal and j > i) and not (window is not None and abs(i - j) >= window)
            ]
            for head in range(query.shape[1]):
                source = head * key.shape[1] // query.shape[1]
                rows = [start + j for j in seen]
                weights = (key[rows, source] @ query[start + i, head] * scale).softmax(0)
                out[start + i, head] = weights @ value[rows, source]
        start += length
    return out


def inputs(heads=4, key_heads=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shape = sum(LENGTHS)
    return [
        torch.randn(shape, h, 8, generator=generator, dtype=dtype, requires_grad=True)
        for h in (heads, key_heads, key_heads)
    ]


def gradients(out, tensors):
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=out.dtype)
    return torch.autograd.grad((out * weights).sum(), tensors)


@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": 3}, {"causal": True, "window": 2}])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("most", [1 << 18, 100])  # scores at a time
def test_values_and_gradients_equal_those_of_a_loop(options, key_heads, most, monkeypatch):
    monkeypatch.setattr(attention_module, "_MAX_SCORES", most)
    tensors = inputs(key_heads=key_heads)
    found = attention(*tensors, bounds_of(LENGTHS), scale=0.3, **options)
    expected = naive(*tensors, 0.3, **options)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("most", [1 << 18, 100])  # scores at a time: one block, and many
@pytest.mark.parametrize("options", [{}, {"causal": True, "window": 3}])
def test_dropout_drops_weights_and_its_gradients_know_which(most, options, monkeypatch):
    monkeypatch.setattr(attention_module, "_MAX_SCORES", most)
    tensors = inputs(key_heads=2)
    bounds = bounds_of(LENGTHS)

    def dropped(*tensors):
        torch.manual_seed(5)
        return attention(*tensors, bounds, scale=0.3, dropout=0.4, **options)

    # derivatives along random directions; gradcheck's fast mode is too forgiving to notice a forgotten mask
    generator = torch.Generator().manual_seed(2)
    weights = torch.randn(tensors[0].shape, generator=generator, dtype=torch.float64)
    grads = torch.autograd.grad((dropped(*tensors) * weights).sum(), tensors)
    for place in range(3):
        step = 1e-6 * torch.randn(tensors[place].shape, generator=generator, dtype=torch.float64)
        moved = [
            [x.detach() + sign * step if i == place else x.detach() for i, x in enumerate(tensors)] for sign in (1, -1)
        ]
        ahead, back = ((dropped(*one) * weights).sum() for one in moved)
        assert_close((ahead - back) / 2, (grads[place] * step).sum(), rtol=1e-5, atol=0)
    assert torch.equal(dropped(*tensors), dropped(*tensors))
    plain = attention(*tensors, bounds, scale=0.3, **options)
    assert not torch.equal(dropped(*tensors), plain)


def test_dropout_keeps_the_mean():
    tensors = [x.detach() for x in inputs()]
    bounds = bounds_of(LENGTHS)
    torch.manual_seed(0)
    mean = torch.stack([attention(*tensors, bounds, scale=0.3, dropout=0.4) for _ in range(2000)]).mean(0)
    plain = attention(*tensors, bounds, scale=0.3)
    assert_close(mean, plain, rtol=0, atol=0.15)  # the mean of 2,000 draws: its deviation is about 0.03


def test_scores_are_held_in_bounded_blocks(monkeypatch):
    monkeypatch.setattr(attention_module, "_MAX_SCORES", 100)
    runs = attention_module._runs(torch.tensor(LENGTHS), 4)
    blocks = list(attention_module._blocks(runs))
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
    out = attention(query, key, value, bounds_of(LENGTHS), scale=1.0, dropout=0.5)[:length, 0, :length]
    torch.manual_seed(3)
    seed = torch.randint(2**62, (), dtype=torch.int64)
    generator = torch.Generator().manual_seed(int(seed))
    weights = (query[:length, 0] @ key[:length, 0].T).softmax(-1)
    mask = keep_mask(torch.empty(2, length, length, dtype=torch.float64), 0.5, generator)[0]
    assert_close(out, weights * mask)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    tensors = [x.detach().to(dtype) for x in inputs()]
    found = attention(*tensors, bounds_of(LENGTHS), scale=0.3)
    assert found.dtype == dtype
    expected = naive(*(x.float() for x in tensors), 0.3).to(dtype)
    bound = {"rtol": 2e-3 if dtype == torch.float16 else 1e-2, "atol": 1e-3}
    assert_close(found, expected, **bound)
    for x in tensors:
        x.requires_grad_()
    exact = [x.detach().float().requires_grad_() for x in tensors]
    ours = gradients(attention(*tensors, bounds_of(LENGTHS), scale=0.3), tensors)
    theirs = gradients(naive(*exact, 0.3).to(dtype), exact)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        assert_close(one, other.to(dtype), **bound)


def test_autocast_decides_the_dtype():
    tensors = inputs(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(*tensors, bounds_of(LENGTHS), scale=0.3).dtype == torch.bfloat16


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_nested_tensors_give_the_same():
    """The path of CUDA without a flash kernel; torch runs it on the CPU, too, where it is not causal."""
    tensors = inputs()
    found = attention_module._nested(*tensors, bounds_of(LENGTHS), 0.3, 0.0, False)
    expected = naive(*tensors, 0.3)
    assert_close(found, expected, rtol=1e-10, atol=1e-10)
    for one, other in zip(gradients(found, tensors), gradients(expected, tensors), strict=True):
        assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_flash_kernels_are_called_as_they_want(monkeypatch):
    """No GPU: a stand-in checks what the kernel is told."""
    calls = []
    real = signature(attention_module.varlen_attn)

    def kernel(*args, **options):
        call = real.bind(*args, **options).arguments
        calls.append(tuple(call[name] for name in ("max_q", "max_k", "scale", "enable_gqa", "window_size")))
        assert call["cu_seq_q"].tolist() == call["cu_seq_k"].tolist() == [0, 3, 5]
        return call["query"]

    monkeypatch.setattr(attention_module, "flash_attn_varlen_func", None)
    monkeypatch.setattr(attention_module, "varlen_attn", kernel)
    query, key, value = inputs(key_heads=2)
    bounds = bounds_of([3, 2])
    for causal, window in ((False, None), (True, None), (False, 5), (True, 5)):
        attention_module._flash(query, key, value, bounds, 0.5, 0.0, causal, window)
    assert [call[4] for call in calls] == [(-1, -1), (-1, 0), (4, 4), (4, 0)]
    assert {call[:4] for call in calls} == {(3, 3, 0.5, True)}


def test_flash_attn_gets_the_dropout(monkeypatch):
    """Not installed: a stand-in with the parameters that its documentation names."""
    calls = []

    def kernel(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None,
        causal=False, window_size=(-1, -1),
    ):  # fmt: skip
        calls.append((max_seqlen_q, max_seqlen_k, dropout_p, softmax_scale, causal, window_size))
        return q

    monkeypatch.setattr(attention_module, "flash_attn_varlen_func", kernel)
    attention_module._flash(*inputs(), bounds_of(LENGTHS), 0.5, 0.1, True, 5)
    assert calls == [(30, 30, 0.1, 0.5, True, (4, 0))]


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window": 3}, {"causal": True, "window": 2}])
@pytest.mark.parametrize("key_heads", [4, 2])
def test_cuda_equals_a_loop(dtype, options, key_heads):
    tensors = [x.detach().cuda().to(dtype).requires_grad_() for x in inputs(key_heads=key_heads)]
    bounds = bounds_of(LENGTHS)
    bounds = TextBounds(bounds.lengths.cuda(), bounds.offsets.cuda(), bounds.max_length)
    found = attention(*tensors, bounds, scale=0.3, **options)
    references = [x.detach().cpu().double().requires_grad_() for x in tensors]
    expected = naive(*references, 0.3, **options)
    bound = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}[dtype]
    assert_close(found.cpu().double(), expected, rtol=bound, atol=bound)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((found.double() * weights.cuda()).sum(), tensors)
    theirs = torch.autograd.grad((expected * weights).sum(), references)
    for one, other in zip(ours, theirs, strict=True):
        assert_close(one.cpu().double(), other, rtol=bound, atol=bound * max(1, math.sqrt(other.abs().max())))


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cuda_dropout_keeps_the_mean(dtype):
    tensors = [x.detach().cuda().to(dtype) for x in inputs()]
    bounds = bounds_of(LENGTHS)
    bounds = TextBounds(bounds.lengths.cuda(), bounds.offsets.cuda(), bounds.max_length)
    plain = attention(*tensors, bounds, scale=0.3)
    drawn = torch.stack([attention(*tensors, bounds, scale=0.3, dropout=0.4).float() for _ in range(2000)])
    assert drawn[0].ne(drawn[1]).any()
    assert_close(drawn.mean(0), plain.float(), rtol=0, atol=0.15)
