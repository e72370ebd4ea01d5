"""How a call is recorded as a CUDA graph."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from vitbench import devices
from vitbench.devices import Call, Device, Graph, NotRecordable
from vitbench.errors import first_line


def capture(device: Device, stream: Any, call: Call) -> Graph:
    """The call runs before on the stream on which it is recorded, one for all cases: so the
    workspaces that libraries keep for a stream are there, and in no graph.

    Before it is recorded torch is asked to raise where the call waits for the device. A recording
    that breaks off there would leave the process in an unknown state.
    """
    graph, outputs, faults = torch.cuda.CUDAGraph(), list[Any](), list[Exception]()

    def record() -> None:
        with torch.cuda.graph(graph, stream=stream):
            try:
                outputs.append(call())
            except Exception as fault:  # torch ends the recording with an error of its own
                faults.append(fault)
                raise

    current = torch.cuda.current_stream(device.target)
    stream.wait_stream(current)
    # A recording that fails does not set the stream back itself.
    with torch.cuda.stream(stream):
        call()
        call()
        try:
            with _raising_where_it_waits():
                call()
            memory = device.memory(record, 0)
        # The call ran before: what it raises now, it raises because it is recorded.
        except Exception as error:
            fault = faults[0] if faults else error
            if devices.is_out_of_memory(fault):
                raise fault from None
            raise NotRecordable(first_line(fault)) from fault
    current.wait_stream(stream)
    segments = torch.cuda.memory_snapshot(graph.pool(), include_traces=False)
    pool_bytes = sum(segment["total_size"] for segment in segments)
    return Graph(graph.replay, outputs[0], memory.activation, pool_bytes)


@contextlib.contextmanager
def _raising_where_it_waits() -> Iterator[None]:
    """While this lasts, torch raises a RuntimeError where the host would wait for the device."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)
