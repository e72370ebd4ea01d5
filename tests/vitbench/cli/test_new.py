"""vitbench new: files that run as they are, and overwrite nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import attentions
from tests.vitbench.examples import case
from vitbench.__main__ import run
from vitbench.engine import passes
from vitbench.instruments.timing import TimingRule
from vitbench.results.outcome import Measured

QUICK = TimingRule(min_s=0.01, warmup_s=0.0, cap_s=0.02, warmup_cap_s=0.0, min_samples=2)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, which is empty."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("layout", attentions.LAYOUTS)
def test_the_file_runs_as_it_is(
    here: Path, layout: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """In every layout it is measured, its closed form is that which is counted, and its text gives
    the hyper-parameters."""
    assert run(["new", "my_mixer", "--layout", layout]) == 0
    assert "vitbench run --plugin my_mixer.py --attention my_mixer,msa" in capsys.readouterr().out
    path = here / "my_mixer.py"
    about = attentions.outline(path)
    assert (about.keywords, about.words["layout"]) == ({"qkv_bias": True}, layout)
    one = case(attention="my_mixer", impl="eager", params=(("qkv_bias", False),))
    outcome = passes.measure(one, QUICK, {"my_mixer": path}, with_facts=True)
    assert isinstance(outcome, Measured), outcome
    assert outcome.facts is not None
    columns = outcome.facts.columns
    assert columns["macs"] == columns["macs_counted"] == 4 * 16 * 32**2 + 2 * 16**2 * 32
    assert (columns["macs_source"], columns["notes"]) == ("closed form", "")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["bchw", "bnc_grid"])
def test_its_test_passes_and_can_fail(here: Path, layout: str) -> None:
    """As it is; and not once images meet, a parameter is not used, or the closed form is wrong."""
    assert run(["new", "my_mixer", "--layout", layout]) == 0
    path = here / "my_mixer.py"
    text = path.read_text()
    changes = {
        text: 0,
        text.replace("mixed = F.", "mixed = q.mean(0) + F."): 1,
        text.replace("return self.proj(", "return nn.Identity()("): 1,
        text.replace("4 * grid.tokens", "3 * grid.tokens"): 1,
    }
    assert len(changes) == 4
    for changed, status in changes.items():
        path.write_text(changed)
        words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_mixer.py"]
        done = subprocess.run(words, cwd=here, capture_output=True, text=True)
        assert done.returncode == status, done.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("my_mixer --layout bcn", "no layout is called 'bcn'; nearest: "),
        ("my-mixer", "a mechanism's name is a Python identifier such as my_mixer, got 'my-mixer'"),
        ("class", "a mechanism's name is a Python identifier"),
        ("../other", "a mechanism's name is a Python identifier"),
        ("hilo", "hilo is a mechanism of vitbench; choose another name"),
        ("json", "json.py would hide the module json"),
        ("torch", "torch.py would hide the module torch; choose another name"),
    ],
)
def test_what_cannot_be_made(
    here: Path, words: str, sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Is one sentence and exit status 2, and nothing is written."""
    assert run(["new", *words.split()]) == 2
    assert sentence in capsys.readouterr().err
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("taken", ["my_mixer.py", "test_my_mixer.py"])
def test_nothing_is_overwritten(here: Path, taken: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither a file nor a link that leads nowhere; of the two files none is written alone."""
    (here / taken).symlink_to(here / "gone")
    assert run(["new", "my_mixer"]) == 2
    assert f"{taken} exists; choose another name" in capsys.readouterr().err
    assert [path.name for path in here.iterdir()] == [taken]


def test_a_folder_that_cannot_be_written(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where the second file fails the first is taken back."""
    opened = Path.open

    def fails(path: Path, *words: str, **more: str) -> object:
        if path.name.startswith("test_"):
            raise OSError(28, "No space left on device")
        return opened(path, *words, **more)  # type: ignore[call-overload] # as it is called

    monkeypatch.setattr(Path, "open", fails)
    assert run(["new", "my_mixer"]) == 1
    assert "test_my_mixer.py cannot be written: No space left" in capsys.readouterr().err
    assert list(here.iterdir()) == []
