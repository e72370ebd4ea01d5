"""How a CUDA graph is recorded, over a stand-in for torch.cuda."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitbench import devices
from vitbench.devices import cuda


class Recording:
    """torch.cuda, as far as a graph is recorded.

    wait    the call waits for the device
    fault   what is raised where the call is recorded
    """

    def __init__(self, *, waits: bool = False, fault: Exception | None = None) -> None:
        self.waits, self.fault = waits, fault
        self.mode, self.streams, self.records = 0, ["current"], False
        self.ran_on: list[tuple[str, bool]] = []

    def call(self) -> str:
        """What is recorded."""
        self.ran_on.append((self.streams[-1], self.records))
        if self.waits and self.mode:
            raise RuntimeError("called a synchronizing CUDA operation")
        if self.records and self.fault is not None:
            raise self.fault
        return "the output"

    @contextlib.contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.streams.append(stream.name)
        yield
        self.streams.pop()

    @contextlib.contextmanager
    def graph(self, graph: Any, stream: Any) -> Iterator[None]:
        assert self.streams[-1] == stream.name
        self.records = True
        try:
            yield
        except Exception:
            raise torch.AcceleratorError("a recording was ended that is invalid") from None
        finally:
            self.records = False

    def set_sync_debug_mode(self, mode: int | str) -> None:
        self.mode = 2 if mode == "error" else int(mode)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In place of torch.cuda's own."""
        graph = SimpleNamespace(replay=lambda: None, pool=lambda: (0, 1))
        segments = {(0, 1): [{"total_size": 2**21}, {"total_size": 20 * 2**20}]}
        stream = SimpleNamespace(name="recording", wait_stream=lambda _: None)
        stand_ins: dict[str, Any] = {
            "CUDAGraph": lambda: graph,
            "Stream": lambda _: stream,
            "current_stream": lambda _: stream,
            "stream": self.stream,
            "graph": self.graph,
            "get_sync_debug_mode": lambda: self.mode,
            "set_sync_debug_mode": self.set_sync_debug_mode,
            "memory_snapshot": lambda pool, *, include_traces: segments[pool],
            "synchronize": lambda _: None,
            "empty_cache": lambda: None,
            "memory_allocated": lambda _: 1000,
            "reset_peak_memory_stats": lambda _: None,
            "max_memory_allocated": lambda _: 1000 + 512 * self.records_made(),
            "max_memory_reserved": lambda _: 2**21,
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def records_made(self) -> int:
        """How often the call was recorded."""
        return sum(recorded for _, recorded in self.ran_on)


def test_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded where the call ran before, and says by how much memory rose and what it
    keeps."""
    recording = Recording()
    recording.install(monkeypatch)
    graph = cuda.Device("cuda").capture(recording.call)
    assert graph.output == "the output"
    assert (graph.peak_bytes, graph.pool_bytes) == (512, 22 * 2**20)
    assert {stream for stream, _ in recording.ran_on} == {"recording"}
    assert [recorded for _, recorded in recording.ran_on] == [False, False, False, True]
    assert (recording.mode, recording.streams) == (0, ["current"])


def test_a_call_that_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before it is recorded, and torch is as it was."""
    recording = Recording(waits=True)
    recording.install(monkeypatch)
    with pytest.raises(devices.NotRecordable, match="called a synchronizing CUDA operation"):
        cuda.Device("cuda").capture(recording.call)
    assert not recording.records_made()
    assert (recording.mode, recording.records) == (0, False)


@pytest.mark.parametrize(
    ("fault", "raised"),
    [
        (torch.AcceleratorError("operation not permitted"), devices.NotRecordable),
        (RuntimeError("operation not permitted"), devices.NotRecordable),
        (torch.OutOfMemoryError("operation not permitted"), torch.OutOfMemoryError),
        (ValueError("operation not permitted"), devices.NotRecordable),
    ],
    ids=repr,
)
def test_a_recording_that_fails(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, raised: type[Exception]
) -> None:
    """It cannot be recorded, for the first reason and not for that with which torch ends the
    recording; memory that ran out stays that."""
    recording = Recording(fault=fault)
    recording.install(monkeypatch)
    with pytest.raises(raised, match="operation not permitted"):
        cuda.Device("cuda").capture(recording.call)
