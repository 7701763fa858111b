"""Connects transformers' Trainer with a SentenceBert, a loss and cosent's evaluation.

Shapes: K texts per example, B examples, N = K*B texts, D dimensions; R ranks, processes that train together.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from cosent.batch import NO_TEXT, TokenBatch
from cosent.data.datasets import TextDataset
from cosent.data.formats import FORMATS
from cosent.data.samplers import ClassBatchSampler, DistinctTextBatchSampler, RankBatchSampler, RowBatchSampler
from cosent.data.sources import Data
from cosent.data.streams import TextStream
from cosent.distributed import gather_batch, gather_numbers, num_ranks, rank
from cosent.errors import UserError
from cosent.evaluation.decide import DecisionOptions, decide
from cosent.evaluation.evaluators import Evaluation, EvaluationOptions, evaluate
from cosent.kernels.packing import is_packed
from cosent.losses import Loss
from cosent.model.backbone import train_in_float32
from cosent.model.encoder import SentenceBert
from cosent.training.arguments import CosentTrainingArguments
from cosent.training.batches import class_batches, collator, rows_of
from cosent.training.callbacks import EarlyStoppingCallback, SetEpoch, suit_notebook
from cosent.training.data import (
    check_format,
    check_types,
    eval_datasets,
    settle_metric,
    settle_stream,
    training_dataset,
)
from cosent.training.gradient_cache import Piece, cut, embed_pieces, filler, whole
from cosent.training.logged_loss import batch_statistics, leave_out_short_batches
from cosent.training.recording import compile_options, training_graphs
from cosent.training.resuming import ResumableTrainer
from cosent.training.shortage import describe_shortage

logger = logging.getLogger(__name__)

Batches = RankBatchSampler | RowBatchSampler | ClassBatchSampler | DistinctTextBatchSampler

_NO_STEP = "no batch is full, and dataloader_drop_last leaves such out: there is no step"

# The warning for a statistic of a loss, when its mean exceeds 0.5.
_WARNINGS = {
    "collapsed": "The hardest positives and the hardest negatives are all next to their anchors: the encoder maps all "
    "texts to one point. Lower the learning rate, or use mining='all' or soft_margin=True.",
    "identical_views": "The two views of each sentence do not differ, so there is nothing to learn: the backbone's "
    "dropout is off. Turn it on with dropout=0.1.",
}


class CosentTrainer(ResumableTrainer):
    """Fine-tunes a SentenceBert.

    Evaluation does not change training: it keeps the random generators and the model's mode unchanged. Checkpoints are
    complete folders that `SentenceBert` and sentence-transformers load.

    Under a launcher (torchrun, accelerate) the ranks train like one process with batches R times as large: they share
    the rows of each batch and compare all its embeddings. With `micro_batch_tokens`, a rank embeds its share piece by
    piece. Neither changes the loss or its gradient.

    Args:
        model: the encoder.
        args: the training arguments.
        loss: a function of embeddings (K, B, D), labels (B,) and text ids (N,).
        train_dataset: the training data: a dataset, a stream, or any source that `load_data` takes, in a format that
            the loss learns from. Of pairs, a loss of triplets takes those that match. Sentences are embedded twice if
            the loss needs more than one text per example.
        eval_dataset: the data that selects the best checkpoint and, if they are pairs, the threshold: a dataset or a
            source, in any format. Or several by name, each with its metrics under its name; `metric_for_best_model`
            says which one selects, else the first.
        evaluation: how to evaluate; the batch size and the progress bar come from `args`.
        decision: how to choose the threshold and to fit the calibration at the end of training.
        callbacks: additional callbacks.

    Attributes:
        selecting: the name of the eval data that selects the best checkpoint and the threshold; "" if it has none.
        final_evaluation: the trained model's evaluation on the data that chose its threshold. None: there is none.

    Raises:
        UserError: if the loss does not learn from this data format, `metric_for_best_model` is not a metric of the eval
            data, or there is no eval data; from `train`, if there would be no step or memory runs out.
    """

    args: CosentTrainingArguments

    # The loss is one value per batch: with gradient accumulation, the parent divides by the number of batches.
    loss_is_scaled_for_ga = False
    _full_batch = 0  # examples in a full batch

    def __init__(
        self,
        model: SentenceBert,
        args: CosentTrainingArguments,
        loss: Loss,
        *,
        train_dataset: TextDataset | TextStream | Data = None,
        eval_dataset: TextDataset | Data | Mapping[str, TextDataset | Data] = None,
        evaluation: EvaluationOptions | None = None,
        decision: DecisionOptions | None = None,
        callbacks: list[TrainerCallback] | None = None,
    ):
        check_types(model, args, loss)
        args = copy(args)  # the changes below apply to this data only, not to the caller's object
        args.remove_unused_columns = False  # TokenRows has no unused columns
        if args.data_seed is None:
            args.data_seed = args.seed  # otherwise accelerate orders rows by each rank's own generator
        callbacks = list(callbacks or ())
        if args.early_stopping_patience is not None:
            callbacks.append(EarlyStoppingCallback(args.early_stopping_patience))
        evaluation = evaluation or EvaluationOptions()
        if train_dataset is not None:
            train_dataset = training_dataset(train_dataset, loss, model, evaluation.positive_label_min)
        held_out = eval_datasets(eval_dataset, train_dataset, model)
        self.selecting = settle_metric(args, held_out, evaluation)
        self._selecting_data = held_out.get(self.selecting)
        if train_dataset is not None:
            check_format(loss, train_dataset)
            if isinstance(train_dataset, TextStream):
                settle_stream(args)
            if FORMATS[train_dataset.data_format].label is str:
                args.per_device_train_batch_size = args.classes_per_batch * args.samples_per_class
        self._graphs = training_graphs(model.graphs, args)
        if self._graphs is not None and args.torch_compile:
            self._graphs.compile_options = compile_options(args)
            # the parent would compile the whole model, for arbitrary sizes
            args.torch_compile, args.torch_compile_backend, args.torch_compile_mode = False, None, None
        if train_dataset is not None and train_in_float32(model):
            logger.info("Weights of half precision are trained as float32; bf16=True still computes in bfloat16")
        super().__init__(
            model=model,
            args=args,
            # the collator takes a batch of TokenRows, which is not a list
            data_collator=None if train_dataset is None else collator(train_dataset),  # type: ignore[arg-type]
            train_dataset=None if train_dataset is None else rows_of(train_dataset, args),
            eval_dataset=held_out.get("", held_out or None),  # the parent uses its length only
            callbacks=callbacks,
        )
        self._check_engine()
        self._gathers = args.gather_across_devices and num_ranks() > 1
        self._in_pieces = bool(args.micro_batch_tokens or args.micro_batch_size)
        # recorded pieces are filled up to a fixed size anyway
        self._pads_pieces = is_packed(model.backbone) and self._graphs is None
        self._examples = train_dataset
        self._batches = self._make_batches() if isinstance(train_dataset, TextDataset) else None
        self.add_callback(SetEpoch(self))
        suit_notebook(self)
        if rank() > 0:
            torch.manual_seed(args.seed + rank())  # otherwise dropout would drop the same places on all ranks
        self.loss = loss
        self.evaluation = replace(
            evaluation,
            batch_size=args.eval_batch_size,
            show_progress_bar=not args.disable_tqdm,
        )
        self.decision = decision or DecisionOptions()
        self.final_evaluation: Evaluation | None = None
        self._base_model = model.name_or_path
        self._statistics: dict[str, Tensor] = {}  # sums since the last log, kept on the device
        self._statistics_steps = 0
        self._warned: set[str] = set()

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train like the parent; then choose the threshold and fit the calibration on the eval pairs, if there are any.

        `save_model` stores both with the model.

        Args:
            args: the parent's arguments, of which `resume_from_checkpoint` comes first.
            kwargs: the parent's arguments.

        Raises:
            UserError: if a checkpoint to resume from is incomplete, or memory runs out.
        """
        settings = self.accelerator.unwrap_model(self.model).settings
        settings.base_model = self._base_model
        settings.loss = describe_loss(self.loss)
        settings.decision = None  # a threshold is valid only for the weights that it was chosen for
        result = super().train(*args, **kwargs)
        self._decide()
        return result

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate like the parent, on the trainer's own eval data or, if given, on any other, or several by name."""
        names = self.eval_dataset if isinstance(self.eval_dataset, dict) else {}
        is_known = isinstance(eval_dataset, str) and eval_dataset in names  # the parent passes names
        if eval_dataset is not None and not is_known:
            held_out = eval_datasets(eval_dataset, None, self.accelerator.unwrap_model(self.model))
            eval_dataset = held_out.get("", held_out)
        return super().evaluate(eval_dataset, *args, **kwargs)

    def _decide(self) -> None:
        """Choose the trained model's threshold on the eval pairs."""
        data = self._selecting_data
        if data is None or FORMATS[data.data_format].label is not float:
            return
        model: SentenceBert = self.accelerator.unwrap_model(self.model)
        with _without_autocast(model):
            self.final_evaluation = evaluate(model, data, self.evaluation)
        pairs = self.final_evaluation.pairs
        assert pairs is not None  # as these are pairs
        where, least = data.name, self.evaluation.positive_label_min
        model.settings.decision = decide(pairs, where, **vars(self.decision), positive_label_min=least)

    def _check_engine(self) -> None:
        """Refuse configurations that would fail later, whether they come from flags or from the launcher."""
        if self.is_deepspeed_enabled and (self.args.micro_batch_tokens or self.args.micro_batch_size):
            raise UserError("DeepSpeed runs the backward pass itself: no micro_batch_tokens or micro_batch_size")
        if num_ranks() > 1 and not self.args.gather_across_devices:
            if self.args.train_sampling_strategy == "group_by_length":
                raise UserError("group_by_length would order the rows differently on each rank: it needs them gathered")
        plugin = self.accelerator.state.fsdp_plugin if self.is_fsdp_enabled else None
        if plugin is not None and (plugin.fsdp_version != 2 or "FULL_STATE_DICT" not in str(plugin.state_dict_type)):
            raise UserError(
                "only FSDP2 with whole checkpoints is known to work, got "
                f"version {plugin.fsdp_version} with {plugin.state_dict_type}; with accelerate launch, "
                "give --fsdp_version 2 --fsdp_state_dict_type FULL_STATE_DICT"
            )
        if plugin is not None and plugin.mixed_precision_policy is not None:
            # embeddings stay in float32, which the loss and the evaluation need
            plugin.mixed_precision_policy = replace(plugin.mixed_precision_policy, output_dtype=None)

    def get_train_dataloader(self) -> DataLoader:
        """Return the parent's loader, or one over this rank's share of the batches that all ranks process together."""
        if self._train_batch_size != self.args.train_batch_size:  # auto_find_batch_size has made it smaller
            self._statistics, self._statistics_steps = {}, 0
            self._batches = self._make_batches()
        if self._batches is None and not isinstance(self._examples, TextStream):
            plain = super().get_train_dataloader()
            if not len(plain):
                raise UserError(_NO_STEP)
            return plain
        dataset: Any = self.train_dataset
        of_batches: dict[str, Any] = {"batch_size": None} if self._batches is None else {"batch_sampler": self._batches}
        loader = DataLoader(
            dataset,
            **of_batches,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            multiprocessing_context=self.args.dataloader_multiprocessing_context,
            in_order=self.args.dataloader_in_order,
        )
        if not self._gathers and self._batches is not None:
            return self.accelerator.prepare(loader)
        # the batches are already divided among the ranks: tell accelerate that there is one process
        return prepare_data_loader(
            loader,
            self.accelerator.device,
            num_processes=1,
            process_index=0,
            put_on_device=True,
            dispatch_batches=False,  # or the first rank would read a stream for all of them
            non_blocking=self.accelerator.non_blocking,
        )

    def _get_eval_sampler(self, eval_dataset: Any) -> None:
        return None  # evaluation takes the dataset as a whole, in its own order

    def _make_batches(self) -> Batches | None:
        """Make the sampler of the batches' rows; None if the parent makes it."""
        dataset, args = self._examples, self.args
        assert isinstance(dataset, TextDataset)  # a stream makes its own batches
        shares = num_ranks() if self._gathers else 1
        seed = args.seed if args.data_seed is None else args.data_seed
        rows = shares * self._train_batch_size
        sizes_vary = FORMATS[dataset.data_format].label is str or args.train_sampling_strategy == "batch_rebalance"
        self._full_batch = 0 if sizes_vary else min(rows, len(dataset))
        batches: RowBatchSampler | ClassBatchSampler | DistinctTextBatchSampler
        if FORMATS[dataset.data_format].label is str:
            batches = class_batches(dataset, rows, args.samples_per_class, seed)
            args.per_device_train_batch_size = self._train_batch_size = -(-batches.rows_per_batch // shares)
        elif args.no_duplicate_texts:
            texts = np.split(dataset.text_ids, np.cumsum(dataset.num_texts)[:-1])
            batches = DistinctTextBatchSampler(texts, batch_size=rows, seed=seed, drop_last=args.dataloader_drop_last)
        elif not self._gathers or args.train_sampling_strategy == "batch_rebalance":  # which divides rows by itself
            return None
        else:
            order: Any = self._get_train_sampler()
            batches = RowBatchSampler(order, batch_size=rows, seed=seed, drop_last=args.dataloader_drop_last)
        if not len(batches):
            raise UserError(_NO_STEP)
        return RankBatchSampler(batches, rank=rank(), num_ranks=shares) if self._gathers else batches

    def compute_loss(
        self,
        model: nn.Module,
        inputs: TokenBatch,  # type: ignore[override]
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Embed all columns of the batch and call the loss; the arguments are the parent's."""
        columns = inputs["num_columns"]
        ids = inputs["text_ids"].view(columns, -1)  # (K, B)
        pieces = self._pieces(inputs)
        mine = len(pieces), *ids.shape
        # otherwise each rank has one piece, and no rank needs the shapes of the others
        counts = gather_numbers(*mine) if self._gathers or self._in_pieces else [list(mine)]
        num_fillers = max(count for count, *_ in counts) - len(pieces)
        embeddings = embed_pieces(
            model,
            [*pieces, *[filler(inputs["input_ids"])] * num_fillers],
            trainable=any(parameter.requires_grad for parameter in model.parameters()),
            # without synchronisation, FSDP would keep unsharded gradients of all weights
            without_sync=nullcontext if self.is_fsdp_enabled else partial(self.accelerator.no_sync, model),
        )  # (N, D), fewer rows if texts are missing
        if len(embeddings) < ids.numel():
            empty = embeddings.new_zeros(ids.numel(), embeddings.shape[1])
            # unlike a mask, this does not wait for the device, nor does its gradient
            places = (ids.reshape(-1) == NO_TEXT).int().argsort(stable=True)[: len(embeddings)]
            embeddings = empty.index_copy(0, places, embeddings)
        embeddings = embeddings.view(*ids.shape, embeddings.shape[-1])  # (K, B, D)
        # texts that are known to match, a text and itself included, are not negatives of each other
        ids = inputs.get("group_ids", inputs["text_ids"]).view_as(ids)
        labels = inputs.get("labels")
        if self._gathers:
            embeddings, labels, ids = gather_batch(
                embeddings, labels, ids, shapes=[shape for _, *shape in counts], no_text=NO_TEXT
            )
        loss = self.loss(embeddings, labels, ids.reshape(-1))
        self._keep_statistics(loss, embeddings.detach(), labels, ids.reshape(-1))
        return (loss, embeddings) if return_outputs else loss

    def _pieces(self, inputs: TokenBatch) -> list[Piece]:
        """Cut a batch into the pieces that are embedded one at a time."""
        input_ids, lengths = inputs["input_ids"], inputs["lengths"]
        if not len(lengths):
            return []
        max_tokens = self.args.micro_batch_tokens
        if self.args.micro_batch_size:
            num_examples = len(inputs["text_ids"]) // inputs["num_columns"]
            max_tokens = math.ceil(len(input_ids) * self.args.micro_batch_size / num_examples)
        if max_tokens:
            counts = inputs["host_lengths"]
            return cut(input_ids, lengths, max_tokens, pad=self._pads_pieces, host_lengths=counts)
        return [whole(input_ids, lengths, inputs["max_length"])]

    def _keep_statistics(self, loss: Tensor, embeddings: Tensor, labels: Tensor | None, text_ids: Tensor) -> None:
        statistics = self.loss.statistics(embeddings, labels, text_ids)
        statistics |= batch_statistics(loss, embeddings.shape[1], self._full_batch)
        statistics["effective_batch"] = torch.tensor(float(embeddings.shape[1]))
        for name, value in statistics.items():
            self._statistics[name] = self._statistics.get(name, torch.zeros_like(value)) + value
        self._statistics_steps += 1

    def training_step(self, model: nn.Module, inputs: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the parent's step; if memory runs out, the error names the batch and the arguments that reduce memory."""
        try:
            with nullcontext() if self._graphs is None else self._graphs.training():
                return super().training_step(model, inputs, *args, **kwargs)
        except RuntimeError as error:
            if self.args.auto_find_batch_size or not should_reduce_batch_size(error):
                raise
            raise UserError(self._shortage(inputs)) from error

    def _clip_grad_norm(self, model: nn.Module) -> Tensor:
        """Clip like the parent, but in three passes over all gradients at once if training is recorded."""
        gradients = None if self._graphs is None else self._graphs.gradients(model)
        if gradients is None:
            return super()._clip_grad_norm(model)
        self.accelerator.unscale_gradients()
        return gradients.clip(self.args.max_grad_norm)

    def _shortage(self, inputs: TokenBatch) -> str:
        """Say at which batch memory ran out, and what would reduce it."""
        on_cpu: Any = {name: x.cpu() if isinstance(x, Tensor) else x for name, x in inputs.items()}
        has_classes = self._examples is not None and FORMATS[self._examples.data_format].label is str
        return describe_shortage(on_cpu, self._pieces(on_cpu), self.args, has_classes=has_classes)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the means of the loss's statistics since the last log, and warn once about problems that they show."""
        if "loss" in logs and self._statistics_steps:
            means = {name: (total / self._statistics_steps).item() for name, total in self._statistics.items()}
            self._statistics, self._statistics_steps = {}, 0
            for name in means.keys() & _WARNINGS.keys() - self._warned:
                if means[name] > 0.5:
                    self._warned.add(name)
                    logger.warning(_WARNINGS[name])
            leave_out_short_batches(logs, means, self.state.log_history)
            logs.update(means)
        super().log(logs, start_time)

    def evaluation_loop(
        self, dataloader: Any, description: str, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any
    ) -> EvalLoopOutput:
        """Evaluate the dataset as a whole rather than batch by batch, so that each distinct text is embedded once."""
        model: SentenceBert = self.accelerator.unwrap_model(self.model)
        result = evaluate(model, dataloader.dataset, self.evaluation, num_resamples=0)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in result.metrics.items()}
        scores = np.empty(0) if result.pairs is None else result.pairs.scores
        return EvalLoopOutput(predictions=scores, label_ids=None, metrics=metrics, num_samples=len(dataloader.dataset))

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        # the parent would write only the weights, and pickle its arguments
        if self.args.should_save:
            folder = output_dir or self.args.output_dir
            self.accelerator.unwrap_model(self.model).save_pretrained(folder, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        # the parent would look for its own weight names, find none, and continue with the current weights
        self.accelerator.unwrap_model(self.model).load_weights(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        assert self.state.best_model_checkpoint is not None  # the parent checks this first
        self._load_from_checkpoint(self.state.best_model_checkpoint)


def describe_loss(loss: Loss) -> dict[str, Any]:
    """Return the name and the options of a loss, as checkpoints store them."""
    options = {name: value for name, value in vars(loss).items() if name != "training" and name[0] != "_"}
    return {"name": type(loss).__name__, **options}


@contextmanager
def _without_autocast(model: SentenceBert) -> Iterator[None]:
    """Let a model embed as it will once it is saved, without the Trainer's mixed precision."""
    prepared = vars(model).pop("forward", None)  # by accelerate
    if prepared is None:
        yield
        return
    model.graphs.clear()  # they hold the casts
    try:
        yield
    finally:
        vars(model)["forward"] = prepared
        model.graphs.clear()
