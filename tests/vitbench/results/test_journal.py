"""The run folder: nothing that was written is lost, doubled or torn, and nothing is half made."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vitbench.examples import ROOT, case, ceilings, environment, measured, plan, read_csv
from vitbench.errors import BadInput, StorageFull
from vitbench.results import journal as journals
from vitbench.results.columns import COLUMN_NAMES
from vitbench.results.csv import SAMPLE_COLUMNS, derive, write_csv
from vitbench.results.folder import ENVIRONMENT, JOURNAL, RECORDS, new_folder, read_environment
from vitbench.results.journal import Journal, Run
from vitbench.results.outcome import Ceilings, Failed, Outcome

ONE, TWO = case(), case(batch_size=3)


def outcome_line(outcome: Outcome, round_index: int = 0) -> dict[str, Any]:
    """A journal's entry of the first case."""
    return journals.outcome_entry(ONE, round_index, outcome)


def begun(folder: Path) -> Path:
    """A run folder with a plan and an environment."""
    with journals.create(folder, plan(ONE, TWO, rounds=4)) as journal:
        journal.append(journals.environment_entry(environment(), ceilings()))
    return folder


@pytest.mark.parametrize("name", ["cpu-quick", "cpu-detection"])
def test_a_run_of_an_older_release(name: str) -> None:
    """The committed journals name their cases by the id of then, which is the id of now."""
    run = journals.read(ROOT / "reports" / name)
    assert run.plan.cases
    assert all(len(run.outcomes_of(case)) == run.plan.rounds for case in run.plan.cases)
    assert {case.runtime for case in run.plan.cases} == {"eager"}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1), torn=st.sampled_from([b"", b"{", b"\xff\xfe", b"\0" * 9]))
def test_a_torn_last_line_is_dropped(tmp_path: Path, cut: float, torn: bytes) -> None:
    """A journal that is cut at any byte after its plan, with other bytes after the cut or without,
    holds every whole line before it; reading and appending go on after the last of these."""
    folder = begun(Path(tempfile.mkdtemp(dir=tmp_path)) / "run")
    path = folder / JOURNAL
    outcomes: list[Outcome] = [measured(0.01), measured(0.02), Failed("timeout", "no answer")]
    with Journal(path) as journal:
        for index, outcome in enumerate(outcomes):
            journal.append(outcome_line(outcome, index))
    data = path.read_bytes()
    first = data.index(b"\n") + 1
    end = first + round(cut * (len(data) - first))
    path.write_bytes(data[:end] + torn)
    whole = data[: data.rindex(b"\n", 0, end) + 1]
    count = max(0, whole.count(b"\n") - 2)
    run = journals.read(folder)
    assert run.plan == plan(ONE, TWO, rounds=4)
    known = [(environment(), ceilings()), ({}, None)]
    assert (run.environment, run.ceilings) == known[whole.count(b"\n") == 1]
    assert run.outcomes_of(ONE) == outcomes[:count]
    with Journal(path) as journal:
        assert path.read_bytes() == whole
        journal.append(outcome_line(measured(), 3))
    assert journals.read(folder).outcomes_of(ONE) == [*outcomes[:count], measured()]


class FullDisk:
    """A journal's file on a disk that takes so many bytes more, then fails as the kernel does."""

    def __init__(self, file: Any, room: int, code: int) -> None:
        self.file, self.room, self.code = file, room, code

    def write(self, data: bytes) -> int:
        taken = min(self.room, len(data))
        if taken == 0:
            raise OSError(self.code, os.strerror(self.code), self.file.name)
        self.room -= taken
        return int(self.file.write(data[:taken]))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 1, 100])
@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "is full"), (errno.EIO, "cannot be written")]
)
def test_a_disk_that_takes_no_more(tmp_path: Path, room: int, code: int, words: str) -> None:
    """One sentence, and the journal ends with its last whole line, from which it goes on."""
    folder = begun(tmp_path / "run")
    path = folder / JOURNAL
    whole = path.read_bytes()
    with Journal(path) as journal:
        real = journal._file
        journal._file = FullDisk(real, room, code)  # type: ignore[assignment] # a stand-in
        with pytest.raises(StorageFull, match=words) as caught:
            journal.append(outcome_line(measured()))
        assert "\n" not in str(caught.value)
        assert path.read_bytes() == whole
        journal._file = real
        journal.append(outcome_line(measured()))
    assert journals.read(folder).outcomes_of(ONE) == [measured()]


