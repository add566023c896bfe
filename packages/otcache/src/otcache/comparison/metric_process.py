"""A foreign metric in a process of its own: whatever it does there, only its own column is lost.

:func:`main` is the other end: a line of JSON a question on standard input, one an answer on standard output,
images as files of arrays.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from otcache.processes import LOOK, lines_of
from otcache_core import OtcacheError, PluginError
from otcache_core.contracts import Metric, PromptMetric, QualityMetric, SetMetric, VideoMetric
from otcache_core.errors import expected
from otcache_core.plugins import Registry, RegistryDescription
from otcache_core.plugins.info import ANY, reason_of
from otcache_core.plugins.plugin_scan import end_group

#: Seconds that one question may take.
LIMIT = 600.0
Floats = NDArray[np.floating]
COMMAND = (sys.executable, "-c", "from otcache.comparison.metric_process import main; main()")
KINDS: tuple[type[Metric], ...] = (QualityMetric, VideoMetric, PromptMetric, SetMetric)
#: What a metric says of itself.
FACTS = ("name", "higher_is_better", "pointwise", "takes_videos")


def metric_in_process(
    registry: RegistryDescription, name: str, options: dict[str, Any], *, limit: float = LIMIT
) -> Metric:
    """Return a metric that asks one in another process, which ends with it.

    Args:
        registry: where the other process takes its plugins from.
        name: of the metric, qualified.
        options: of its constructor; plain data.
        limit: seconds for each question.

    Raises:
        PluginError: if it cannot be made, or options are not plain data; what it says when asked, if it
            fails there.
    """
    question = {"registry": asdict(registry), "name": name, "options": options}
    try:
        json.dumps(question)
    except (TypeError, ValueError) as error:
        raise PluginError(expected("options", options, f"plain data ({error})")) from error
    process = _MetricProcess(limit)
    facts = process.ask(question)
    return _PROXIES[facts.pop("takes")](process, facts)


class _Proxy:
    """Represents a metric here: its fields, and the process that has it."""

    process: _MetricProcess

    def __init__(self, process: _MetricProcess, facts: dict[str, Any]) -> None:
        vars(self).update(facts, process=process)


class _Pairs(_Proxy, QualityMetric):
    def __call__(self, images: Floats, reference: Floats) -> NDArray[np.float64]:
        return self.process.measure([images, reference])


class _Videos(_Proxy, VideoMetric):
    def __call__(self, videos: Floats, reference: Floats) -> NDArray[np.float64]:
        return self.process.measure([videos, reference])


class _Prompts(_Proxy, PromptMetric):
    def __call__(self, images: Floats, prompts: Sequence[str]) -> NDArray[np.float64]:
        return self.process.measure([images], prompts)


class _Set(_Proxy, SetMetric):
    def __call__(self, images: Floats) -> float:
        return float(self.process.measure([images]))


_PROXIES = {kind.takes: kind for kind in (_Pairs, _Videos, _Prompts, _Set)}


def check_fields(metric: Metric) -> None:
    """Check that a metric is one, and has what a table prints.

    Raises:
        PluginError: naming what it lacks.
    """
    if not isinstance(metric, KINDS):
        wanted = "a metric of pairs, of videos, of prompts or of a set"
        raise PluginError(expected("it", type(metric).__name__, wanted))
    name, better = getattr(metric, "name", None), getattr(metric, "higher_is_better", None)
    if not (isinstance(name, str) and name):
        raise PluginError(expected("its name", name, "a short text"))
    if not isinstance(better, bool):
        raise PluginError(expected("its higher_is_better", better, "True or False"))


def numbers(found: Any, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return what a metric gives, once that is its numbers.

    Args:
        found: whatever it gave.
        shape: (n,), or () of a metric of a set; of one sample a number may be infinite, as a PSNR is.

    Raises:
        PluginError: if it is anything else.
    """
    values = np.asarray(found)
    if values.dtype.kind not in "fiu":
        raise PluginError(expected("what it gives", found, "floating point"))
    if values.shape != shape:
        raise PluginError(expected("the shape of what it gives", values.shape, f"{shape}"))
    values = values.astype(np.float64)
    lowest = -np.inf if shape else np.inf
    if np.isnan(values).any() or (np.isinf(values) & (values <= lowest)).any():
        raise PluginError(expected("what it gives", values.tolist(), "numbers"))
    return values


