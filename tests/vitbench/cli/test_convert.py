"""vitbench convert: the files run without vitbench, and mistakes are one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.vitbench.examples import layer, plugin, vitbench
from tests.vitbench.runtimes.test_converting import CONVERTING
from vitbench import runtimes
from vitbench.__main__ import run
from vitbench.cases.sweep import Sweep
from vitbench.cli import convert
from vitbench.errors import BadInput
from vitbench.subjects import build

_SIZE = ["--resolution", "48x80", "--dim", "32", "--heads", "2", "--batch-size", "3"]
_MSA = Sweep(attention=("msa",), resolution=("48x80",), dim=(32,), num_heads=(2,), batch_size=(3,))
# Whose scripts need no torch.
_WITHOUT_TORCH = ("onnxruntime", "openvino")
# The script's function on an input that vitbench made, where some packages cannot be imported.
_CALL = """
import sys
import numpy as np
sys.modules |= dict.fromkeys(sys.argv[1:])
import model
x = np.load("x.npy")
if hasattr(model, "torch"):
    x = model.torch.from_numpy(x)
(y,) = model.run(x)
np.save("y.npy", np.asarray(y))
"""


def python(folder: Path, *words: str) -> str:
    """What another Python prints there."""
    done = subprocess.run([sys.executable, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "runtime",
    [pytest.param(name, marks=[pytest.mark.slow] * (name != "openvino")) for name in CONVERTING],
)
def test_the_script_gives_the_modules_output(tmp_path: Path, runtime: str) -> None:
    """For any input, from the files alone, wherever they are; run as it is, it prints a shape."""
    suffix = Path(runtimes.converting()[runtime].FILE).suffix
    (tmp_path / "made").mkdir()
    words = ["convert", "msa", "--runtime", runtime, *_SIZE, "--out", f"made/model{suffix}"]
    done = vitbench(tmp_path, *words)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"made/model{suffix}" in done.stdout
    folder = (tmp_path / "made").rename(tmp_path / "shipped")
    assert {path.stem for path in folder.iterdir()} == {"model"}
    (case,) = _MSA.expand()
    x = 2 * build.build_input(case) + 1
    np.save(folder / "x.npy", x.numpy())
    absent = ["vitbench", "attentions", *["torch"] * (runtime in _WITHOUT_TORCH)]
    python(folder, "-c", _CALL, *absent)
    with torch.inference_mode():
        expected = build.build(case, {}).module(x)
    torch.testing.assert_close(torch.from_numpy(np.load(folder / "y.npy")), expected)
    assert python(tmp_path, "shipped/model.py") == "(3, 3, 5, 32)\n"
    assert len((folder / "model.py").read_text().splitlines()) < 30


@pytest.mark.slow
def test_a_backbone_and_another_name(tmp_path: Path) -> None:
    """A whole model's script takes images; every file has the name that is asked for."""
    words = ["convert", "litv2_s[attention=sra]", "--runtime", "openvino", "--resolution", "64"]
    done = vitbench(tmp_path, *words, "--param", "sr_ratio=2", "--out", "lit.xml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"lit.xml", "lit.bin", "lit.py"}
    assert python(tmp_path, "lit.py") == "(1, 1000)\n"


def test_what_belongs_to_a_file_goes_with_it(tmp_path: Path) -> None:
    """Under the name that is asked for, or under that by which the file calls it; nothing is
    replaced."""
    made = tmp_path / "made"
    made.mkdir()
    for name in ("model.xml", "model.bin", "model.xml.data", "columns.json"):
        (made / name).write_text(name)
    (tmp_path / "lit.bin").touch()
    with pytest.raises(BadInput, match=r"lit\.bin exists; choose another --out"):
        convert._move(made / "model.xml", tmp_path / "lit.xml")
    assert len(list(made.iterdir())) == 4
    (tmp_path / "lit.bin").unlink()
    convert._move(made / "model.xml", tmp_path / "lit.xml")
    moved = {path.name: path.read_text() for path in tmp_path.iterdir() if path != made}
    assert moved == {
        "lit.xml": "model.xml",
        "lit.bin": "model.bin",
        "model.xml.data": "model.xml.data",
    }


@pytest.mark.slow
def test_what_does_not_convert(tmp_path: Path) -> None:
    """A plugin that cannot be exported: the reason, status 1, and no file."""
    text = layer(forward="if float(y.sum()) > 0:\n    y = 2 * y")
    words = ["--plugin", str(plugin(tmp_path, "my", text)), "--runtime", "onnxruntime", *_SIZE]
    (tmp_path / "out").mkdir()
    done = vitbench(tmp_path, "convert", "my", *words, "--out", "out/model.onnx")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stderr.startswith("vitbench: my ")
    assert len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("msa", "missing option '--runtime'"),
        ("msa --runtime openvino,onnxruntime", "got 'openvino,onnxruntime'"),
        (
            "msa --runtime compile",
            "one that converts: aotinductor, executorch, onnxruntime, openvino, tensorrt; "
            "got 'compile'",
        ),
        ("msa --runtime openvino --out m.onnx", "--out of openvino ends in .xml, got m.onnx"),
        ("msa --runtime openvino --out there.xml", "there.xml exists; choose another --out"),
        ("msa --runtime openvino --out script.xml", "script.py exists; choose another --out"),
        ("msa --runtime openvino --out no/m.xml", "no/m.xml cannot be written"),
        ("msa --runtime openvino --dim 96,192", "convert makes one file, and these options name 2"),
        ("mssa --runtime openvino", "no mechanism or backbone is called 'mssa'; nearest: msa"),
        ("msa --runtime openvino --param a=1", "msa has no parameter 'a'"),
        ("msa --runtime openvino --dtype fp64", "got float64"),
        ("hilo --runtime openvino --param alpha", "--param takes KEY=VALUE"),
    ],
)
def test_bad_input(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    reason: str,
) -> None:
    """One sentence that names the remedy, status 2, and no file."""
    monkeypatch.chdir(tmp_path)
    Path("there.xml").touch()
    Path("script.py").touch()
    assert run(["convert", *words.split()]) == 2
    err = capsys.readouterr().err
    assert reason in err
    assert err.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"there.xml", "script.py"}
