"""From Python: suite and changes -> plan -> run -> rows and charts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import psutil
import pytest

import attentions
import vitbench
from tests.vitbench.examples import BACKBONE, PLUGIN, case, measured, plugin, run_folder
from vitbench.cases import plan as plans
from vitbench.cases import suite
from vitbench.cases.case import Resolution
from vitbench.cases.plan import Plan
from vitbench.engine import planning, pool
from vitbench.engine.messages import Ready
from vitbench.errors import BadInput
from vitbench.instruments import host

QUICK = {"msa", "window", "shifted_window", "sra", "hilo"}


def make_plan(name: str = "quick", **changes: Any) -> Plan:
    """A plan on the CPU, which asks no process for a device."""
    return planning.make_plan(name, **{"device": "cpu", **changes})


def subjects(plan: Plan) -> set[str]:
    """The mechanisms and backbones of a plan."""
    return {case.subject for case in plan.cases}


def test_public_names() -> None:
    """Everything in __all__ can be imported from vitbench, and nothing else by accident."""
    for name in vitbench.__all__:
        assert getattr(vitbench, name) is not None
    assert set(vitbench.__all__) <= set(dir(vitbench))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vitbench.__getattr__("nothing")


def test_a_suite_is_a_plan() -> None:
    """Its cases, its effort's rounds and rule."""
    plan = make_plan()
    rounds = plans.rounds_of("quick", "cpu")
    assert (plan.suite, plan.device, plan.rounds) == ("quick", "cpu", rounds)
    assert subjects(plan) == QUICK
    assert plan.rule == plans.rule_of("quick", "cpu", {})
    assert make_plan(effort="thorough").rounds == plans.rounds_of("thorough", "cpu")
    assert make_plan(rounds=7).rounds == 7


def test_axes_replace_the_suites() -> None:
    """What is given wins, all else is the suite's."""
    plan = make_plan(axes={"attention": ("msa",), "resolution": (Resolution(64, 64),)})
    (one,) = plan.cases
    assert (one.attention, one.image_height, one.dim, one.batch_size) == ("msa", 64, 384, 4)


def test_a_title_is_true_of_its_cases() -> None:
    """The suite's own as long as nothing is changed; the subjects where they are named."""
    suites_own = suite.load("quick").title
    assert make_plan().title == suites_own
    changed = make_plan(axes={"batch_size": (2,)}, params={"hilo": {"alpha": (0.5,)}}).title
    assert changed == f"{suites_own}, with batch size, hyper-parameters as asked"
    named = make_plan(axes={"attention": ("msa", "hilo")}, params={"hilo": {"alpha": (0.5,)}})
    assert named.title == "msa, hilo"
    assert make_plan(axes={"backbone": ("litv2_s", "resnet50")}).title == "litv2_s, resnet50"
    many = make_plan(axes={"attention": tuple(attentions.names())}).title
    assert many.endswith(f" and {len(attentions.names()) - 5} more")


def test_hyper_parameters_join_the_suites() -> None:
    """Those of a mechanism that is left out are left out with it."""
    sizes = {"window": {"window_size": (2, 7)}}
    plan = make_plan("peer-table", axes={"attention": ("window",)}, params=sizes)
    params = [dict(case.params) for case in plan.cases]
    assert [settings["window_size"] for settings in params] == [2, 7]
    assert {settings["relative_position_bias"] for settings in params} == {False}
    assert make_plan("peer-table", axes={"attention": ("msa",)}).cases


def test_settings_reach_the_plan() -> None:
    """Seed, timeout, threads, limit and the fields of the rule."""
    settings: dict[str, Any] = {
        "seed": 3,
        "timeout_s": 9.0,
        "threads": 1,
        "memory_limit_bytes": 2**33,
    }
    plan = make_plan(**settings, rule={"cap_s": 0.5})
    assert {name: getattr(plan, name) for name in settings} == settings
    assert plan.rule.cap_s == 0.5


def test_a_limit_of_memory_by_default() -> None:
    """On the CPU a share of what is available, unless none is asked for; on a GPU none."""
    limit = make_plan().memory_limit_bytes
    assert limit is not None
    assert 0 < limit < psutil.virtual_memory().total
    assert make_plan(memory_limit_bytes=None).memory_limit_bytes is None
    assert planning.default_memory_limit("cuda:1") is None


