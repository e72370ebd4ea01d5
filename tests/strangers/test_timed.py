"""Modules in which a pass beside the timing fails: they are timed all the same, and the row says
what was not read, and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.vitbench.engine.test_passes import QUICK
from tests.vitbench.examples import PLUGIN, case, layer, plugin
from vitbench.analysis import trust
from vitbench.engine import passes
from vitbench.results.outcome import Counted, Facts, Measured
from vitbench.results.record import build_record
from vitbench.subjects import build as subjects

IN_FP64 = "eager float64"
IN_FP32 = "eager float32: it cannot run in float64 (RuntimeError: "


def measured(folder: Path, text: str, **changes: Any) -> Facts:
    """What the row of a module says, which was timed."""
    plugins = {"mine": plugin(folder, "mine", text)}
    mine = case(**{"attention": "mine", "params": (), "impl": "eager"} | changes)
    outcome = passes.measure(mine, QUICK, plugins, with_facts=True)
    assert isinstance(outcome, Measured), outcome
    assert min(outcome.samples_s) > 0
    assert outcome.facts is not None
    return outcome.facts


# The text of a module, what its output is checked against, and what its notes say; "" for none.
MODULES = {
    "a mask that is made in fp32": (
        layer(forward="y = torch.einsum('bhwc,cd->bhwd', y, torch.eye(32))"),
        IN_FP32,
        "",
    ),
    "a product with a fp32 constant": (layer(forward="y = y @ torch.ones(32, 32)"), IN_FP32, ""),
    "a kernel without fp64": (
        layer(
            forward="if y.dtype == torch.float64:\n"
            "    raise RuntimeError('not implemented for Double')"
        ),
        IN_FP32 + "not implemented for Double)",
        "",
    ),
    "fp64 takes too much memory": (
        layer(forward="if y.dtype == torch.float64:\n    raise MemoryError('full')"),
        "eager float32: it cannot run in float64 (memory ran out)",
        "",
    ),
    "it is built once only": (
        layer(
            build="if Identity.built > 0:\n"
            "    raise OSError('the port is taken')\n"
            "Identity.built += 1",
        ).replace("    def __init__", "    built = 0\n\n    def __init__", 1),
        "nothing: it cannot run in float64 (OSError: the port is taken), it cannot run in float32 "
        "(OSError: the port is taken)",
        "macs: OSError: the port is taken",
    ),
    "it runs on one batch size only": (
        layer(forward="if x.shape[0] != 2:\n    raise ValueError('a batch of 2')"),
        "nothing: it cannot run in float64 (ValueError: a batch of 2), it cannot run in float32",
        "macs: ValueError: a batch of 2",
    ),
    "a wrong closed form": (
        layer(spec=", macs=lambda *_, **__: 2 * 16 * 32**2"),
        IN_FP64,
        "macs: the closed form gives 32768, counted are 16384",
    ),
    "a closed form in G": (
        layer(spec=", macs=lambda *_, **__: 1.5"),
        IN_FP64,
        "closed form: ValueError: macs must be a whole number of at least 0, got 1.5",
    ),
    "a closed form of 401 digits": (
        layer(spec=", macs=lambda *_, **__: 10**400"),
        IN_FP64,
        "closed form: ValueError: macs must be a whole number",
    ),
    "a closed form that raises": (
        layer(spec=", macs=lambda *_, **__: {}['dim']"),
        IN_FP64,
        "closed form: KeyError: 'dim'",
    ),
    "a part by TorchScript": (
        layer(
            build="import warnings\n"
            "with warnings.catch_warnings():\n"
            "    warnings.simplefilter('ignore')\n"
            "    self.scale = torch.jit.script(self.scale)",
            spec=", macs=lambda *_, **__: 16 * 32**2",
        ),
        IN_FP64,
        "",
    ),
    "flex attention": (
        layer(
            build="from torch.nn.attention.flex_attention import flex_attention\n"
            "import warnings\n"
            "self.attend = flex_attention",
            forward="q = y.flatten(1, 2)[:, None]\n"
            "with __import__('warnings').catch_warnings():\n"
            "    __import__('warnings').simplefilter('ignore')\n"
            "    y = self.attend(q, q, q).reshape(x.shape)",
            spec=", macs=lambda *_, **__: 16 * 32**2 + 2 * 16 * 16 * 32",
        ),
        IN_FP64,
        "",
    ),
    "a thread in forward": (
        layer(
            forward="import threading\n"
            "found = []\n"
            "thread = threading.Thread(target=lambda: found.append(y @ y.mT @ y))\n"
            "thread.start()\n"
            "thread.join()\n"
            "y = found[0]",
        ),
        IN_FP64,
        "macs: a lower bound, without a thread",
    ),
    "a fork in forward": (
        layer(
            forward="child = os.fork()\nif child == 0:\n    os._exit(0)\nos.waitpid(child, 0)",
            spec=", macs=lambda *_, **__: 16 * 32**2",
        ),
        IN_FP64,
        "",
    ),
    "a part under torch.compile": (
        layer(
            build="self.part = torch.compile(torch.sigmoid, backend='eager')",
            forward="y = self.part(y)",
        ),
        IN_FP64,
        "fvcore: RuntimeError: ",
    ),
    "a gradient of its own": (
        layer(
            build="""
