"""A file that kills the first process that reads it half way, and serves everybody after that."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path


class DeadlyFile:
    """A named pipe in the place of a file.

    Args:
      path: A file; its content is served.
      spare: Tells of a process id whether it must not be killed.

    Attributes:
      killed: Process ids of readers that were killed half way.
      served: How often the whole content was read.
    """

    def __init__(self, path: Path, spare: Callable[[int], bool]) -> None:
        self.killed: list[int] = []
        self.served = 0
        self._path, self._content, self._spare = path, path.read_bytes(), spare
        self._ended = threading.Event()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Puts the pipe where the file is, until the block ends."""
        self._path.unlink()
        os.mkfifo(self._path)
        thread = threading.Thread(target=self._serve, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            with contextlib.suppress(OSError):
                os.close(os.open(self._path, os.O_RDONLY | os.O_NONBLOCK))  # lets the thread go on and end
            thread.join(10)
            self._path.unlink()
            self._path.write_bytes(self._content)

    def _serve(self) -> None:
        while True:
            handle = os.open(self._path, os.O_WRONLY)  # waits for a reader
            try:
                if self._ended.is_set():
                    return
                self._write(handle)
            except BrokenPipeError:
                pass
            finally:
                os.close(handle)
            while (
                self._readers() and not self._ended.is_set()
            ):  # who would read it twice, or never see its end
                time.sleep(0.02)

    def _write(self, handle: int) -> None:
        half = len(self._content) // 2
        os.write(handle, self._content[:half])
        victims = [] if self.killed else [pid for pid in self._readers() if not self._spare(pid)]
        for pid in victims:
            os.kill(pid, signal.SIGKILL)
            self.killed.append(pid)
        if not victims:
            with open(handle, "wb", closefd=False) as stream:
                stream.write(self._content[half:])
            self.served += 1

    def _readers(self) -> list[int]:
        """Returns who has the pipe open, but for this process."""
        found = set()
        for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()]:
            links = []
            with contextlib.suppress(OSError):  # it has ended
                links = os.listdir(f"/proc/{pid}/fd")
            for link in links:
                with contextlib.suppress(OSError):
                    if os.readlink(f"/proc/{pid}/fd/{link}") == str(self._path):
                        found.add(pid)
        return sorted(found - {os.getpid()})