def test_a_limit_of_memory_is_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside an accelerator it would limit nothing that is measured: one sentence."""
    monkeypatch.setattr(planning, "_resolve", lambda device, threads: "cuda:1")
    with pytest.raises(BadInput, match=r"--memory-limit is for .* the host.*--device cpu"):
        make_plan(device="auto", memory_limit_bytes=2**33)


def test_the_device_is_asked_of_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` becomes what is there. A GPU takes the suite's axes for GPUs, and CUDA graphs; without
    one the sentence names the device."""
    axes = {"runtime": ("cuda-graph",)}
    monkeypatch.setattr(pool, "probe", lambda device, threads: Ready(device="cuda"))
    plan = make_plan(device="auto", axes=axes)
    assert plan.device == "cuda"
    of_cases = {(case.device, case.dtype, case.runtime) for case in plan.cases}
    assert of_cases == {("cuda", "float16", "cuda-graph")}
    assert plan.rule.warmup_calls == 10
    monkeypatch.setattr(pool, "probe", lambda device, threads: Ready(device="cpu"))
    with pytest.raises(BadInput, match="CUDA graphs need a CUDA device, got cpu"):
        make_plan(device="auto", axes=axes)


def test_runtimes_that_are_left_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sentence each, of the device that is measured and not of one that might have been."""
    monkeypatch.setattr(pool, "probe", lambda device, threads: Ready(device="cpu"))
    notes: list[str] = []
    plan = make_plan("runtimes", device="auto", on_note=notes.append)
    graphs = [note for note in notes if note.startswith("cuda-graph")]
    assert graphs == ["cuda-graph is left out: CUDA graphs need a CUDA device, got cpu"]
    measured = {case.runtime for case in plan.cases}
    assert {"eager", "compile", "aotinductor"} <= measured
    assert "cuda-graph" not in measured


def test_a_suite_for_one_kind_of_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it names for CUDA alone is measured there, with its settings, where `auto` finds one;
    on a machine without, the sentence is that of the CPU."""
    path = tmp_path / "mine.toml"
    path.write_text(
        'title = "t"\n[axes]\nattention = []\n[cuda]\nattention = "hilo"\n'
        "[params.hilo]\nalpha = 0.25\n"
    )
    monkeypatch.setattr(pool, "probe", lambda device, threads: Ready(device="cuda"))
    (one,) = make_plan(str(path), device="auto").cases
    assert (one.device, one.attention, dict(one.params)["alpha"]) == ("cuda", "hilo", 0.25)
    monkeypatch.setattr(pool, "probe", lambda device, threads: Ready(device="cpu"))
    with pytest.raises(BadInput, match="neither an attention nor a backbone"):
        make_plan(str(path), device="auto")


def test_a_budget_is_of_the_device_that_auto_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the CPU could not keep to is enough for a GPU, whose calls are shorter."""
    axes = {"attention": ("msa",), "resolution": (2048,), "dtype": ("float32",)}
    settings: dict[str, Any] = {"axes": axes | {"batch_size": (64,)}, "budget_s": 60.0}
    with pytest.raises(BadInput, match="too short"):
        make_plan(device="cpu", **settings)
    monkeypatch.setattr(pool, "probe", lambda device, threads: Ready(device="cuda"))
    assert make_plan(device="auto", **settings).device == "cuda"


def test_the_device_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not at all for the host."""
    asked: list[str] = []

    def probe(device: str, threads: int | None) -> Ready:
        asked.append(device)
        return Ready(device="cuda")

    monkeypatch.setattr(pool, "probe", probe)
    make_plan(device="cpu")
    make_plan(device="auto", axes={"backbone": ("litv2_s",)}, budget_s=600.0)
    assert asked == ["auto"]


