"""Runtimes of GPUs on the simulated accelerator: a simulated TensorRT, and ONNX Runtime's CUDA
provider, whose operators the CPU computes."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch

from tests.simulated import VARIABLE, installed
from tests.vitbench.examples import case, read_csv
from vitbench import devices, runtimes
from vitbench.__main__ import run
from vitbench.engine import passes
from vitbench.results.folder import artifact_of
from vitbench.results.outcome import Counted, Failed
from vitbench.runtimes import onnxruntime as converting

ODD = {"grid_height": 5, "grid_width": 7, "device": "accelerator"}


@pytest.fixture(autouse=True)
def accelerator(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It is there, and with it the packages of such a machine."""
    with installed(monkeypatch):
        yield
        sys.modules.pop("tensorrt", None)


def counted(folder: Path, runtime: str, dtype: str = "float32") -> Counted | Failed:
    """A case that is converted and read."""
    one = case(runtime=runtime, dtype=dtype, **ODD)
    failed = passes.convert(one, {}, folder)
    if failed is not None:
        return failed
    outcome = passes.measure(one, None, {}, with_facts=True, artifacts=folder)
    assert isinstance(outcome, Counted | Failed)
    return outcome


@pytest.mark.parametrize(
    ("dtype", "error"),
    [
        ("float32", 1e-5),
        pytest.param("float16", 2e-3, marks=pytest.mark.slow),
        ("bfloat16", 2e-2),
    ],
)
def test_an_engine_is_checked_and_described(tmp_path: Path, dtype: str, error: float) -> None:
    """It computes the same function on two inputs, in the dtype of the case, which the engine
    tells; its memory is the weights, input and output, and what its context takes."""
    outcome = counted(tmp_path / "artifacts", "tensorrt", dtype)
    assert isinstance(outcome, Counted), outcome
    found = outcome.facts.columns
    assert found["checked_against"] == "eager float64"
    assert 0 < found["error_rms"] < error
    assert found["computed_dtype"] == dtype
    assert found["fallback_share"] == 0
    assert found["runtime_version"] == "11.4.0.simulated"
    assert found["memory_source"] == "runtime"
    bytes_each = getattr(torch, dtype).itemsize
    map_bytes = 2 * 5 * 7 * 32 * bytes_each
    weight_bytes = (4 * 32 * 32 + 4 * 32) * bytes_each
    assert found["activation_memory_bytes"] == map_bytes + 4096
    assert found["peak_memory_bytes"] == weight_bytes + 2 * map_bytes + 4096
    file = tmp_path / found["artifact"]
    assert file.name == "model.engine"
    assert found["artifact_bytes"] == file.stat().st_size
    assert not found["notes"]


def test_products_of_fp32_are_as_the_device_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """TensorRT rounds them to TF32 unless it is told not to; an engine that was not asked to tell
    of its layers leaves the dtype to the case."""
    device = devices.connect("accelerator")
    for tf32 in (False, True):
        monkeypatch.setattr(type(device), "uses_tf32", lambda self, tf32=tf32: tf32)
        folder = tmp_path / str(tf32)
        one = case(runtime="tensorrt", **ODD)
        assert passes.convert(one, {}, folder) is None
        head = (artifact_of(one, folder) / "model.engine").read_bytes().split(b"\n")[1]
        assert json.loads(head) == {"tf32": tf32, "detailed": True}


def test_what_fails_in_tensorrt_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator that the parser does not know, an engine that cannot be built, one that cannot
    be loaded, a context that does not fit, and a call that cannot be queued: the row has the first
    reason that TensorRT gives, and no artifact is left of a conversion that failed."""
    tensorrt = importlib.import_module("tensorrt")

    def message(folder: str) -> str:
        outcome = counted(tmp_path / folder, "tensorrt")
        assert isinstance(outcome, Failed)
        assert outcome.kind in ("error", "out_of_memory")
        return outcome.message

    with monkeypatch.context() as patch:
        patch.setattr(tensorrt, "UNKNOWN_OPERATORS", {"Softmax", "MatMul"})
        found = message("parsed")
        assert found.startswith("RuntimeError: TensorRT cannot parse the module; No importer reg")
        assert list((tmp_path / "parsed").glob("*[!t]")) == []
    with monkeypatch.context() as patch:
        patch.setattr(tensorrt.OnnxParser, "parse_from_file", lambda self, model: True)
        assert message("built").endswith("TensorRT builds no engine; the network has no layers")

    def no_memory(engine: Any) -> None:
        tensorrt._fail(engine.logger, "Error Code 1: Cuda Runtime (out of memory)")

    with monkeypatch.context() as patch:
        patch.setattr(tensorrt.Engine, "create_execution_context", no_memory)
        assert "Cuda Runtime (out of memory)" in message("context")
        outcome = counted(tmp_path / "context", "tensorrt")
        assert isinstance(outcome, Failed)
        assert outcome.kind == "out_of_memory"
    with monkeypatch.context() as patch:
        patch.setattr(tensorrt.Context, "execute_async_v3", lambda self, stream_handle: False)
        assert message("context").endswith("TensorRT cannot queue a call")

    def cut(subject: runtimes.Subject, folder: Path) -> Mapping[str, Any]:
        (folder / "model.engine").write_bytes(b"cut")
        return {}

    with monkeypatch.context() as patch:
        patch.setattr(runtimes.converting()["tensorrt"], "convert", cut)
        assert "cannot load the engine; Error Code 1: Serialization" in message("cut")


@pytest.mark.slow
def test_a_run_with_an_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through the real command: converted once, timed in order with the device's other work, and
    resumed. The device's clock sees the one launch of an engine."""
    monkeypatch.setenv(VARIABLE, json.dumps({"kernel_s": 1e-4}))
    size = "--resolution 64 --dim 32 --heads 2 --batch-size 2 --device accelerator"
    words = f"run quick --attention msa --runtime eager,tensorrt --dtype float16 {size}"
    out = ["--effort", "quick", "--rounds", "2", "--out", str(tmp_path / "run")]
    assert run([*words.split(), *out]) == 0
    rows = {row["runtime"]: row for row in read_csv(tmp_path / "run" / "records.csv")}
    assert {row["status"] for row in rows.values()} == {"measured"}
    engine = rows["tensorrt"]
    assert float(engine["device_latency_s"]) == pytest.approx(1e-4, rel=0.05)
    assert float(engine["latency_s"]) == pytest.approx(1e-4, rel=0.05)
    assert (engine["computed_dtype"], engine["memory_source"]) == ("float16", "runtime")
    assert float(engine["conversion_s"]) > 0
    assert engine["artifact"].endswith("model.engine")


