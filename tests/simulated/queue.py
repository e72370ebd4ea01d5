"""A simulated accelerator: a launch queue over a virtual clock, whose times are known exactly."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from vitbench.devices import Call


@dataclass
class Event:
    """A moment in the queue of a device."""

    queue: VirtualQueue
    at_s: float

    def is_done(self) -> bool:
        self.queue.host_s += self.queue.call_s
        return self.queue.host_s >= self.at_s

    def seconds_since(self, start: Event) -> float:
        assert max(self.at_s, start.at_s) <= self.queue.host_s, "an event that is not done"
        return self.at_s - start.at_s


@dataclass
class Clocks:
    """How fast a device works: its clock as a share of the highest.

    idle         what it has after it was idle
    rise_s       of work, until it has the highest; an idle second takes it back
    power_cap    what its power cap leaves of the highest
    slow_to_s    until then it is too hot, and works at half
    slowed_s     how long it did
    """

    idle: float = 1.0
    rise_s: float = 0.0
    power_cap: float = 1.0
    slow_to_s: float = 0.0
    slowed_s: float = 0.0
    _worked_s: float = 0.0

    def share(self, at_s: float) -> float:
        risen = min(1.0, self._worked_s / self.rise_s) if self.rise_s else 1.0
        share = min(self.power_cap, self.idle + risen * (1 - self.idle))
        return share / 2 if self.is_slow(at_s) else share

    def is_slow(self, at_s: float) -> bool:
        return at_s < self.slow_to_s

    def work(self, seconds: float, idle_s: float, at_s: float) -> None:
        """It was idle, and then worked for so long."""
        self.slowed_s += seconds * self.is_slow(at_s)
        self._worked_s = seconds + (self._worked_s if idle_s < 1 else 0.0)


@dataclass
class VirtualQueue:
    """A device and its host. Seconds.

    launch_s  the host takes for a launch
    call_s    the host takes for any other call of the driver
    holds     launches that are queued at most: one more makes the host wait
    rate      how many times the asked time `keep_busy` takes
    clocks    of the device: kernels take their time at the highest
    """

    launch_s: float = 4e-6
    call_s: float = 1e-6
    holds: int = 1024
    rate: float = 1.0
    clocks: Clocks = field(default_factory=Clocks)
    host_s: float = 0.0
    device_s: float = 0.0
    busy_s: float = 0.0
    launches: int = 0
    _ends: deque[float] = field(default_factory=deque)

    def launch(self, kernel_s: float) -> None:
        """Queues a kernel that takes so long."""
        self.launches += 1
        self.host_s += self.launch_s
        while self._ends and self._ends[0] <= self.host_s:
            self._ends.popleft()
        if len(self._ends) >= self.holds:
            self.host_s = self._ends.popleft()
        begins_s = max(self.device_s, self.host_s)
        takes_s = kernel_s / self.clocks.share(begins_s)
        self.clocks.work(takes_s, begins_s - self.device_s, begins_s)
        self.busy_s += takes_s
        self.device_s = begins_s + takes_s
        self._ends.append(self.device_s)

    def synchronize(self) -> None:
        self.host_s = max(self.host_s + self.call_s, self.device_s)
        self._ends.clear()

    def event(self) -> Event:
        self.launch(0.0)
        return Event(self, self.device_s)

    def keep_busy(self, seconds: float) -> None:
        self.launch(self.rate * seconds)

    def now(self) -> float:
        return self.host_s

    def wait(self, seconds: float) -> None:
        """The host sleeps."""
        self.host_s += seconds

    def call_of(self, kernels_s: Sequence[float], *, waits: bool = False) -> Call:
        """A call that launches these kernels, and may wait for them as `.item()` does."""

        def call() -> None:
            for kernel_s in kernels_s:
                self.launch(kernel_s)
            if waits:
                self.synchronize()

        return call
