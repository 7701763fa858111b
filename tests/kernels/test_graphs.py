import copy
import logging
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from cosent import SentenceBert, UserError
from cosent.kernels import graphs as graphs_module
from cosent.model.tokens import tokenize
from cosent.training.gradient_cache import cut, embed_pieces

TEXTS = [f"text {'and more ' * (i % 7)}{i}" for i in range(40)]
LENGTHS = [5, 1, 33, 2, 5, 17, 30, 1]
CLOSE = {"rtol": 1e-5, "atol": 1e-5}  # float32, summed in another order


@pytest.fixture
def make_model(tiny_bert):
    def make(**options) -> SentenceBert:
        return SentenceBert(tiny_bert, device="cpu", **options)

    return make


def batch(seed=0, lengths=LENGTHS):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(5, 500, (sum(lengths),), generator=generator), torch.tensor(lengths), max(lengths)


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def train(model, *batches):
    """One backward pass for each batch, whose gradients add up."""
    with model.graphs.training():
        for number, one in enumerate(batches):
            embeddings = model(*one)
            weights = torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(number))
            (embeddings * weights.to(embeddings.device)).sum().backward()
            del embeddings  # a graph that lives on would be in the way of a recording
    return gradients(model)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, grad in expected.items():
        scale = max(1.0, float(grad.abs().max()))
        assert_close(found[name] / scale, grad / scale, **CLOSE, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("options", [{}, {"pooling_mode": "pooler"}, {"normalize_embeddings": True}])
def test_embeddings_are_those_of_unrecorded_batches(make_model, recordings, options):
    model, plain = make_model(**options), make_model(cuda_graphs="off", **options)
    expected = plain.encode(TEXTS)
    for _ in range(4):
        assert_close(model.encode(TEXTS), expected, **CLOSE)
    assert len(recordings) == 1
    shorter = TEXTS[:33]  # of the same size
    assert_close(model.encode(shorter), expected[:33], **CLOSE)
    assert len(recordings) == 1


def test_views_under_dropout_are_recorded_apart(make_model, recordings):
    """What was recorded without dropout must not stand for what evaluation embeds with it."""
    model = make_model(dropout=0.3)
    tokens = tokenize(model.tokenizer, TEXTS, 64)
    for _ in range(4):
        model.encode_tokens(tokens)
    assert len(recordings) == 1
    for _ in range(4):
        model.encode_tokens(tokens, dropout_seed=0)
    assert len(recordings) == 2
    model.encode_tokens(tokens)
    assert len(recordings) == 2


@pytest.mark.parametrize("packing", ["on", "off"])
def test_only_packed_encoders_are_recorded(make_model, recordings, packing):
    model = make_model(packing=packing)
    for _ in range(4):
        model.encode(TEXTS)
    assert len(recordings) == (packing == "on")


def test_nothing_is_recorded_where_it_is_off_or_gradients_are_somebody_elses(make_model, recordings):
    off, model = make_model(cuda_graphs="off"), make_model()
    for _ in range(4):
        off.encode(TEXTS)
        model(*batch()).sum().backward()
        with torch.no_grad():
            model(*batch())
    assert not recordings


def test_gradients_are_those_of_unrecorded_batches_and_add_up(make_model, recordings):
    model, plain = (make_model(dropout=0.0, cuda_graphs=mode).train() for mode in ("auto", "off"))
    batches = [batch(seed) for seed in range(5)]
    assert_same(train(model, *batches), train(plain, *batches))
    assert len(recordings) == 2  # forward and backward
    for one in (model, plain):
        one.zero_grad()
    assert_same(train(model, batch(7)), train(plain, batch(7)))
    # now part of them comes from a pass that is not recorded
    for one in (model, plain):
        one(*batch(8)).sum().backward()
    assert_same(train(model, batch(9)), train(plain, batch(9)))


def test_frozen_weights_get_no_gradient(make_model, recordings):
    model, plain = (make_model(dropout=0.0, cuda_graphs=mode).train() for mode in ("auto", "off"))
    for one in (model, plain):
        one.backbone.embeddings.requires_grad_(False)
    batches = [batch(seed) for seed in range(4)]
    found = train(model, *batches)
    assert_same(found, train(plain, *batches))
    assert not any("embeddings" in name for name in found)
    for one in (model, plain):
        one.zero_grad()
        one.backbone.embeddings.requires_grad_(True)  # noticed: recorded anew
    assert_same(train(model, *batches), train(plain, *batches))
    assert len(recordings) == 4


def test_a_model_without_trainable_weights_has_no_backward_pass(make_model, recordings):
    model = make_model().train().requires_grad_(False)
    with model.graphs.training():
        for _ in range(4):
            assert not model(*batch()).requires_grad
    assert len(recordings) == 1


@pytest.mark.parametrize("packing_of_random_numbers", [0, 2, 100])  # recorded at once, as usual, and never
def test_random_numbers_do_not_depend_on_what_is_recorded(
    make_model, recordings, monkeypatch, packing_of_random_numbers
):
    monkeypatch.setattr(graphs_module, "_RUNS_BEFORE_RECORDING", packing_of_random_numbers)
    model = make_model(dropout=0.3).train()
    torch.manual_seed(0)
    found = train(model, *(batch(seed) for seed in range(4)))
    assert bool(recordings) == (packing_of_random_numbers < 100)
    monkeypatch.setattr(graphs_module, "_RUNS_BEFORE_RECORDING", 100)
    again = make_model(dropout=0.3).train()
    torch.manual_seed(0)
    for name, grad in train(again, *(batch(seed) for seed in range(4))).items():
        assert torch.equal(found[name], grad)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_pieces_of_a_large_batch_see_the_same_dropout_in_both_passes(make_model, recordings, dropout):
    """With the dropout of the first pass in the second, the gradient is that of what the first pass gave."""
    model = make_model(dropout=dropout).train().double()
    input_ids, lengths, _ = batch(lengths=LENGTHS * 4)
    pieces = cut(input_ids, lengths, 100)
    assert len(pieces) > 3

    def total():
        torch.manual_seed(3)
        return embed_pieces(model, pieces).square().sum()

    with model.graphs.training():
        for _ in range(4):
            model.zero_grad()
            total().backward()
    assert recordings
    weight = model.backbone.encoder.layer[0].attention.self.query.weight
    step = 1e-6 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(2), dtype=weight.dtype)
    expected = (weight.grad * step).sum()
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * step)
        with model.graphs.training():
            values.append(total().detach())
        with torch.no_grad():
            weight.sub_(sign * step)
    assert_close((values[0] - values[1]) / 2, expected, rtol=1e-4, atol=0)


