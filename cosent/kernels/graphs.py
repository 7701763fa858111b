"""CUDA graphs of the encoder: its work is recorded once for each batch size, and then replayed.

A GPU runs the kernels of a training step many times faster than the host launches them. Batches are filled up to one of
a few sizes, and the forward and the backward pass are recorded for each. The loss is not recorded.

A size is recorded when it occurs for the third time. Before that, its batches are filled up as well, so that the random
numbers of a seeded run do not depend on what has been recorded.

Shapes: N texts and T tokens in a batch; M texts and S tokens in the filled batch; D dimensions.
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

# Tokens, lengths, and the largest length or more -> embeddings.
Embed = Callable[[Tensor, Tensor, int], Tensor]

_RUNS_BEFORE_RECORDING = 2
_MAX_RECORDINGS = 48
# Modules of other packages may change in ways that cannot be seen from outside, such as merged adapters.
_KNOWN_PACKAGES = ("torch", "transformers", "cosent")


class EncoderGraphs:
    """The recordings of an encoder.

    They serve inference and, within `training()`, training, where each forward pass must be followed by its backward
    pass before the next one. Changes of the encoder are detected: weights that are moved or replaced, and modules that
    are replaced or switched to another mode. The values of weights may change freely.

    Args:
        mode: "on" raises an error if the encoder cannot be recorded; "auto" then logs a message and runs it without
            recording; "off" records nothing.

    Raises:
        UserError: if the mode is unknown.

    Attributes:
        compile_options: options of torch.compile for the encoder's layers. None: they are not compiled.
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
        return EncoderGraphs, (self.mode,)  # copies and other processes make their own recordings

    def check(self, device: torch.device, *, is_packed: bool) -> None:
        """Refuse mode "on" if nothing can be recorded.

        Args:
            device: the encoder's device.
            is_packed: whether it runs on flat tokens.

        Raises:
            UserError: if the mode is "on" and nothing can be recorded; the message says why.
        """
        if self.mode == "on" and not can_record(device):
            raise UserError(f"cuda_graphs='on' needs a CUDA device, and this model is on {device}; use 'auto'")
        if self.mode == "on" and not is_packed:
            raise UserError("cuda_graphs='on' needs a backbone that runs without padding; use 'auto'")

    def clear(self) -> None:
        """Drop all recordings and free their memory."""
        self._recordings: dict[Hashable, _Recording] = {}
        self._runs: Counter[Hashable] = Counter()
        self._encoders: dict[bool, tuple[Any, ...]] = {}  # the encoder as recorded, by training mode
        self._gradients: FlatGradients | None = None
        self._pool: Any = None
        self._unfinished: object = None  # the forward pass whose backward pass is pending
        self._given_up = False

    def gradients(self, encoder: nn.Module) -> FlatGradients | None:
        """Return the gradients of all weights in one tensor, to which recorded backward passes write.

        Args:
            encoder: the encoder, after a backward pass; gradients in other memory are moved.

        Returns:
            The gradients; None if their types differ, or other weights have gradients than before.
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
        """Record and replay training in this context, too."""
        self._trains = True
        try:
            yield
        finally:
            self._trains = False

    def serve(self, device: torch.device) -> bool:
        """Tell whether a batch should go through `embed`.

        Args:
            device: the encoder's device.
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
        """Embed a flat batch, with a recording if there is one.

        Args:
            encoder: the encoder whose weights and modules `embed` uses.
            embed: computes the (M, D) embeddings of a filled batch without waiting for the device.
            input_ids: (T,) tokens.
            lengths: (N,) number of tokens in each text.
            max_length: the largest length.
            settings: everything else that the result of `embed` depends on.

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
        if found is None:  # hooks may do anything
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
        except RuntimeError as error:  # out of memory, an operation that cannot be recorded, or a compiler error
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
            stack.enter_context(torch.inference_mode(False))  # inference tensors could not be modified outside
            stack.enter_context(torch.set_grad_enabled(bool(weights)))
            stack.enter_context(_uncached_autocast(device))
            torch.clear_autocast_cache()  # earlier casts keep the graph of the weights on another stream
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
        anchor = torch.empty(0, requires_grad=True)  # tells autograd that the result needs a gradient
        return _Replay.apply(anchor, self, recording)

    def backward(self, recording: "_Recording", forward: object, grad: Tensor) -> None:
        """Backpropagate through a replayed forward pass, adding to the weights' gradients.

        Args:
            recording: the recording that was replayed.
            forward: the identity of the forward pass.
            grad: (M, D) gradient of the embeddings.

        Raises:
            RuntimeError: if a later forward pass has overwritten the activations.
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
    """The recorded work of an encoder on batches of one size.

    Attributes:
        input_ids: (S,) tokens, to be written before a replay.
        lengths: (M,) lengths, to be written before a replay.
        gradients: the gradients that the backward pass adds to. None: there is no backward pass.
    """

    def __init__(self, size: Size, device: torch.device):
        self.input_ids = torch.zeros(size.num_tokens, dtype=torch.int64, device=device)
        self.lengths = torch.empty(size.num_texts, dtype=torch.int64, device=device)
        fill((self.input_ids, self.lengths), self.input_ids[:0], self.lengths[:0])  # placeholder texts until then
        self._max_length = size.max_length
        self._embeddings = self._grad = torch.empty(0)  # (M, D)

    def warm_up(self, embed: Embed, weights: list[nn.Parameter]) -> list[nn.Parameter]:
        """Run once, to initialise everything that is created on first use, and return the weights that were used."""
        embeddings = embed(self.input_ids, self.lengths, self._max_length)
        self._grad = torch.zeros_like(embeddings)
        if not weights:
            return []
        found = torch.autograd.grad(embeddings, weights, self._grad, allow_unused=True)
        return [weight for weight, grad in zip(weights, found, strict=True) if grad is not None]

    def record(self, embed: Embed, gradients: FlatGradients | None, pool: Any) -> None:
        """Record the forward pass and, if there are gradients to add to, the backward pass."""

        def forward() -> None:
            self._embeddings = embed(self.input_ids, self.lengths, self._max_length)

        def backward() -> None:
            assert gradients is not None
            grads = torch.autograd.grad(self._embeddings, gradients.weights, self._grad)
            self._embeddings = self._embeddings.detach()
            gradients.add(grads)

        self.gradients = gradients
        gc.collect()  # remains of earlier passes would tie this one to another stream
        self._replay_forward = record(forward, pool)
        if gradients is not None:
            self._replay_backward = record(backward, pool)

    def forward(self) -> Tensor:
        """Return the (M, D) embeddings of the written batch."""
        self._replay_forward()
        return self._embeddings.detach().clone()  # the next replay overwrites them

    def backward(self, grad: Tensor) -> None:
        """Add to the weights' gradients, given the gradient of the embeddings."""
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
    """Tell whether a device supports graphs.

    Args:
        device: the encoder's device.
    """
    return device.type == "cuda"


