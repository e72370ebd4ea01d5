"""Real Ray, on this machine: a cluster of several nodes, whose workers answer at once."""

from __future__ import annotations

import functools
import http.server
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.examples import (
    MARK,
    ROOT,
    case,
    left_behind,
    plan,
    plugin,
    read_csv,
    vitbench,
)
from tests.vitbench.fleet.machines import Host, KnownWorker
from vitbench.__main__ import run as command
from vitbench.cases import plan as plans
from vitbench.errors import BadInput
from vitbench.fleet import cluster, runs
from vitbench.fleet.cluster import RayCluster
from vitbench.results import journal
from vitbench.results.folder import JOURNAL, RECORDS

PLAN = plans.with_control(plan(*(case(batch_size=size) for size in range(1, 7)), rounds=2))


def known(address: str, device: str = "cpu", **host: Any) -> RayCluster:
    """Nodes with workers that answer at once."""
    worker = functools.partial(KnownWorker, host=Host("any", **host))
    return RayCluster(address, device, ["torch"], worker)


@pytest.fixture
def ray_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A head and a node of a CPU each, and a node that says it has two GPUs."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    from ray.cluster_utils import Cluster

    started: Any = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "include_dashboard": False, "object_store_memory": 2**27},
    )
    try:
        started.add_node(num_cpus=1, num_gpus=2, object_store_memory=2**27)
        yield started
    finally:
        started.shutdown()


def test_nodes_of_ray_share_a_run(ray_cluster: Any, tmp_path: Path) -> None:
    """Each node measures some of it, alone on its CPUs. Two GPUs of a node are two nodes. A cluster
    without the device is refused, and so is a device's number.
    """
    address = ray_cluster.address
    with cluster.connected(address, "auto", ["torch"]) as fleet:
        assert fleet.device == "cuda"
        assert [offer.node[-2:] for offer in fleet.survey()] == ["/0", "/1"]
        with pytest.raises(BadInput, match="no node has a MPS device; there are: CPU 2, GPU 2"):
            known(address, "mps")
        with pytest.raises(BadInput, match="does not go with --fleet, where Ray reserves devices"):
            known(address, "cuda:1")
        mine = known(address)
        offers = mine.survey()
        assert len({offer.node for offer in offers}) == len(offers) == 2
        done = runs.measure(PLAN, tmp_path / "run", mine)
        run = done[tmp_path / "run"]
        assert len(run.outcomes) == 12
        assert {*run.node_of.values()} <= {offer.node for offer in offers}
        assert run.node_spread() == 0


