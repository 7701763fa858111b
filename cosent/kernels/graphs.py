"""CUDA graphs of the encoder: what it does with a batch is recorded once for each size, and replayed.

A GPU runs the kernels of a training step many times faster than a host launches them. Batches are filled up to one of a
few sizes, and forward and backward pass are recorded for each. The loss stays outside.

A size is recorded when it comes for the third time; until then its batches run filled up as well, so that the random
numbers, and with them a seeded run, do not depend on what has been recorded.

Shapes: N texts and T tokens of a batch; M texts and S tokens of it when it is filled up, D dimensions.
"""

import gc
import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from threading import RLock
from typing import Any, Literal, get_args
from weakref import ref

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from cosent.errors import UserError
from cosent.kernels.dropout import random_state, set_random_state
from cosent.kernels.filling import Size, fill, size_for
from cosent.kernels.gradients import FlatGradients
from cosent.kernels.walk import modules_of, weights_of

logger = logging.getLogger(__name__)

CudaGraphs = Literal["auto", "on", "off"]

# Tokens, lengths, and the longest text or more; gives the embeddings.
Embed = Callable[[Tensor, Tensor, int], Tensor]

_RUNS_BEFORE_RECORDING = 2
_MAX_RECORDINGS = 48
# What cannot be told apart from the outside, such as adapters that were merged, is in the modules of other packages.
_KNOWN_PACKAGES = ("torch", "transformers", "cosent")