def changes():
    def move(model):
        model.to(torch.float64).to(torch.float32)

    def replace_data(model):
        weight = model.backbone.encoder.layer[0].output.dense.weight
        weight.data = weight.data * 2

    def replace_module(model):
        model.backbone.encoder.layer[1].intermediate.intermediate_act_fn = nn.ReLU()

    def change_dropout(model):
        model.backbone.encoder.layer[1].output.dropout.p = 0.9

    return [move, replace_data, replace_module, change_dropout]


@pytest.mark.parametrize("change", changes(), ids=lambda change: change.__name__)
def test_a_changed_encoder_is_recorded_anew(make_model, recordings, change):
    model, plain = make_model(dropout=0.1), make_model(dropout=0.1, cuda_graphs="off")
    for _ in range(4):
        model.encode(TEXTS)
    assert len(recordings) == 1
    for one in (model, plain):
        change(one)
        one.encode(TEXTS[:3])
    assert not model.graphs._recordings
    assert_close(model.encode(TEXTS), plain.encode(TEXTS), **CLOSE)
    for _ in range(4):
        model.encode(TEXTS)
    assert len(recordings) == 2


def test_a_layer_that_is_put_into_another_mode_is_recorded_anew(make_model, recordings):
    model = make_model(dropout=0.5).train()
    train(model, *(batch(seed) for seed in range(4)))
    assert len(recordings) == 2
    model.backbone.encoder.layer[0].eval()
    model.backbone.encoder.layer[1].eval()
    model.backbone.embeddings.eval()
    with model.graphs.training():
        assert torch.equal(model(*batch()), model(*batch()))
    assert not model.graphs._recordings


def test_new_values_of_weights_need_no_new_recording(make_model, recordings, tmp_path):
    other = make_model()
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    other.save_pretrained(tmp_path)
    model = make_model()
    for _ in range(4):
        model.encode(TEXTS)
    model.load_weights(tmp_path)
    assert_close(model.encode(TEXTS), other.encode(TEXTS), **CLOSE)
    assert len(recordings) == 1


def test_hooks_are_heeded(make_model, recordings):
    model = make_model()
    for _ in range(4):
        model.encode(TEXTS)
    hook = model.backbone.embeddings.register_forward_hook(lambda module, inputs, output: output * 0)
    assert torch.as_tensor(model.encode(TEXTS)).std(0).max() < 1e-5  # of zeros, all texts' embeddings are the same
    hook.remove()
    assert torch.as_tensor(model.encode(TEXTS)).std(0).max() > 0.1