def new_pool(device: torch.device) -> Any:
    """Make what recordings share: a memory pool, as no two of them run at the same time, and a stream.

    They need their own stream because recordings on one stream share cuBLAS's workspace, which is freed with the first
    of them (https://github.com/pytorch/pytorch/issues/193402).

    Args:
        device: the encoder's device.
    """
    return torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)


def record(function: Callable[[], None], pool: Any) -> Callable[[], None]:
    """Record a function's work on the GPU.

    Args:
        function: the function, which must not wait for the device.
        pool: a pool from `new_pool`.

    Returns:
        A function that repeats the work on the current content of the same tensors.

    Raises:
        RuntimeError: if it cannot be recorded; the stream and the random state are then restored.
    """
    handle, stream = pool
    generator = torch.cuda.default_generators[stream.device.index]
    before = generator.clone_state()
    graph = torch.cuda.CUDAGraph()
    try:
        # a failed capture leaves its stream current; the outer contexts restore the previous one
        with torch.cuda.device(stream.device), torch.cuda.stream(torch.cuda.current_stream(stream.device)):
            # other threads, such as the one that pins batches, may continue
            with torch.cuda.graph(graph, pool=handle, stream=stream, capture_error_mode="thread_local"):
                function()
    except RuntimeError:
        generator.graphsafe_set_state(before)  # otherwise the generator stays in capture mode
        raise
    return graph.replay


def _circumstances(device: torch.device) -> tuple[Hashable, ...]:
    """Collect the global settings that decide how torch computes."""
    kind = device.type
    return (
        torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None,
        torch.get_float32_matmul_precision(),
        torch.are_deterministic_algorithms_enabled(),
    )


def _describe(encoder: nn.Module) -> tuple[Any, ...] | None:
    """Describe the modules, their modes and the addresses of their tensors; None if there are hooks."""
    found: list[Any] = []
    for module in modules_of(encoder):
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks:
            return None
        found += [ref(module), module.training, module.__dict__.get("p")]  # the dropout rate
        for tensor in (*module._parameters.values(), *module._buffers.values()):
            if tensor is not None:
                found += [tensor.data_ptr(), tensor.requires_grad]
    return tuple(found)


@contextmanager
def _uncached_autocast(device: torch.device) -> Iterator[None]:
    """Keep autocast as it is, but cast the weights anew in each pass, as a replay does."""
    kind = device.type
    enabled, dtype = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
    with torch.autocast(kind, dtype, enabled=enabled, cache_enabled=False):
        yield


@contextmanager
def _compiled_layers(encoder: nn.Module, options: dict[str, Any]) -> Iterator[None]:
    """Run the encoder's layers compiled; layers of the same kind share one compilation per size."""
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