def test_torch_and_a_side_stream_are_in_order() -> None:
    """A call on it waits for what torch queued before, and torch for the call, with no wait of the
    host; the stream is not the default one."""
    device = devices.connect("accelerator")
    stream, queue = device.side_stream(), getattr(device, "simulated").queue  # noqa: B009 - a test's
    assert stream.handle
    ended: list[float] = []

    def work() -> None:
        assert stream._stream.waits_for._event.at_s == queue.device_s
        queue.launch(1e-3)
        ended.append(queue.device_s)

    queue.launch(1e-3)
    stream.joined(work)()
    assert stream._torchs.waits_for._event.at_s == ended[0]
    assert queue.host_s < queue.device_s


class Session:
    """ONNX Runtime's session where there is a CUDA provider; the CPU's computes for it.

    taken  operators that the CUDA provider takes
    """

    made: list[Session]
    taken: Sequence[str] = ()

    def __init__(self, file: Path, options: Any, providers: Sequence[tuple[str, Any]]) -> None:
        self.providers, self.runs = providers, list[dict[str, str]]()
        self._session = onnxruntime.InferenceSession(file, options, providers=[providers[-1]])
        self.made.append(self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run_with_iobinding(self, binding: Any, run_options: Any) -> None:
        name = "disable_synchronize_execution_providers"
        self.runs.append({name: run_options.get_run_config_entry(name)})
        self._session.run_with_iobinding(binding)

    def get_provider_graph_assignment_info(self) -> list[Any]:
        groups = []
        for group in self._session.get_provider_graph_assignment_info():
            for node in group.get_nodes():
                cuda = node.op_type in self.taken and self.providers[0][0] != group.ep_name
                name = "CUDAExecutionProvider" if cuda else group.ep_name
                groups.append(SimpleNamespace(ep_name=name, get_nodes=lambda node=node: [node]))
        return groups


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The session of an onnxruntime that has the CUDA provider."""
    stand_in = SimpleNamespace(**vars(onnxruntime))
    stand_in.InferenceSession = Session
    stand_in.get_available_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setitem(sys.modules, "onnxruntime", stand_in)
    monkeypatch.setattr(Session, "made", [], raising=False)
    return Session


def test_onnx_runtime_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, session: Any
) -> None:
    """On torch's device, in order with its stream, waiting at the end of no call, with TF32 as the
    device says; what the CPU takes of it is told, and its memory is not known."""
    monkeypatch.setattr(session, "taken", ("MatMul", "Gemm", "Softmax"))
    outcome = counted(tmp_path, "onnxruntime")
    assert isinstance(outcome, Counted), outcome
    (made,) = session.made
    (name, options), (last, _) = made.providers
    assert (name, last) == ("CUDAExecutionProvider", "CPUExecutionProvider")
    assert options == {"device_id": "0", "user_compute_stream": "1", "use_tf32": "0"}
    assert made.runs
    assert {*made.runs[0].values()} == {"1"}
    found = outcome.facts.columns
    assert found["error_rms"] < 1e-5
    nodes = made.get_provider_graph_assignment_info()
    left = [node for node in nodes if node.ep_name == "CPUExecutionProvider"]
    assert 0 < len(left) < len(nodes)
    assert found["fallback_share"] == pytest.approx(len(left) / len(nodes))
    assert found.get("memory_source", "") == ""
    assert found.get("peak_memory_bytes") is None


def test_a_provider_that_takes_nothing_is_none(tmp_path: Path, session: Any) -> None:
    """The CPU would compute all of it in the GPU's name: the case is unsupported."""
    outcome = counted(tmp_path, "onnxruntime")
    assert isinstance(outcome, Failed)
    assert outcome.kind == "unsupported"
    assert "CUDAExecutionProvider takes none of its operators" in outcome.message


def test_a_model_without_operators_leaves_none() -> None:
    """There is nothing that a provider could have taken, or left."""
    empty = SimpleNamespace(get_provider_graph_assignment_info=list)
    assert converting._left_share(empty, "CUDAExecutionProvider") == 0


def test_a_package_without_the_provider(tmp_path: Path) -> None:
    """The onnxruntime of the CPU is not that of a GPU: a sentence with the remedy, before anything
    is converted."""
    outcome = counted(tmp_path, "onnxruntime")
    assert isinstance(outcome, Failed)
    assert outcome.kind == "unsupported"
    assert outcome.message.endswith("pip install onnxruntime-gpu")
    assert list(tmp_path.glob("*/*.onnx")) == []


def test_tensorrt_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own extra installs it."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert str(runtimes.missing("tensorrt", "float32")).endswith("pip install 'vitbench[tensorrt]'")
