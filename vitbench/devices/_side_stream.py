"""A stream beside torch's own, for a library that queues its work itself."""

from __future__ import annotations

from typing import Any

from vitbench.devices import Call


class SideStream:
    """What is queued there is in order with what torch queues, before and after it.

    torch's own stream is the default one, for which such libraries wait after each launch.

    handle  of the stream, as CUDA's libraries take it
    """

    def __init__(self, backend: Any, target: Any) -> None:
        self._torchs, self._stream = backend.current_stream(target), backend.Stream(target)
        self._before, self._after = backend.Event(), backend.Event()
        self.handle: int = self._stream.cuda_stream

    def joined(self, work: Call) -> Call:
        """A call of the work, which queues on this stream: the device does it after all that torch
        queued before, and what torch queues next waits for it. The host does not wait."""

        def call() -> Any:
            self._before.record(self._torchs)
            self._stream.wait_event(self._before)
            result = work()
            self._after.record(self._stream)
            self._torchs.wait_event(self._after)
            return result

        return call