class EncoderGraphs:
    """The recordings of an encoder.

    They serve inference, and training within `training()`, where a backward pass has to follow each forward pass before
    the next one. What changes the encoder is noticed: weights that are moved or replaced, modules that are replaced or
    put into another mode; values of weights may change at will.

    Args:
        mode: "on" makes an error of what keeps the encoder from being recorded; with "auto" it runs unrecorded then,
            and says so; "off" records nothing.

    Raises:
        UserError: if there is no such mode.

    Attributes:
        compile_options: of torch.compile, for the encoder's layers before they are recorded. None: not compiled.
    """

    def __init__(self, mode: CudaGraphs = "auto"):
        if mode not in get_args(CudaGraphs):
            raise UserError(f"cuda_graphs must be one of {', '.join(get_args(CudaGraphs))}, got {mode!r}")
        self.mode = mode
        self.compile_options: dict[str, Any] | None = None
        self._trains = False
        self._lock = RLock()
        self.clear()

    def __reduce__(self) -> tuple[Any, ...]:
        return EncoderGraphs, (self.mode,)  # copies, and other processes, record for themselves

    def check(self, device: torch.device, *, is_packed: bool) -> None:
        """Refuse mode "on" where nothing can be recorded.

        Args:
            device: where the encoder is.
            is_packed: whether it runs on flat tokens.

        Raises:
            UserError: saying why.
        """
        if self.mode == "on" and not can_record(device):
            raise UserError(f"cuda_graphs='on' needs a CUDA device, and this model is on {device}; use 'auto'")
        if self.mode == "on" and not is_packed:
            raise UserError("cuda_graphs='on' needs a backbone that runs without padding; use 'auto'")

    def clear(self) -> None:
        """Forget all recordings, and free their memory."""
        self._recordings: dict[Hashable, _Recording] = {}
        self._runs: Counter[Hashable] = Counter()
        self._encoders: dict[bool, tuple[Any, ...]] = {}  # as recorded, in training mode and out of it
        self._gradients: FlatGradients | None = None
        self._pool: Any = None
        self._unfinished: object = None  # the forward pass whose backward pass is to come
        self._given_up = False

    def gradients(self, encoder: nn.Module) -> FlatGradients | None:
        """The gradients of all weights in one piece, as recorded backward passes make them.

        Args:
            encoder: which has been trained on; gradients that lie elsewhere are moved.

        Returns:
            None where they are not all of one type, or others than before.
        """
        weights = [weight for weight in weights_of(encoder) if weight.grad is not None]
        if self._gradients is None and len({weight.dtype for weight in weights}) == 1:
            self._gradients = FlatGradients(weights)
        if self._gradients is None or not self._gradients.are_of(weights):
            return None
        self._gradients.attach()
        return self._gradients

    @contextmanager
    def training(self) -> Iterator[None]:
        """Record forward and backward passes, too."""
        self._trains = True
        try:
            yield
        finally:
            self._trains = False

    def serve(self, device: torch.device) -> bool:
        """Tell whether a batch should go through `embed`.

        Args:
            device: where the encoder is.
        """
        wanted = self.mode != "off" and (self._trains or torch.is_inference_mode_enabled())
        return wanted and can_record(device) and not torch.compiler.is_compiling()

    def embed(
        self,
        encoder: nn.Module,
        embed: Embed,
        input_ids: Tensor,
        lengths: Tensor,
        max_length: int,
        *,
        settings: Hashable,
    ) -> Tensor:
        """Embed a flat batch, by a recording where there is one.

        Args:
            encoder: whose weights and modules `embed` uses.
            embed: gives (M, D) embeddings of a batch that is filled up, and waits for no device.
            input_ids: (T,) tokens.
            lengths: (N,) tokens in each text.
            max_length: of the lengths.
            settings: what else decides what `embed` does.

        Returns:
            (N, D) embeddings.

        Raises:
            UserError: if the mode is "on" and the encoder cannot be recorded.
        """
        size = size_for(len(input_ids), len(lengths), max_length)
        with self._lock:
            key = (size, self._trains, encoder.training, _circumstances(input_ids.device), settings)
            recording = self._recording(encoder, embed, key, input_ids.device)
            if recording is not None:
                fill((recording.input_ids, recording.lengths), input_ids, lengths)
                return self._replay(recording)[: len(lengths)]
        filled = input_ids.new_empty(size.num_tokens), lengths.new_empty(size.num_texts)
        fill(filled, input_ids, lengths)
        return embed(*filled, size.max_length)[: len(lengths)]

    def _recording(
        self, encoder: nn.Module, embed: Embed, key: tuple[Any, ...], device: torch.device
    ) -> "_Recording | None":
        if self._given_up:
            return None
        found = _describe(encoder)
        if found is None:  # hooks: nobody knows what they do
            return None
        if self._encoders.setdefault(encoder.training, found) != found:
            self.clear()
            self._encoders[encoder.training] = found
        if key in self._recordings:
            return self._recordings[key]
        self._runs[key] += 1
        if self._runs[key] <= _RUNS_BEFORE_RECORDING or len(self._recordings) >= _MAX_RECORDINGS:
            return None
        before = random_state(device)
        try:
            self._recordings[key] = self._record(encoder, embed, key[0], device)
        except RuntimeError as error:  # memory, an operation that cannot be recorded, a compiler
            self._give_up(error)
            return None
        finally:
            set_random_state(before, device)
        return self._recordings[key]

    def _record(self, encoder: nn.Module, embed: Embed, size: Size, device: torch.device) -> "_Recording":
        foreign = {type(module).__module__.partition(".")[0] for module in encoder.modules()} - {*_KNOWN_PACKAGES}
        if foreign:
            raise RuntimeError(f"it has modules of {', '.join(sorted(foreign))}")
        if self._pool is None:
            self._pool = new_pool(device)
        weights = [weight for weight in weights_of(encoder) if weight.requires_grad] if self._trains else []
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))  # tensors made in it could not be written to outside
            stack.enter_context(torch.set_grad_enabled(bool(weights)))
            stack.enter_context(_uncached_autocast(device))
            torch.clear_autocast_cache()  # casts that were made before hold the weights' graph on another stream
            if self.compile_options is not None:
                stack.enter_context(_compiled_layers(encoder, self.compile_options))
            recording = _Recording(size, device)
            used = recording.warm_up(embed, weights)
            if used and (self._gradients is None or not self._gradients.are_of(used)):
                self._gradients = FlatGradients(used)
            recording.record(embed, self._gradients if used else None, self._pool)
        return recording

    def _give_up(self, error: RuntimeError) -> None:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        if self.mode == "on":
            raise UserError(f"this encoder cannot be recorded: {reason}; use cuda_graphs 'off'") from error
        self.clear()
        self._given_up = True
        logger.warning("CUDA graphs are off from here on, and the encoder runs slower: %s", reason)

    def _replay(self, recording: "_Recording") -> Tensor:
        self._unfinished = object()
        if recording.gradients is None:
            return recording.forward()
        anchor = torch.empty(0, requires_grad=True)  # nothing else tells autograd that weights are used
        return _Replay.apply(anchor, self, recording)

    def backward(self, recording: "_Recording", forward: object, grad: Tensor) -> None:
        """Add the gradients of a replayed forward pass to the weights'.

        Args:
            recording: which was replayed.
            forward: the forward pass it was.
            grad: (M, D), of the embeddings.

        Raises:
            RuntimeError: if another forward pass has come since, which has overwritten what this one needs.
        """
        with self._lock:
            if forward is not self._unfinished:
                raise RuntimeError(
                    "recorded forward and backward passes have to take turns: a forward pass came before the backward "
                    "pass of the one before; load the model with cuda_graphs='off'"
                )
            self._unfinished = None
            recording.backward(grad)