class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, y):
        return 2 * y
    @staticmethod
    def backward(ctx, grad):
        return 2 * grad
self.doubled = Doubled.apply""",
            forward="y = self.doubled(y)",
        ),
        IN_FP64,
        "",
    ),
    "numpy": (
        layer(forward="import numpy\ny = torch.from_numpy(numpy.tanh(y.detach().numpy()))"),
        IN_FP64,
        "macs: a lower bound, without what follows numpy()",
    ),
    "nested tensors": (
        layer(
            forward="n = torch.nested.nested_tensor(list(y.flatten(1, 2)), layout=torch.jagged)\n"
            "y = n.sin().to_padded_tensor(0.0).reshape(x.shape)",
        ),
        IN_FP64,
        "fvcore: RuntimeError: ",
    ),
    "complex numbers": (
        layer(
            build="self.register_buffer('turn', torch.polar(torch.ones(32), torch.arange(32.0)))",
            forward="y = (y * self.turn).imag",
        ),
        IN_FP64,
        "",
    ),
    "it writes to standard output itself": (layer(forward="os.write(1, b'hello')"), IN_FP64, ""),
    "it prints": (layer(forward="print('hello')"), IN_FP64, ""),
    "a fallback that raises": (
        layer(
            keywords=", *, impl='fused'",
            spec=", impls=('eager', 'fused'), fallback=lambda *_, **__: {}['dim']",
        ),
        IN_FP64,
        "fallback: KeyError: 'dim'",
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_it_is_timed(name: str, tmp_path: Path) -> None:
    """With the reason why its output was checked in fp32 or not, and why columns are empty."""
    text, against, note = MODULES[name]
    impl = "fused" if "fallback" in name else "eager"
    columns = measured(tmp_path, text, impl=impl).columns
    assert str(columns["checked_against"]).startswith(against)
    assert (columns["error_rms"] is None) == against.startswith("nothing")
    assert str(columns["notes"]).startswith(note)
    assert bool(columns["notes"]) == bool(note), columns["notes"]
    assert columns["params"] == 32**2 + 32
    assert columns["peak_memory_bytes"] > 0


@pytest.mark.parametrize(
    ("arguments", "params", "name"),
    [
        ("dim, heads=8", {"heads": 8}, "heads"),
        ("dim, nhead=8", {"nhead": 8}, "nhead"),
        ("dim, num_attention_heads=8", {"num_attention_heads": 8}, "num_attention_heads"),
        ("dim, heads=8", {"heads": 2}, ""),
        ("dim, num_heads=8, dim_head=64", {"dim_head": 64}, ""),
        ("dim, heads=8, **options", {"heads": 8}, ""),
        ("dim, window=7, head_dim=32", {"window": 7, "head_dim": 32}, ""),
    ],
)
def test_heads_by_another_name(
    tmp_path: Path, arguments: str, params: dict[str, int], name: str
) -> None:
    """A note says that the module has another number of heads than the row, and what sets it."""
    text = PLUGIN.replace("dim, num_heads, grid, *, strength=1.0", arguments)
    plugins = {"mine": plugin(tmp_path, "mine", text)}
    mine = case(attention="mine", params=tuple(sorted(params.items())), impl="eager", num_heads=2)
    expected = f"it is built with {name}=8, as it takes no num_heads: --param mine.{name}=2 sets it"
    assert subjects.heads_note(mine, plugins) == (expected if name else "")


def test_the_right_counts_stay(tmp_path: Path) -> None:
    """A closed form that is none leaves the count, a count that fails leaves the closed form."""
    no_form = measured(tmp_path, MODULES["a closed form in G"][0]).columns
    assert (no_form["macs"], no_form["macs_source"]) == (16 * 32**2, "counted")
    text = layer(
        forward="if x.shape[0] != 2:\n    raise ValueError('a batch of 2')",
        spec=", macs=lambda *_, **__: 16 * 32**2",
    )
    (other := tmp_path / "other").mkdir()
    no_count = measured(other, text).columns
    assert (no_count["macs"], no_count["macs_source"]) == (16 * 32**2, "closed form")
    assert no_count["macs_counted"] is None


def test_an_unchecked_output_lowers_the_trust(tmp_path: Path) -> None:
    """The reason is the row's; counts that are not known are empty, and so is what follows."""
    mine = case(attention="mine", params=(), impl="eager")
    plugins = {"mine": plugin(tmp_path, "mine", MODULES["it runs on one batch size only"][0])}
    outcome = passes.measure(mine, QUICK, plugins, with_facts=True)
    record = build_record(mine, [outcome])
    grade, reasons = trust.grade(record)
    assert grade != "A"
    assert f"the output was checked against {record['checked_against']}" in reasons
    assert record["status"] == "measured"
    assert record["macs"] is record["flops"] is record["flops_rate"] is None


def test_a_disagreement_is_told_without_a_time(tmp_path: Path) -> None:
    """Counted only, a wrong closed form stands in the notes."""
    mine = case(attention="mine", params=(), impl="eager")
    plugins = {"mine": plugin(tmp_path, "mine", MODULES["a wrong closed form"][0])}
    outcome = passes.measure(mine, None, plugins, with_facts=True)
    assert isinstance(outcome, Counted), outcome
    assert build_record(mine, [outcome])["notes"] == MODULES["a wrong closed form"][2]
