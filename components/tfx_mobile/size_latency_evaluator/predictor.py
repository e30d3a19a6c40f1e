"""Predicting with TFLite files in a process of their own, so that one that crashes costs only itself.

The process loads all files and is given batches of rows. The file that takes it down, or takes too long, is
named and has failed; a new process goes on with the others, and the batch loses nothing. The process's side
is prediction_worker.py. Knows nothing of where rows come from or what predictions are for.
"""

import contextlib
import fcntl
import json
import os
import pickle
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfx_mobile.common import worker
from tfx_mobile.size_latency_evaluator.prediction_worker import ANSWER, ORDER

Columns = Mapping[str, npt.NDArray[Any]]
Features = Mapping[str, tuple[Any, tuple[int, ...]]]
Outputs = dict[str, npt.NDArray[np.float32]]

_START = (
    "import sys; sys.path[:] = sys.argv[1:]; "
    "from tfx_mobile.size_latency_evaluator import prediction_worker; prediction_worker.main()"
)
_START_SECONDS = 120.0
_TAIL_BYTES = 2**16
_PIPE_BYTES = 2**20
_F_SETPIPE_SZ = 1031  # Linux's; Python before 3.10 and other systems have no name for it
_MAX_UNEXPLAINED = 2


class Predictor:
    """Some TFLite files, loaded in a process of their own; for one thread at a time.

    The process starts at once and loads in the background: `features` and `predict` wait for it.

    Args:
      paths: By name, the files. Where two take a feature differently, the one that comes first is right.
      outputs: Names that each file's outputs must have among them.
      batch_size: Rows per invocation.
      timeout_seconds: A file may take so long to load, or to predict with the rows of one call.

    Attributes:
      failures: By name, why a file has failed; it only grows.
    """

    def __init__(
        self,
        paths: Mapping[str, Path],
        *,
        outputs: Sequence[str] = (),
        batch_size: int,
        timeout_seconds: float,
    ) -> None:
        self.failures: dict[str, str] = {}
        self._outputs = tuple(outputs)
        self._paths, self._batch_size, self._timeout_seconds = dict(paths), batch_size, timeout_seconds
        self._inputs: dict[str, dict[str, tuple[Any, tuple[int, ...]]]] = {}
        self._features: dict[str, tuple[Any, tuple[int, ...]]] | None = None
        self._is_loaded = False
        self._unexplained = 0
        self._process: _Process | None = self._start() if paths else None

    @property
    def names(self) -> tuple[str, ...]:
        """The files that have not failed, in the order given."""
        return tuple(name for name in self._paths if name not in self.failures)

    def features(self) -> Features:
        """Returns what the files take, by name: NumPy dtype (np.bytes_ for strings) and shape of one row.

        Every file is called once, on zeros, before this returns; one that cannot be has failed, and so has
        one that takes a feature otherwise than a file before it.
        """
        while self._features is None:
            with self._blaming():
                self._load()
                self._features = {}
                for name in self.names:
                    self._agree(name, self._features)
        return self._features

    def takes(self, name: str) -> tuple[str, ...]:
        """Returns the features that a file takes; none of one that could not be loaded."""
        return tuple(self._inputs.get(name, ()))

    def predict(self, columns: Columns) -> dict[str, Outputs]:
        """Returns the predictions of each file that has not failed, now or before.

        Args:
          columns: By feature, shape (rows, *row_shape), at least one row; with all that `features` names.

        Returns:
          By name and output, shape (rows, width).
        """
        self.features()
        found: dict[str, Outputs] = {}
        while left := [name for name in self.names if name not in found]:
            with self._blaming():
                process = self._load()
                if process is not None:
                    process.send({"predict": left, "columns": columns, "batch_size": self._batch_size})
                    for name, head, values in process.answers(left, self._timeout_seconds):
                        if "error" in head:
                            self.failures[name] = head["error"]
                        else:
                            found[name] = _outputs(head["shapes"], values)
        return found

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.close()
        self._process, self._is_loaded = None, False

    def _start(self) -> "_Process":
        process = _Process()
        process.send({"load": {name: str(self._paths[name]) for name in self.names}})
        return process

    def _load(self) -> "_Process | None":
        """Returns a process that has loaded the files; None if there are none left."""
        if not self._is_loaded and self.names:
            if self._process is None:
                self._process = self._start()
            for name, head, _ in self._process.answers(self.names, self._timeout_seconds):
                if "error" in head:
                    self.failures[name] = head["error"]
                elif absent := sorted(set(self._outputs) - set(head["outputs"])):
                    self.failures[name] = (
                        f"It has no output {', '.join(map(repr, absent))}; it has "
                        f"{', '.join(map(repr, head['outputs']))}."
                    )
                else:
                    self._inputs[name] = {
                        feature: (np.bytes_ if dtype == "S" else np.dtype(dtype), tuple(shape))
                        for feature, (dtype, shape) in head["inputs"].items()
                    }
            self._is_loaded = True
        return self._process

    def _agree(self, name: str, features: dict[str, tuple[Any, tuple[int, ...]]]) -> None:
        """Adds what a file takes, unless it takes it otherwise than those before it."""
        joined = {}
        for feature, (dtype, shape) in self._inputs[name].items():
            known_dtype, known_shape = features.get(feature, (dtype, shape))
            if known_shape != shape or (known_dtype is np.bytes_) != (dtype is np.bytes_):
                self.failures[name] = (
                    f"It takes feature {feature!r} as {np.dtype(dtype)} {list(shape)}, others as "
                    f"{np.dtype(known_dtype)} {list(known_shape)}."
                )
                return
            joined[feature] = (dtype if dtype is np.bytes_ else np.result_type(known_dtype, dtype), shape)
        features |= joined

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        """Notes which file took the process down; the caller tries again with the others."""
        try:
            yield
        except _LostError as lost:
            self.close()
            said = f" It wrote: {lost.last_words}" if lost.last_words else ""
            if lost.busy_with:
                self.failures[lost.busy_with] = f"The measuring process {lost} while it ran this file.{said}"
                return
            self._unexplained += 1
            if self._unexplained >= _MAX_UNEXPLAINED:  # no try without one of the files would go better
                self.failures |= dict.fromkeys(self.names, f"The measuring process {lost}.{said}")


