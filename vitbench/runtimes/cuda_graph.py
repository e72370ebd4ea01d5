"""A CUDA graph: the eager module's kernels, recorded once and replayed without the host."""

from __future__ import annotations

from vitbench import devices
from vitbench.devices import Call
from vitbench.instruments import correctness
from vitbench.runtimes import Prepared, Rules, Subject
from vitbench.runtimes.compiled import Watched

RULES = Rules(name="cuda-graph", summary="the eager call, replayed from a CUDA graph")


def refuses(device: str) -> str | None:
    """It needs a device that records graphs."""
    if devices.rules(device).has_graphs:
        return None
    return f"CUDA graphs need a CUDA device, got {device}"


class Recorded(Watched):
    """The eager call, which is recorded when it is about to be timed."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject.calling(subject.runnable))
        self._subject = subject

    def timed(self) -> Call:
        """The replay, which is shown to follow its input."""
        import torch

        device, x = self._subject.device, self._subject.x
        replay, output = device.capture(self.call)
        original = x.detach().clone()
        with torch.no_grad():
            x.copy_(torch.randn_like(original))
        expected = self.call()
        replay()
        device.synchronize()
        errors = correctness.worst_of(
            correctness.tensors_in(output), correctness.tensors_in(expected)
        )
        fault = correctness.fault_of_value(errors, correctness.budget(x.dtype))
        with torch.no_grad():
            x.copy_(original)
        if fault is not None:
            raise correctness.WrongOutput(f"replayed from a CUDA graph on a new input, {fault}")
        super().timed()
        return replay


def prepare(subject: Subject) -> Prepared:
    """The eager call; the graph is recorded last, since all else is read from that call."""
    return Recorded(subject)
