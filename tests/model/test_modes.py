import pickle
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event, Thread

import numpy as np
import pytest
from numpy.testing import assert_allclose
from torch import nn

from cosent import SentenceBert, UserError
from cosent.model.embedding import NotFiniteError
from cosent.model.modes import embedding_mode

SAME = {"rtol": 1e-5, "atol": 1e-5}  # float32, batched differently


def test_the_last_thread_turns_dropout_on_again():
    model = nn.Linear(1, 1).train()
    with embedding_mode(model):
        with embedding_mode(model):
            assert not model.training
        assert not model.training
    assert model.training
    with pytest.raises(KeyError), embedding_mode(model):
        raise KeyError
    assert model.training


def test_dropout_waits_for_those_that_embed_without():
    model = nn.Linear(1, 1).eval()
    began, modes = Event(), []

    def with_dropout():
        began.set()
        with embedding_mode(model, dropout=True):
            modes.append(model.training)

    with embedding_mode(model):
        thread = Thread(target=with_dropout)
        thread.start()
        began.wait()
        thread.join(0.05)
        assert not modes
        assert not model.training
    thread.join()
    assert modes == [True]
    assert not model.training


def test_those_that_embed_without_dropout_wait_for_one_with_it():
    model = nn.Linear(1, 1).train()
    modes = []

    def without_dropout():
        with embedding_mode(model):
            modes.append(model.training)

    with embedding_mode(model, dropout=True):
        thread = Thread(target=without_dropout)
        thread.start()
        thread.join(0.05)
        assert model.training
        assert not modes
    thread.join()
    assert modes == [False]
    assert model.training


def test_threads_encode_with_a_model_that_was_left_in_training(model):
    texts = [f"text number {i} " * (1 + i % 7) for i in range(24)]
    expected = model.eval().encode(texts)
    model.train()
    barrier = Barrier(8)

    def encode(number):
        barrier.wait()
        return [model.encode(texts[i]) for i in range(number % 3, 24)]

    with ThreadPoolExecutor(8) as pool:
        for number, found in enumerate(pool.map(encode, range(8))):
            assert_allclose(found, expected[number % 3 :], **SAME)
    assert model.training


def test_a_mode_that_another_thread_sets_waits_for_those_that_embed(model):
    with embedding_mode(model):
        thread = Thread(target=model.train)
        thread.start()
        thread.join()
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())
    with embedding_mode(model):
        thread = Thread(target=model.eval)
        thread.start()
        thread.join()
    assert not model.training


def test_a_thread_that_turns_dropout_on_changes_no_embedding(model):
    texts = [f"text number {i} " * (1 + i % 7) for i in range(64)]
    expected = model.encode(texts)
    done = Event()

    def disturb():
        while not done.is_set():
            model.train()

    thread = Thread(target=disturb)
    thread.start()
    try:
        for _ in range(5):
            assert_allclose(model.encode(texts, batch_size=1), expected, **SAME)
    finally:
        done.set()
        thread.join()
    assert model.training


def test_a_pickled_model_is_the_same_model(model):
    texts = ["How do I reset my password?", "a"]
    assert_allclose(pickle.loads(pickle.dumps(model)).encode(texts), model.encode(texts), **SAME)


@pytest.mark.parametrize("number", [1, 3])
def test_embeddings_that_are_not_finite_name_their_text(model, number):
    texts = ["one text", "another text", "password", "and more of them"]
    token = model.tokenizer.convert_tokens_to_ids(model.tokenizer.tokenize(texts[number])[0])
    model.get_input_embeddings().weight.data[token] = np.nan
    with pytest.raises(UserError, match=f"the embedding of text {number}, '{texts[number]}', is not finite"):
        model.encode(texts)
    with pytest.raises(UserError, match="is not finite"):
        model.predict([(texts[0], texts[number])], threshold=0.5)


def test_a_spawned_process_can_use_the_model(model, tmp_path):
    import subprocess
    import sys

    path = tmp_path / "model.pickle"
    path.write_bytes(pickle.dumps(model))
    program = f"import pickle; print(pickle.load(open({str(path)!r}, 'rb')).encode('a text').tolist())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-500:]
    assert_allclose(eval(done.stdout), model.encode("a text"), **SAME)


def test_a_model_that_loads_needs_no_help_of_its_neighbours(tiny_bert):
    first, second = SentenceBert(tiny_bert, device="cpu"), SentenceBert(tiny_bert, device="cpu")
    first.train()
    assert_allclose(first.encode("a text"), second.encode("a text"), **SAME)


def test_dropout_of_one_model_holds_up_no_other():
    first, second = nn.Linear(1, 1), nn.Linear(1, 1)
    with embedding_mode(first, dropout=True):
        thread = Thread(target=lambda: embedding_mode(second).__enter__())
        thread.start()
        thread.join(10)
        assert not thread.is_alive()


def test_the_error_keeps_its_text_when_it_is_sent():
    error = pickle.loads(pickle.dumps(NotFiniteError(3, "a text")))
    assert (error.place, str(error)) == (3, str(NotFiniteError(3, "a text")))