class _Recording:
    """What an encoder does with batches of one size.

    Attributes:
        input_ids: (S,) tokens, to be written before a replay.
        lengths: (M,) likewise.
        gradients: what the backward pass adds to. None: there is none.
    """

    def __init__(self, size: Size, device: torch.device):
        self.input_ids = torch.zeros(size.num_tokens, dtype=torch.int64, device=device)
        self.lengths = torch.empty(size.num_texts, dtype=torch.int64, device=device)
        fill((self.input_ids, self.lengths), self.input_ids[:0], self.lengths[:0])  # texts of any length, until then
        self._max_length = size.max_length
        self._embeddings = self._grad = torch.empty(0)  # (M, D)

    def warm_up(self, embed: Embed, weights: list[nn.Parameter]) -> list[nn.Parameter]:
        """Run once, so that everything is there that is made when it is first used; the weights that were used."""
        embeddings = embed(self.input_ids, self.lengths, self._max_length)
        self._grad = torch.zeros_like(embeddings)
        if not weights:
            return []
        found = torch.autograd.grad(embeddings, weights, self._grad, allow_unused=True)
        return [weight for weight, grad in zip(weights, found, strict=True) if grad is not None]

    def record(self, embed: Embed, gradients: FlatGradients | None, pool: Any) -> None:
        """Record the forward pass and, where there are gradients to add to, the backward pass."""

        def forward() -> None:
            self._embeddings = embed(self.input_ids, self.lengths, self._max_length)

        def backward() -> None:
            assert gradients is not None
            grads = torch.autograd.grad(self._embeddings, gradients.weights, self._grad)
            self._embeddings = self._embeddings.detach()
            gradients.add(grads)

        self.gradients = gradients
        gc.collect()  # what is left of earlier passes would tie this one to another stream
        self._replay_forward = record(forward, pool)
        if gradients is not None:
            self._replay_backward = record(backward, pool)

    def forward(self) -> Tensor:
        """(M, D) embeddings of what was written."""
        self._replay_forward()
        return self._embeddings.detach().clone()  # the next replay overwrites them

    def backward(self, grad: Tensor) -> None:
        """Add to the weights' gradients, given the embeddings'."""
        assert self.gradients is not None
        self.gradients.attach()
        self._grad.copy_(grad)
        self._replay_backward()


class _Replay(torch.autograd.Function):
    @staticmethod
    def forward(ctx, anchor: Tensor, graphs: EncoderGraphs, recording: _Recording) -> Tensor:
        ctx.graphs, ctx.recording, ctx.forward = graphs, recording, graphs._unfinished
        return recording.forward()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[None, None, None]:
        ctx.graphs.backward(ctx.recording, ctx.forward, grad)
        return None, None, None


def can_record(device: torch.device) -> bool:
    """Tell whether there are graphs for a device.

    Args:
        device: where the encoder is.
    """
    return device.type == "cuda"


def new_pool(device: torch.device) -> Any:
    """What recordings share: a pool of memory, as no two of them run at the same time, and a stream.

    The stream is their own, since recordings of one stream share cuBLAS's workspace, which goes with the first of them
    that is freed (https://github.com/pytorch/pytorch/issues/193402).

    Args:
        device: where the encoder is.
    """
    return torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)


def record(function: Callable[[], None], pool: Any) -> Callable[[], None]:
    """Record what a function does on the GPU.

    Args:
        function: waits for no device.
        pool: of `new_pool`.

    Returns:
        Does it again, with what then lies in the tensors that it used.

    Raises:
        RuntimeError: if it cannot be recorded; the stream and the random numbers are as before then.
    """
    handle, stream = pool
    generator = torch.cuda.default_generators[stream.device.index]
    before = generator.clone_state()
    graph = torch.cuda.CUDAGraph()
    try:
        # a capture that fails leaves its stream behind; the outer contexts do not
        with torch.cuda.device(stream.device), torch.cuda.stream(torch.cuda.current_stream(stream.device)):
            # other threads, such as the one that pins batches, may go on with what they do
            with torch.cuda.graph(graph, pool=handle, stream=stream, capture_error_mode="thread_local"):
                function()
    except RuntimeError:
        generator.graphsafe_set_state(before)  # for the generator, a capture that failed goes on
        raise
    return graph.replay


def _circumstances(device: torch.device) -> tuple[Hashable, ...]:
    """What decides how torch computes."""
    kind = device.type
    return (
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None,
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )


def _describe(encoder: nn.Module) -> tuple[Any, ...] | None:
    """The modules, their modes, and where their tensors lie; None where hooks change what modules do."""
    found: list[Any] = []
    for module in modules_of(encoder):
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return None
        found += [ref(module), module.training, module.__dict__.get("p")]  # the rate of dropout
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found += [tensor.data_ptr(), tensor.requires_grad]
    return tuple(found)


@contextmanager
def _uncached_autocast(device: torch.device) -> Iterator[None]:
    """Autocast as it is, but that each pass casts the weights anew, as it will when it is replayed."""
    kind = device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
        yield


@contextmanager
def _compiled_layers(encoder: nn.Module, options: dict[str, Any]) -> Iterator[None]:
    """Let the encoder's layers run compiled; one of a kind is compiled once for each size, and serves all."""
    names = getattr(encoder, "_no_split_modules", ())
    layers = [module for module in encoder.modules() if type(module).__name__ in names]
    for layer in layers:
        layer.forward = torch.compile(layer.forward, dynamic=False, **options)
    try:
        with torch._dynamo.config.patch(recompile_limit=1 << 20, accumulated_recompile_limit=1 << 20):
            yield
    finally:
        for layer in layers:
            del layer.forward