def test_what_cannot_be_recorded_runs_unrecorded_and_says_so_once(make_model, recordings, monkeypatch, caplog):
    def refuse(function, pool):
        raise torch.OutOfMemoryError("CUDA out of memory.\nMore words")

    monkeypatch.setattr(graphs_module, "record", refuse)
    model, plain = (make_model(dropout=0.0, cuda_graphs=mode).train() for mode in ("auto", "off"))
    batches = [batch(seed) for seed in range(6)]
    with caplog.at_level(logging.WARNING, logger="cosent"):
        assert_same(train(model, *batches), train(plain, *batches))
    assert caplog.messages == ["CUDA graphs are off from here on, and the encoder runs slower: CUDA out of memory."]
    strict = make_model(cuda_graphs="on")
    with pytest.raises(UserError, match="cannot be recorded: CUDA out of memory.; use cuda_graphs 'off'"):
        for _ in range(4):
            strict.encode(TEXTS)


def test_modules_of_other_packages_are_not_recorded(make_model, recordings, caplog):
    class Adapter(nn.Linear):
        pass

    model = make_model()
    dense = model.backbone.encoder.layer[0].output.dense
    model.backbone.encoder.layer[0].output.dense = Adapter(dense.in_features, dense.out_features)
    with caplog.at_level(logging.WARNING, logger="cosent"):
        for _ in range(4):
            model.encode(TEXTS)
    assert not recordings
    assert "it has modules of tests" in caplog.text


def test_the_number_of_recordings_is_bounded(make_model, recordings, monkeypatch):
    monkeypatch.setattr(graphs_module, "_MAX_RECORDINGS", 2)
    model = make_model()
    for number in (1, 10, 40):
        for _ in range(4):
            model.encode(TEXTS[:number])
    assert len(recordings) == 2
    assert_close(model.encode(TEXTS), make_model(cuda_graphs="off").encode(TEXTS), **CLOSE)


def test_a_forward_pass_before_the_backward_pass_of_another_is_an_error(make_model, recordings):
    model = make_model().train()
    train(model, *(batch(seed) for seed in range(4)))
    with model.graphs.training():
        first, _ = model(*batch()), model(*batch())
        with pytest.raises(RuntimeError, match="have to take turns"):
            first.sum().backward()
        third = model(*batch())
        third.sum().backward(retain_graph=True)
        with pytest.raises(RuntimeError, match="have to take turns"):
            third.sum().backward()


def test_threads_do_not_write_over_each_others_batches(make_model, recordings):
    model = make_model()
    expected = make_model(cuda_graphs="off").encode(TEXTS)
    for _ in range(4):
        model.encode(TEXTS[:1])

    def encode(number):
        return model.encode(TEXTS[number % 40])

    with ThreadPoolExecutor(8) as threads:
        for number, found in enumerate(threads.map(encode, range(200))):
            assert_close(found, expected[number % 40], **CLOSE)


def test_copies_record_for_themselves(make_model, recordings):
    model = make_model()
    for _ in range(4):
        model.encode(TEXTS)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert not other.graphs._recordings and model.graphs._recordings
        assert_close(other.encode(TEXTS), model.encode(TEXTS))


def test_a_model_that_nobody_holds_is_gone(make_model, monkeypatch, recordings):
    """Recordings must not keep an encoder, and its memory, alive."""
    import gc
    import weakref

    def record(function, pool):  # and keep no function, as a GPU
        function()
        return lambda: None

    monkeypatch.setattr(graphs_module, "record", record)
    model = make_model()
    for _ in range(3):
        model.encode(TEXTS)
    assert model.graphs._recordings
    gc.disable()
    try:
        gone = weakref.ref(model.backbone)
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_where_there_is_no_gpu_graphs_cannot_be_asked_for(make_model):
    with pytest.raises(UserError, match="needs a CUDA device, and this model is on cpu"):
        make_model(cuda_graphs="on")
    with pytest.raises(UserError, match="must be one of auto, on, off, got 'yes'"):
        make_model(cuda_graphs="yes")


def test_padded_encoders_cannot_be_asked_for_graphs(make_model, recordings):
    with pytest.raises(UserError, match="a backbone that runs without padding"):
        make_model(cuda_graphs="on", packing="off")


@pytest.mark.slow
def test_compiled_layers_give_the_same(make_model, recordings):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, plain = (make_model(dropout=0.0, cuda_graphs=mode).train() for mode in ("auto", "off"))
    model.graphs.compile_options = {"backend": "inductor"}
    layer = model.backbone.encoder.layer[0]
    batches = [batch(seed) for seed in range(4)]
    assert_same(train(model, *batches), train(plain, *batches))
    assert recordings
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1  # both layers run the same code
    assert "forward" not in vars(layer)