def test_a_checkpoint_has_a_name_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan has its path, cases its name, settings both head and name; it is no plugin."""
    monkeypatch.setattr(pool, "check_weights", lambda cases, setup: "")
    path = tmp_path / "w.pth"
    path.write_bytes(b"tensors")
    axes = {"backbone": ("litv2_s",), "task": ("segment",), "impl": ("fused",)}
    plan = make_plan(axes=axes, weights=path)
    (one,) = plan.cases
    assert (plan.weights, plan.plugins) == (path, {})
    assert (one.head, one.weights) == ("semantic_fpn", "weights_26cc73f9fbf6")
    assert not {"head", "weights"} & dict(one.params).keys()
    assert {"head=semantic_fpn", f"weights={one.weights}"} <= set(one.settings.split())
    assert Plan.from_dict(plan.to_dict()) == plan
    with pytest.raises(BadInput, match="--weights are for backbones"):
        make_plan(weights=path)


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": {"attention": ("hillo",)}},
        {"axes": {"dtype": ("float23",)}},
        {"effort": "quik"},
        {"params": {"msa": {"alpha": (1,)}}},
        {"rounds": 0},
        {"threads": -1},
        {"timeout_s": -1.0},
        {"rule": {"cap_s": -1.0}},
        {"device": "gpu"},
        {"device": "mps", "axes": {"runtime": ("cuda-graph",)}},
    ],
)
def test_faults_are_found_before_a_process_is_started(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """What is wrong whatever the device is answered at once."""

    def probe(device: str, threads: int | None) -> Ready:
        raise AssertionError("a worker was started")

    monkeypatch.setattr(pool, "probe", probe)
    with pytest.raises(BadInput):
        make_plan(**{"device": "auto", **changes})


@pytest.mark.parametrize(("text", "axis"), [(PLUGIN, "attention"), (BACKBONE, "backbone")])
def test_a_plugin_joins_the_suite(tmp_path: Path, text: str, axis: str) -> None:
    """It is measured beside what the suite names, unless the user names what to measure."""
    path = plugin(tmp_path, "mine", text)
    assert subjects(make_plan(plugins=(path,))) == QUICK | {"mine"}
    alone = make_plan(plugins=(path,), axes={axis: ("mine",)})
    assert {getattr(case, axis) for case in alone.cases} == subjects(alone) == {"mine"}
    assert alone.plugins == {"mine": path}


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("msa", PLUGIN, "is called msa, which is taken"),
        ("my-attention", PLUGIN, "a Python identifier, got 'my-attention'"),
        ("broken", "def (", "is not valid Python"),
    ],
)
def test_plugins_that_cannot_be(tmp_path: Path, name: str, text: str, words: str) -> None:
    """One sentence that names the file."""
    path = plugin(tmp_path, name, text)
    with pytest.raises(BadInput, match=words) as caught:
        make_plan(plugins=(path,))
    assert str(path) in str(caught.value)


def test_a_plugin_that_is_no_file(tmp_path: Path) -> None:
    """Neither a folder nor nothing; nor the same name twice."""
    for path in (tmp_path, tmp_path / "no.py"):
        with pytest.raises(BadInput, match="is not a file"):
            make_plan(plugins=(path,))
    path = plugin(tmp_path, "mine")
    with pytest.raises(BadInput, match="taken"):
        make_plan(plugins=(path, path))


def test_a_suite_file_of_ones_own(tmp_path: Path) -> None:
    """Its name is its stem: the run folder is called after it."""
    path = tmp_path / "mine.toml"
    path.write_text('title = "t"\n[axes]\nattention = "msa"\n')
    assert make_plan(str(path)).suite == "mine"


def test_rows_and_charts_of_a_run(tmp_path: Path) -> None:
    """read_records and draw take a run folder; charts go beside it or elsewhere."""
    run_folder(tmp_path, {case(): [measured()]})
    rows = vitbench.read_records(tmp_path)
    assert rows["subject"].tolist() == ["msa"]
    assert vitbench.draw(tmp_path) == [tmp_path / "plots" / "throughput-bars.png"]
    elsewhere = tmp_path / "elsewhere"
    assert vitbench.draw(tmp_path, elsewhere) == [elsewhere / "throughput-bars.png"]
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match="Not a directory"):
        vitbench.draw(tmp_path, tmp_path / "file" / "plots")


@pytest.mark.parametrize(
    "resolution", [224, "224", (224,), ["224"], Resolution(224, 224), (Resolution(224, 224), 224)]
)
def test_a_resolution_in_python(resolution: Any) -> None:
    """A number, a word or a Resolution; one or several."""
    plan = make_plan(device="cpu", axes={"attention": "msa", "resolution": resolution})
    assert [case.resolution for case in plan.cases] == [Resolution(224, 224)]


@pytest.mark.parametrize("resolution", [None, (None,), 22.4, -224, ((224, 224),), "big"])
def test_a_resolution_that_is_none(resolution: Any) -> None:
    """A sentence, whatever it is."""
    with pytest.raises(BadInput, match="a resolution is pixels like 224"):
        make_plan(device="cpu", axes={"attention": "msa", "resolution": resolution})


def test_threads_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as there are cores are allowed, one more is not; nor where a baseline is measured."""
    monkeypatch.setattr(host, "usable_cores", lambda: 3)
    assert make_plan(device="cpu", threads=3).threads == 3
    with pytest.raises(BadInput, match="--threads 4 is more than the 3 cores"):
        make_plan(threads=4)
    with pytest.raises(BadInput, match="--threads 4 is more than the 3 cores"):
        planning.plan_again([], title="a baseline", threads=4)