class _LostError(Exception):
    """A process cannot be used any more.

    Args:
      how: For example 'died with SIGSEGV'.
      busy_with: The file it was running; empty if none.
      last_words: The last line of its standard error.
    """

    def __init__(self, how: str, busy_with: str, last_words: str) -> None:
        super().__init__(how)
        self.busy_with, self.last_words = busy_with, last_words


class _Process:
    """The pipes to and from one process."""

    def __init__(self) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close()
        path = [os.path.abspath(entry) for entry in sys.path]
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _START, *path],  # what `site` would add is in the path
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
        )
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # smaller pipes work too
                fcntl.fcntl(pipe, _F_SETPIPE_SZ, _PIPE_BYTES)  # type: ignore[arg-type]
        self._is_started = False

    def send(self, order: Mapping[str, Any]) -> None:
        """Gives the process something to do. That it has ended is noticed when its answers are read."""
        content = pickle.dumps(order, protocol=5)
        with contextlib.suppress(BrokenPipeError):
            for part in (ORDER.pack(len(content)), content):
                left = memoryview(part)
                while left:
                    left = left[self._process.stdin.write(left) :]  # type: ignore[union-attr]

    def answers(
        self, names: Sequence[str], timeout_seconds: float
    ) -> Iterator[tuple[str, dict[str, Any], bytes]]:
        """Yields the answer for each name in turn: name, head and numbers.

        Raises:
          _LostError: The process has ended, or took longer than `timeout_seconds` for one of them.
        """
        if not self._is_started:
            self._answer("", max(timeout_seconds, _START_SECONDS))
            self._is_started = True
        self._answer("", max(timeout_seconds, _START_SECONDS))
        for name in names:
            yield (name, *self._answer(name, timeout_seconds))

    def close(self) -> None:
        """Ends the process and leaves nothing of it."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            stream.close()  # type: ignore[union-attr]

    def _answer(self, busy_with: str, timeout_seconds: float) -> tuple[dict[str, Any], bytes]:
        deadline = time.monotonic() + timeout_seconds
        sizes = ANSWER.unpack(self._read(ANSWER.size, busy_with, deadline, timeout_seconds))
        head, values = (self._read(size, busy_with, deadline, timeout_seconds) for size in sizes)
        return json.loads(head), values

    def _read(self, size: int, busy_with: str, deadline: float, timeout_seconds: float) -> bytes:
        parts = []
        while size:
            pipe = self._process.stdout.fileno()  # type: ignore[union-attr]
            if not select.select([pipe], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise _LostError(f"took longer than {timeout_seconds:g} s", busy_with, self._last_words())
            part = os.read(pipe, size)
            if not part:
                how = worker.describe_end(self._process.wait())
                raise _LostError(how, busy_with, self._last_words())
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def _last_words(self) -> str:
        end = os.fstat(self._errors.fileno()).st_size
        tail = os.pread(self._errors.fileno(), _TAIL_BYTES, max(end - _TAIL_BYTES, 0))
        return worker.last_words(tail.decode(errors="replace"))


def _outputs(shapes: Mapping[str, Sequence[int]], values: bytes) -> Outputs:
    numbers = np.frombuffer(values, "<f4")
    found: Outputs = {}
    begin = 0
    for output, shape in shapes.items():
        end = begin + int(np.prod(shape, dtype=int))
        found[output] = numbers[begin:end].reshape(shape)
        begin = end
    return found