cuda = pytest.mark.cuda
PRECISIONS = [None, torch.bfloat16, torch.float16]


def on_gpu(tiny_bert, **options):
    return SentenceBert(tiny_bert, device="cuda", **options)


def gpu_batch(seed=0, lengths=LENGTHS):
    input_ids, counts, longest = batch(seed, lengths)
    return input_ids.cuda(), counts.cuda(), longest


@cuda
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cuda_graphs_are_eager_runs_bit_for_bit_without_dropout(tiny_bert, precision, monkeypatch):
    """Both filled up alike; short texts, so that no kernel adds in an order of its own, and cls pooling likewise."""
    results = []
    for runs in (2, 10**9):
        monkeypatch.setattr(graphs_module, "_RUNS_BEFORE_RECORDING", runs)
        model = on_gpu(tiny_bert, dropout=0.0, pooling_mode="cls", cuda_graphs="on").train()
        with torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None):
            results.append(train(model, *(gpu_batch(seed) for seed in range(5))))
        assert bool(model.graphs._recordings) == (runs == 2)
    for name, grad in results[1].items():
        if "word_embeddings" not in name:  # whose gradient adds up rows in any order
            assert torch.equal(results[0][name], grad), name
    assert_same(*results)


@cuda
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cuda_graphs_draw_the_dropout_of_eager_runs_and_new_one_each_time(tiny_bert, precision, monkeypatch):
    results = []
    for runs in (2, 10**9):
        monkeypatch.setattr(graphs_module, "_RUNS_BEFORE_RECORDING", runs)
        model = on_gpu(tiny_bert, dropout=0.3, cuda_graphs="on").train()
        torch.manual_seed(0)
        found = []
        with torch.autocast("cuda", precision or torch.bfloat16, enabled=precision is not None):
            for _ in range(6):
                with model.graphs.training():
                    embeddings = model(*gpu_batch())
                    embeddings.float().sum().backward()
                    found.append(embeddings.detach().float())
                    del embeddings
        results.append(torch.stack(found))
    assert_close(*results, rtol=1e-3, atol=1e-3)
    assert all(not torch.equal(results[0][i], results[0][j]) for i in range(6) for j in range(i))


@cuda
def test_cuda_graphs_encode_alike(tiny_bert):
    plain = on_gpu(tiny_bert, cuda_graphs="off").encode(TEXTS)
    model = on_gpu(tiny_bert, cuda_graphs="on")
    for _ in range(4):
        assert_close(model.encode(TEXTS), plain, rtol=2e-3, atol=2e-3)
    assert model.graphs._recordings
    model.to("cpu")
    assert not model.graphs._recordings
    assert_close(model.encode(TEXTS), plain, rtol=2e-3, atol=2e-3)


@cuda
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_cuda_graphs_of_pieces_draw_the_same_in_both_passes(tiny_bert, dropout):
    results = []
    for mode in ("on", "off"):
        model = on_gpu(tiny_bert, dropout=dropout, cuda_graphs=mode).train()
        input_ids, lengths, _ = gpu_batch(lengths=LENGTHS * 4)
        for _ in range(4):
            model.zero_grad()
            torch.manual_seed(1)
            with model.graphs.training():
                pieces = cut(input_ids, lengths, 100)
                embeddings = embed_pieces(model, pieces)
                embeddings.square().sum().backward()
                embeddings = embeddings.detach()
        results.append((embeddings, gradients(model)))
    if not dropout:
        assert_close(results[0][0], results[1][0], rtol=2e-3, atol=2e-3)
        for name, grad in results[1][1].items():
            assert_close(results[0][1][name], grad, rtol=1e-2, atol=1e-2 * float(grad.abs().max()))


@cuda
@pytest.mark.slow
def test_cuda_graphs_of_compiled_layers_give_the_same(tiny_bert):
    results = []
    for options in (None, {"backend": "inductor"}):
        model = on_gpu(tiny_bert, dropout=0.0, cuda_graphs="on").train()
        model.graphs.compile_options = options
        with torch.autocast("cuda", torch.bfloat16):
            results.append(train(model, *(gpu_batch(seed) for seed in range(5))))
        assert model.graphs._recordings
    for name, grad in results[0].items():
        assert_close(results[1][name], grad, rtol=5e-2, atol=5e-2 * float(grad.abs().max()))