def test_ceilings_of_an_older_release(tmp_path: Path) -> None:
    """A run whose journal has no caches in it is read."""
    folder = begun(tmp_path / "run")
    entry = journals.environment_entry(environment(), ceilings())
    del entry["ceilings"]["cached"]
    with (folder / JOURNAL).open("a") as file:
        file.write(json.dumps(entry) + "\n")
    assert journals.read(folder).ceilings == Ceilings({"float32": 100e9}, 10e9)


def test_an_fsync_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line is on the disk before append returns; one that may not be is taken back."""
    fsync = mock.Mock(wraps=os.fsync)
    monkeypatch.setattr(os, "fsync", fsync)
    path = begun(tmp_path / "run") / JOURNAL
    assert fsync.call_count == 2
    whole = path.read_bytes()
    fsync.side_effect = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with Journal(path) as journal, pytest.raises(StorageFull):
        journal.append(outcome_line(measured()))
    assert path.read_bytes() == whole


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Runs a shell script that may mount file systems that nobody else sees; skips where not."""
    try:
        done = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-ec", script],
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=False,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if "unshare:" in done.stderr or "mount:" in done.stderr:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    return done


FILL = """
import sys
from pathlib import Path
from tests.vitbench.examples import case, measured, plan
from vitbench.results import journal as journals
from vitbench.results.csv import derive
from vitbench.errors import StorageFull
from vitbench.results.folder import JOURNAL
folder = Path(sys.argv[1]) / "run"
one = case()
count = 0
run = journals.Run(plan(one, rounds=1000))
try:
    with journals.create(folder, run.plan) as journal:
        for index in range(1000):
            outcome = measured(*[0.001 * (index + 1)] * 20)
            journal.append(journals.outcome_entry(one, index, outcome))
            run.outcomes[one.id, index] = outcome
            count += 1
except StorageFull as error:
    print(error)
assert journals.read(folder).outcomes == run.outcomes, "lines were lost"
assert (folder / JOURNAL).read_bytes().endswith(b"\\n"), "a torn line is left"
try:
    derive(folder, run)
except StorageFull as error:
    print(error)
assert not [path for path in folder.iterdir() if path.name.startswith(".")], "rubbish is left"
print(count > 10)
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:
    """On a file system of 64 KiB: a sentence each, every whole line kept, no partial file left."""
    done = in_namespace(
        f"mount -t tmpfs -o size=64k none {tmp_path}; {sys.executable} -c '{FILL}' {tmp_path}"
    )
    assert done.returncode == 0, done.stderr
    sentence = f"the disk that holds {tmp_path}/run is full"
    assert done.stdout.splitlines() == [sentence, sentence, "True"]


CREATE = """
import sys
from pathlib import Path
from tests.vitbench.examples import plan
from vitbench import errors
from vitbench.results import journal as journals
try:
    journals.create(Path(sys.argv[1]), plan())
except errors.BadInput as error:
    print(error)
