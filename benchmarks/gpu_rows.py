"""Which rows a run measures, in which order, and what happens when a row fails or time is short."""

import logging
import time
import traceback
from collections.abc import Callable
from functools import partial
from logging.handlers import BufferingHandler
from typing import Any

import torch
from gpu_bench import Bench, Figures, Subject
from gpu_page import NO_TIME, PEER, PEER_STEP, Page, Row
from gpu_profile import measure_device, measure_host
from gpu_speed import Training, measure_encoding, measure_peer_encoding, measure_peer_step, measure_training
from measuring import give_back_memory


def all_rows(bench: Bench) -> list[Row]:
    """List the rows, the most important ones first; numbers are the seconds that they take on an H200."""
    graphs, *others = bench.args.graphs
    piece = bench.args.micro_batch_tokens
    large, small, base = bench.large, bench.small, bench.base

    def row(table: str, subject: Subject, how: str, about: float, measure: Callable[..., Figures], *given: Any) -> Row:
        return Row(table, (subject.label, how), partial(measure, bench, *given), about)

    def training(subject: Subject, graphs: str, about: float, compiled: bool = False) -> Row:
        how = f"cosent, graphs {graphs}{', compiled' if compiled else ''}"
        return row(
            "Training", subject, how, about, measure_training, Training(subject, graphs, bench.args.batch, compiled)
        )

    def profiled(where: str, subject: Subject, about: float, measure: Callable[..., Figures]) -> Row:
        run = Training(subject, graphs, bench.args.batch)
        return row(f"Profile of the {where}", subject, f"cosent, graphs {graphs}", about, measure, run)

    def encoding(subject: Subject, graphs: str, about: float) -> Row:
        return row("Encoding", subject, f"cosent, graphs {graphs}", about, measure_encoding, subject, graphs)

    def large_batch(subject: Subject, about: float, how: str, piece: int | None = None) -> Row:
        run = Training(subject, graphs, bench.args.large_batch, micro_batch_tokens=piece)
        return row("Large batches", subject, how, about, measure_training, run)

    return [
        training(large, graphs, 18),  # and makes the encoder
        training(small, graphs, 10),
        row("Training", large, PEER_STEP, 12, measure_peer_step, large),
        row("Training", small, PEER_STEP, 8, measure_peer_step, small),
        encoding(large, graphs, 16),
        row("Encoding", large, PEER, 18, measure_peer_encoding, large),
        profiled("device", large, 10, measure_device),
        profiled("host", small, 8, measure_host),
        *(training(large, other, 18) for other in others),
        *(training(small, other, 10) for other in others),
        large_batch(large, 12, f"in pieces of {piece:,} tokens", piece),
        large_batch(large, 12, "at once"),
        training(base, graphs, 14),
        training(small, graphs, 40, compiled=True),
        training(large, graphs, 75, compiled=True),
        *(encoding(large, other, 12) for other in others),
        encoding(small, graphs, 8),
        row("Encoding", small, PEER, 6, measure_peer_encoding, small),
        *(encoding(small, other, 6) for other in others),
        large_batch(base, 8, f"in pieces of {piece:,} tokens", piece),
        large_batch(base, 8, "at once"),
    ]


def measure(page: Page, is_time_for: Callable[[float], bool]) -> None:
    """Measure each row of a page if there is time for the seconds that it takes, and write the page after each."""
    logged = BufferingHandler(capacity=1000)
    logging.getLogger("cosent").addHandler(logged)
    page.write()
    for row in page.rows:
        if is_time_for(row.about):
            fill(row, page.device)
        else:
            row.status = NO_TIME
        row.warnings = [record.getMessage() for record in logged.buffer]
        logged.flush()
        print(f"{row.title}: {row.status}, {row.seconds:.1f} s", flush=True)
        page.write()


def fill(row: Row, device: torch.device) -> None:
    """Measure a row, or note in it why that failed."""
    start = time.perf_counter()
    try:
        give_back_memory()
        if device.type == "cuda":  # within `try`, as this fails, too, once a kernel has failed
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        row.figures = row.measure()
        if device.type == "cuda":
            row.figures["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        row.status = "measured"
    except Exception as error:
        first_line = next(iter(str(error).strip().splitlines()), "")
        row.status = f"FAILED: {type(error).__name__}: {first_line}"
        row.traceback = traceback.format_exc()
        print(row.traceback, flush=True)
    row.seconds = time.perf_counter() - start