def test_addresses_where_no_ray_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One sentence each, and no folder: no address, a port where nothing listens, options that
    exclude each other, and a Python without Ray."""
    monkeypatch.chdir(tmp_path)
    port = free_port()
    for words, sentence in (
        (
            ["--fleet", "somewhere"],
            "--fleet is local, auto, ray://HOST:10001 or",
        ),
        (["--fleet", f"ray://127.0.0.1:{port}"], f"nothing answers at 127.0.0.1:{port}: "),
        (["--fleet", "local", "--shard", "1/2"], "give it or --fleet, not both"),
        (["--fleet", "local", "--budget", "10m"], "--budget is for one machine"),
        (["--fleet", "local", "--spread", "all"], "--spread is share or each, got 'all'"),
        (["--spread", "each"], "is for the nodes of a fleet: give --fleet too"),
        (["--fleet", "local", "--memory-limit", "none"], "does not go with --fleet"),
    ):
        assert command(["run", *words]) == 2
        assert sentence in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert command(["run", "--fleet", "local"]) == 2
    assert "--fleet needs Ray: pip install 'vitbench[fleet]'" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_address_where_something_else_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A web server, and a server that says nothing: one sentence, in seconds, and no folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cluster, "_PROBE_S", 1.0)
    web = http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    thread = threading.Thread(target=web.serve_forever, daemon=True)
    thread.start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for address in (
            f"ray://127.0.0.1:{web.server_port}",
            f"127.0.0.1:{silent.getsockname()[1]}",
        ):
            assert command(["run", "--fleet", address]) == 2
            assert "is no Ray cluster: `ray start --head`" in capsys.readouterr().err
    web.shutdown()
    web.server_close()
    thread.join()
    assert not list(tmp_path.iterdir())


def test_a_folder_that_holds_a_run_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before a connection is tried, which takes a while."""
    journal.create(tmp_path, plan(case())).close()
    address = f"ray://127.0.0.1:{free_port()}"
    assert command(["run", "--fleet", address, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert f"{tmp_path} already holds a run; continue it with --resume" in error


@pytest.mark.parametrize(
    ("resources", "facts", "kind"),
    [
        ({"CPU": 8.0, "vitbench_kind:Lab A": 1.0}, {"model": "AMD EPYC 9B14"}, "lab-a"),
        ({"GPU": 8.0, "accelerator_type:H100": 1.0}, {"model": "AMD EPYC 9B14"}, "h100"),
        ({"CPU": 8.0}, {"model": "AMD EPYC 9B14"}, "amd-epyc-9b14"),
        ({"CPU": 8.0}, "no vitbench there", "unknown"),
    ],
)
def test_kinds_of_nodes(resources: dict[str, float], facts: Any, kind: str) -> None:
    """A custom resource comes first, then Ray's type of accelerator, then the CPU's model."""
    assert cluster.kind_of(resources, facts) == kind


LAYER = "--attention msa --resolution 32,64 --dim 32 --heads 2 --batch-size 1 --effort quick"


@pytest.mark.slow
def test_a_fleet_of_this_machine(tmp_path: Path) -> None:
    """The real command with real workers: what would be measured, a run, and its rows; continuing
    it changes nothing."""
    words = ["run", *LAYER.split(), "--cap", "0.2", "--fleet", "local", "--out", "run"]
    dry = vitbench(tmp_path, *words, "--dry-run", PYTHONPATH=str(ROOT))
    assert dry.returncode == 0, dry.stderr
    assert "2 cases on cpu, 2 rounds" in dry.stdout
    assert not (tmp_path / "run").exists()
    done = vitbench(tmp_path, *words, "--quiet", PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr
    rows = read_csv(tmp_path / "run" / RECORDS)
    assert [row["status"] for row in rows] == ["measured"] * 2
    assert all(row["node"] for row in rows)
    again = vitbench(tmp_path, "run", "--resume", "run", "--fleet", "local", PYTHONPATH=str(ROOT))
    assert again.returncode == 0, again.stderr
    assert read_csv(tmp_path / "run" / RECORDS) == rows


@pytest.mark.slow
def test_ctrl_c_over_the_client(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From outside of the cluster, with real workers and a plugin, converted for OpenVINO: Ctrl-C
    ends the actors and the workers, and leaves what there is; the run goes on from there, and what
    was converted is in its folder.
    """
    mark = uuid.uuid4().hex
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as in the background
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv(MARK, mark)
    from ray.cluster_utils import Cluster

    port = free_port()
    arguments = {"num_cpus": 1, "include_dashboard": False, "ray_client_server_port": port}
    started: Any = Cluster(initialize_head=True, head_node_args=arguments)
    monkeypatch.delenv(MARK)
    fleet = ["--fleet", f"ray://127.0.0.1:{port}"]
    mine = plugin(tmp_path, "mine")
    words = f"run --plugin {mine} --attention mine,msa --runtime eager,openvino --resolution 64"
    words += " --dim 32 --heads 2 --batch-size 1 --effort quick --cap 0.2 --quiet --out run"
    try:
        run = [sys.executable, "-m", "vitbench", *words.split(), *fleet]
        process = subprocess.Popen(run, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not has_outcome(tmp_path / "run" / JOURNAL):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, text = process.communicate()
        assert process.returncode == 130, text
        assert f"vitbench run --resume run {' '.join(fleet)}" in text
        assert [name for name in left_behind(mark) if "vitbench.engine.worker" in name] == []
        before = len(journal.read(tmp_path / "run").outcomes)
        assert 0 < before < 8
        done = vitbench(tmp_path, "run", "--resume", "run", *fleet)
        assert done.returncode == 0, done.stderr
    finally:
        signal.signal(signal.SIGINT, ignored)
        started.shutdown()
    run_again = journal.read(tmp_path / "run")
    assert len(run_again.outcomes) == 8
    rows = read_csv(tmp_path / "run" / RECORDS)
    assert {row["status"] for row in rows} == {"measured"}
    artifacts = [row["artifact"] for row in rows if row["runtime"] == "openvino"]
    assert all((tmp_path / "run" / artifact).exists() for artifact in artifacts)
    assert len(artifacts) == 2


def has_outcome(file: Path) -> bool:
    """Whether a journal is there, and has one."""
    return file.exists() and '"event": "outcome"' in file.read_text()


def free_port() -> int:
    """One at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_one_machine_needs_no_ray() -> None:
    """A run without --fleet imports neither Ray nor what uses it."""
    code = (
        "import sys; from vitbench.__main__ import run; status = run(sys.argv[1:]); "
        "print('ray' in sys.modules, any(n.startswith('vitbench.fleet') for n in sys.modules))"
    )
    words = [sys.executable, "-c", code, "run", *LAYER.split(), "--device", "cpu", "--dry-run"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "False False", done.stderr


@pytest.mark.slow
def test_another_version_of_ray(
    ray_cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is refused in a sentence."""
    import ray

    monkeypatch.setattr(ray, "__version__", "1.0.0")
    with (
        pytest.raises(BadInput, match=r"no cluster of Ray 1\.0\.0 answers there: Version mismatch"),
        cluster.connected(ray_cluster.address, "cpu", []),
    ):
        pass