"""


@pytest.mark.parametrize("folder", ["there", "new", "new/deep"])
def test_a_read_only_file_system(tmp_path: Path, folder: str) -> None:
    """A sentence, whether the folder is there or would have to be made."""
    (tmp_path / "there").mkdir()
    mount = f"mount -t tmpfs -o size=64k none {tmp_path}; mkdir {tmp_path}/there"
    done = in_namespace(
        f"{mount}; mount -o remount,ro {tmp_path}; "
        f"{sys.executable} -c '{CREATE}' {tmp_path}/{folder}"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{tmp_path}/{folder} cannot be ")
    assert "Read-only file system" in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_a_folder_of_another_user(tmp_path: Path) -> None:
    """A place where one may not even look is refused in a sentence."""
    if not hasattr(os, "geteuid"):
        pytest.skip("this platform has no users")
    closed = tmp_path / "closed"
    closed.mkdir()
    closed.chmod(0)
    become = "import os\nif os.geteuid() == 0:\n    os.seteuid(65534)\n"
    # The imports come first: the packages may lie where the other user cannot read.
    code = CREATE.replace("try:", f"{become}try:")
    done = subprocess.run(
        [sys.executable, "-c", code, str(closed / "run")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    closed.chmod(0o700)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{closed}/run cannot be ")
    assert "Permission denied" in done.stdout


def test_two_runs_never_share_a_folder(tmp_path: Path) -> None:
    """The second is refused, while the first is at work and after it."""
    folder = tmp_path / "run"
    refused = pytest.raises(BadInput, match="already holds a run")
    with journals.create(folder, plan(ONE)), refused:
        journals.create(folder, plan(TWO))
    with pytest.raises(BadInput, match="already holds a run"):
        journals.create(folder, plan(TWO))
    assert journals.read(folder).plan == plan(ONE)
    assert [path.name for path in folder.iterdir()] == [JOURNAL]


def test_two_runs_that_start_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where both find the folder empty, one gets it; the other leaves nothing in it."""
    folder = tmp_path / "run"
    real = os.link

    def link_second(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        rival = folder / ".rival"
        rival.write_text("theirs\n")
        rival.rename(target)
        real(source, target)

    monkeypatch.setattr(os, "link", link_second)
    with pytest.raises(BadInput, match="already holds a run"):
        journals.create(folder, plan(ONE))
    assert (folder / JOURNAL).read_text() == "theirs\n"
    assert [path.name for path in folder.iterdir()] == [JOURNAL]


def test_a_folder_with_other_files_may_be_used(tmp_path: Path) -> None:
    """An empty folder, or one with notes in it, holds no run yet."""
    (tmp_path / "notes.txt").touch()
    journals.create(tmp_path, plan()).close()
    assert journals.read(tmp_path).plan == plan()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("file/run", "Not a directory"),
        ("file/a/b/run", "Not a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_folder_that_cannot_be_made_leaves_nothing(
    tmp_path: Path, name: str, reason: str
) -> None:
    """Below a file there is no folder, nor with too long a name."""
    (tmp_path / "file").touch()
    with pytest.raises(BadInput, match=f"cannot be made: {reason}"):
        journals.create(tmp_path / name, plan())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_journal_that_is_being_written_is_refused(tmp_path: Path) -> None:
    """Two runners on one journal would tear it."""
    folder = begun(tmp_path / "run")
    refused = pytest.raises(BadInput, match="being written by another vitbench")
    with Journal(folder / JOURNAL), refused:
        Journal(folder / JOURNAL)
    Journal(folder / JOURNAL).close()


def test_a_journal_that_is_not_there(tmp_path: Path) -> None:
    """Neither reading nor continuing what is no run."""
    with pytest.raises(BadInput, match="holds no run"):
        journals.read(tmp_path)
    with pytest.raises(BadInput, match="cannot be written"):
        Journal(tmp_path / JOURNAL)


PLAN_LINE = json.dumps({"event": "plan", "format": journals.FORMAT, "plan": plan(ONE).to_dict()})
NO_PARAMS = json.loads(PLAN_LINE)
NO_PARAMS["plan"]["cases"][0]["params"] = ["alpha"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no plan"),
        ("no newline", "holds no plan"),
        (bytes(range(256)).decode("latin-1"), "line 1, is not a journal entry"),
        ("{\n", "line 1, is not a journal entry"),
        ("[]\n", "line 1"),
        ("3\n", "line 1"),
        ("{}\n", "line 1"),
        ('{"event": "outcome"}\n', "the first line must be the plan"),
        ('{"event": "plan", "format": 99}\n', "format 99; this vitbench reads format"),
        ('{"event": "plan", "format": 1, "plan": {}}\n', "line 1"),
        (json.dumps(NO_PARAMS) + "\n", "line 1"),
        (PLAN_LINE + '\n{"event": "outcome"}\n', "line 2"),
        (
            PLAN_LINE + '\n{"event": "environment", "environment": {}, "ceilings": null}\n',
            "line 2, is not a journal entry: the environment has no device_name, torch",
        ),
        (PLAN_LINE + '\n{"event": "environment", "environment": {}, "ceilings": 1}\n', "line 2"),
        (
            PLAN_LINE + '\n{"event": "outcome", "case": "a", "round": 0, "outcome": []}\n',
            "line 2",
        ),
        (PLAN_LINE + "\nrubbish\n" + PLAN_LINE + "\n", "line 2"),
    ],
)
def test_a_corrupt_journal_is_a_sentence(tmp_path: Path, text: str, words: str) -> None:
    """Which line, and that it is no entry; never a traceback."""
    (tmp_path / JOURNAL).write_text(text, encoding="latin-1")
    with pytest.raises(BadInput, match=words) as caught:
        journals.read(tmp_path)
    assert "\n" not in str(caught.value)


