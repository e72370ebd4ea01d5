"""The clock of a device that works through a queue of launches while the host goes on."""

from __future__ import annotations

from typing import Any, Protocol

from vitbench.devices import Call, Reading

# The device is kept busy for so much longer than the host took to queue the calls, and no longer
# than the second.
_MARGIN = 1.5
_MOST_BUSY_S = 0.1
_LEAST_BUSY_S = 20e-6
# How often a device that was done too early is kept busy for longer, before fewer calls are read.
_LONGER = 3


class Event(Protocol):
    """A moment in the queue."""

    def is_done(self) -> bool:
        """Whether the device has come so far."""

    def seconds_since(self, start: Any) -> float:
        """The device's time from another of its events to this one; both are done."""


class Queue(Protocol):
    """What a device with a queue offers."""

    def event(self) -> Event:
        """An event, queued now."""

    def keep_busy(self, seconds: float) -> None:
        """Queues work that takes about so long."""

    def synchronize(self) -> None:
        """Waits until all that was queued is done."""

    def now(self) -> float:
        """Seconds of the host's clock."""


class Clock:
    """Reads the steady state, and the device's own time beside it.

    Steady state is what a user gets: calls queued one behind another, one wait at the end, and the
    host's time over the number of calls. The device's own time is that between two events, with the
    calls queued behind work that keeps the device busy, so that no gap between launches enters. A
    queue holds a limited number of launches; where it is full the host waits, the work ends, and
    gaps come back. So the first event must still be ahead of the device when all calls are queued;
    if it is not, the device is kept busy for longer, then fewer calls are read, and where even one
    call is too much, or waits for the device itself, there is no device time.

    flush  runs before each sample, outside the time (cold caches)
    """

    def __init__(self, queue: Queue, flush: Call | None = None) -> None:
        self._queue, self.flush = queue, flush
        self._queueing_s = 0.0  # of one call, by the host
        self._most_calls: int | None = None  # that a device time is read from; 0: it cannot be
        self._margin = _MARGIN

    def read(self, call: Call, calls: int) -> Reading:
        """Both times of one call."""
        latency_s = self.latency_s(call, calls)
        return Reading(latency_s, self.device_s(call, calls))

    def latency_s(self, call: Call, calls: int) -> float:
        """Steady state, averaged over so many calls."""
        self._queue.synchronize()
        if self.flush is not None:
            self.flush()
            self._queue.synchronize()
        start_s = self._queue.now()
        for _ in range(calls):
            call()
        self._queueing_s = (self._queue.now() - start_s) / calls
        self._queue.synchronize()
        return (self._queue.now() - start_s) / calls

    def now(self) -> float:
        """Seconds of the host's clock."""
        return self._queue.now()

    def device_s(self, call: Call, calls: int) -> float | None:
        """The device's own time of one call; None where launch gaps cannot be hidden."""
        most = calls if self._most_calls is None else min(calls, self._most_calls)
        while most:
            for _ in range(_LONGER):
                device_s = self._queued_ahead_s(call, most)
                if device_s is not None:
                    self._most_calls = most
                    return device_s
                self._margin *= 2
            self._margin = _MARGIN
            most //= 2
        self._most_calls = 0
        return None

    def _queued_ahead_s(self, call: Call, calls: int) -> float | None:
        """The same, if the first event was still to come when the last call was queued."""
        self._queue.synchronize()
        if self.flush is not None:
            self.flush()
        busy_s = self._margin * self._queueing_s * calls + _LEAST_BUSY_S
        self._queue.keep_busy(min(busy_s, _MOST_BUSY_S))
        start = self._queue.event()
        for _ in range(calls):
            call()
        end = self._queue.event()
        is_ahead = not start.is_done()
        self._queue.synchronize()
        return end.seconds_since(start) / calls if is_ahead else None