def measured(
    measure: Callable[..., Any], stacks: Sequence[Floats], metric: Metric
) -> NDArray[np.float64]:
    """Return the numbers that a metric gives for copies of some images.

    Args:
        measure: calls the metric.
        stacks: the images, and what they are compared with.
        metric: one of a set gives one number, any other one per sample.

    Raises:
        PluginError: if it gives anything else, or changes the images.
    """
    copies = [np.array(stack) for stack in stacks]
    shape = () if isinstance(metric, SetMetric) else (len(stacks[0]),)
    values = numbers(measure(*copies), shape)
    if not all(map(np.array_equal, copies, stacks)):
        raise PluginError("it changes the images that it is given.")
    return values


class _MetricProcess:
    """This end: starts the process, and ends it when it is garbage."""

    def __init__(self, limit: float) -> None:
        self._limit, self._number, self._lock = limit, 0, threading.Lock()
        self._process = subprocess.Popen(
            COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        weakref.finalize(self, end_group, self._process)
        assert self._process.stdout is not None
        self._lines = lines_of(self._process.stdout)

    def ask(self, question: dict[str, Any]) -> Any:
        """Return an answer.

        Raises:
            PluginError: if there is none.
        """
        assert self._process.stdin is not None
        with self._lock:
            self._number += 1
            line = json.dumps({"number": self._number, "question": question})
            with suppress(OSError):  # of one that has ended, as is reported below
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
            answer = self._answer()
        if "error" in answer:
            raise PluginError(answer["error"])
        return answer["answer"]

    def _answer(self) -> dict[str, Any]:
        ends = time.monotonic() + self._limit
        while True:
            left = ends - time.monotonic()
            if left <= 0:
                end_group(self._process)
                raise PluginError(f"it took longer than {self._limit:g} s.")
            try:
                line = self._lines.get(timeout=min(left, LOOK))
            except queue.Empty:
                if self._process.poll() is None or not self._lines.empty():
                    continue
                line = None  # a child of it holds the pipe
            if line is None:
                status = self._process.wait()
                raise PluginError(
                    f"it ended the process that it was asked in, with status {status}."
                )
            answer: dict[str, Any] = json.loads(line)
            if answer["number"] == self._number:  # an earlier one came too late
                return answer

    def measure(
        self, stacks: Sequence[NDArray[Any]], prompts: Sequence[str] | None = None
    ) -> NDArray[np.float64]:
        """Return what the metric gives for some images."""
        with tempfile.TemporaryDirectory(prefix="otcache-", ignore_cleanup_errors=True) as folder:
            files = [str(Path(folder, f"{i}.npy")) for i in range(len(stacks))]
            for file, stack in zip(files, stacks, strict=True):
                np.save(file, stack)
            texts = None if prompts is None else list(prompts)
            return np.asarray(self.ask({"stacks": files, "prompts": texts}), np.float64)


def main() -> None:
    """Answer questions until standard input is closed."""
    answers, questions = os.fdopen(os.dup(1), "w", encoding="utf-8"), os.dup(0)
    os.dup2(2, 1)  # what a metric prints is not an answer
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # and what it reads no question
    asked: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_take_questions, args=(questions, asked), daemon=True).start()
    metric: Metric | None = None
    while True:
        number, question = asked.get()
        try:
            if metric is None:
                metric = _made(**question)
                answer: Any = _facts(metric)
            else:
                answer = _answer(metric, **question).tolist()
            line = json.dumps({"number": number, "answer": answer})
        except ANY as error:
            text = str(error) if isinstance(error, OtcacheError) else reason_of(error)
            line = json.dumps({"number": number, "error": text})
        answers.write(line + "\n")
        answers.flush()


def _take_questions(source: int, asked: queue.Queue[Any]) -> None:
    # Below Python's buffers: their lock, held here, would abort the interpreter when it ends in peace.
    buffer = b""
    while part := os.read(source, 65536):
        *lines, buffer = (buffer + part).split(b"\n")
        for line in lines:
            question = json.loads(line)
            asked.put((question["number"], question["question"]))
    os._exit(0)


def _made(registry: dict[str, Any], name: str, options: dict[str, Any]) -> Metric:
    described = msgspec.convert(registry, RegistryDescription)
    metric = Registry.from_description(described).create("metrics", name, **options)
    check_fields(metric)
    return metric


def _facts(metric: Metric) -> dict[str, Any]:
    """Return what a metric says of itself; fields that are not plain data are an error of it."""
    known = {name: getattr(metric, name) for name in FACTS if hasattr(metric, name)}
    kind = next(kind for kind in KINDS if isinstance(metric, kind))
    return {**known, "takes": kind.takes}


def _answer(metric: Any, stacks: Sequence[str], prompts: list[str] | None) -> NDArray[np.float64]:
    more = [] if prompts is None else [tuple(prompts)]
    arrays = [np.load(file) for file in stacks]
    return measured(lambda *images: metric(*images, *more), arrays, metric)