def whole_run() -> Run:
    """A run of two cases: one measured, one failed in its first round."""
    run = Run(plan(ONE, TWO), environment(), ceilings())
    for index in range(2):
        run.outcomes[ONE.id, index] = measured(0.01, 0.02, 0.03)
    run.outcomes[TWO.id, 0] = Failed("error", 'ValueError: "quotes", commas\nand a line')
    return run


def test_csv_files(tmp_path: Path) -> None:
    """One row a case with the columns of record, and one row a sample."""
    paths = derive(tmp_path, whole_run())
    assert [path.name for path in paths] == ["records.csv", "samples.csv", "environment.json"]
    rows, samples = read_csv(paths[0]), read_csv(paths[1])
    assert tuple(rows[0]) == COLUMN_NAMES
    assert [row["status"] for row in rows] == ["measured", "error"]
    assert rows[0]["latency_s"] == "0.02"
    assert rows[0]["runtime"] == "eager"
    assert rows[1]["latency_s"] == ""
    assert rows[1]["message"] == 'ValueError: "quotes", commas\nand a line'
    assert tuple(samples[0]) == SAMPLE_COLUMNS
    assert [(row["round"], row["sample"]) for row in samples] == [
        (str(r), str(s)) for r in range(2) for s in range(3)
    ]
    assert {row["case"] for row in samples} == {ONE.id}


def test_environment_file(tmp_path: Path) -> None:
    """What it ran on and how, without the paths of plugins, and read back."""
    run = whole_run()
    run.plan = plan(ONE, TWO, plugins={"mine": "/somewhere/of/mine.py"})
    derive(tmp_path, run)
    assert read_environment(tmp_path) == environment()
    text = (tmp_path / ENVIRONMENT).read_text()
    assert "/somewhere" not in text
    assert json.loads(text)["plan"]["plugins"] == ["mine"]


def test_environment_that_is_absent_or_broken(tmp_path: Path) -> None:
    """Absent is empty, since only a caption needs it; broken is a sentence."""
    assert read_environment(tmp_path) == {}
    for text in ("", "[]", "{}"):
        (tmp_path / ENVIRONMENT).write_text(text)
        with pytest.raises(BadInput, match="cannot be read"):
            read_environment(tmp_path)


def test_csv_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    """A row that cannot be written leaves the file of before, and no partial one."""
    path = tmp_path / "a.csv"
    write_csv(path, ("x", "y"), [{"x": 1, "y": None}])
    assert path.read_text() == "x,y\n1,\n"
    with pytest.raises(KeyError):
        write_csv(path, ("x", "y"), [{"x": 2, "y": 2}, {"x": 3}])
    assert path.read_text() == "x,y\n1,\n"
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.csv"]
    inode = path.stat().st_ino
    write_csv(path, ("x", "y"), [{"x": 0.1, "y": True}])
    assert path.read_text() == "x,y\n0.1,true\n"
    assert path.stat().st_ino != inode


def test_messages_of_any_text_reach_the_csv(tmp_path: Path) -> None:
    """Broken text in a failure's message stops neither journal nor CSV file."""
    folder = begun(tmp_path / "run")
    outcome = Failed("error", b"\xff.py".decode(errors="surrogateescape"))
    with Journal(folder / JOURNAL) as journal:
        journal.append(outcome_line(outcome))
    run = journals.read(folder)
    derive(folder, run)
    assert (folder / RECORDS).read_bytes().count(b"\n") == 3


def test_a_run_is_derived_to_the_same_bytes(tmp_path: Path) -> None:
    """CSV files follow from the journal alone."""
    run = whole_run()
    first = [path.read_bytes() for path in derive(tmp_path, run)]
    assert first == [path.read_bytes() for path in derive(tmp_path, run)]


def test_names_of_new_folders(tmp_path: Path) -> None:
    """Date, suite and device; a number where that exists, and nothing is made."""
    now = datetime(2026, 1, 31, 15, 45)
    first = new_folder(tmp_path, "quick", "cuda:1", now)
    assert first == tmp_path / "20260131-154500-quick-cuda1"
    assert not first.exists()
    first.mkdir()
    assert new_folder(tmp_path, "quick", "cuda:1", now).name == f"{first.name}-2"
