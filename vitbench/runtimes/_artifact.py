"""What a module is converted into: a folder that is there as a whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitbench import devices
from vitbench.devices import Call
from vitbench.errors import StorageFull
from vitbench.instruments import memory
from vitbench.runtimes import INT8, Converting, Prepared, Subject, Unsuitable

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_COLUMNS = "columns.json"
# What a disk has left at least where it took all that was written.
_ROOM_BYTES = 2**20


class Changed(Exception):
    """What was converted is not there any more as it was made; the message says so."""


def refuses(
    name: str,
    device: str,
    dtype: str,
    mode: str,
    *,
    on_host: Sequence[str] = (),
    on_cuda: Sequence[str] = (),
) -> str | None:
    """Why a runtime that converts, and computes inference in these dtypes on the host and on NVIDIA
    GPUs, runs no such case; None where it does."""
    rules = devices.rules(device)
    places = {devices.host(): on_host, "NVIDIA GPUs": on_cuda}
    dtypes = on_host if rules.is_host else on_cuda if rules.has_cuda else ()
    if not dtypes:
        able = " and ".join(place for place, known in places.items() if known)
        return f"{name} is measured on {able} only, got {device}"
    if mode != "forward":
        return f"{name} does not train: it runs a converted module"
    if dtype not in dtypes:
        return f"{name} computes in {', '.join(dtypes)} on {device}, got {dtype}"
    return None


def make(runtime: Converting, subject: Subject, folder: Path) -> None:
    """Converts into the folder, in place of what may be there. Nothing is left of a conversion that
    fails; of one that is killed a folder with another name, which the next one clears. Raises
    StorageFull, and whatever the conversion raises.
    """
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        start = time.perf_counter()
        columns = runtime.convert(subject, part)
        conversion_s = time.perf_counter() - start
        columns = {
            "conversion_s": conversion_s,
            "artifact_bytes": sum(path.stat().st_size for path in _files(part)),
            **columns,
        }
        text = json.dumps({"columns": columns, "sha256": _digest(part)})
        (part / _COLUMNS).write_text(text, encoding="utf-8")
        _check_room(part)  # not every library says that it could not write all
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    except Exception:
        try:
            _check_room(part)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        raise


def _check_room(part: Path) -> None:
    """Raises StorageFull where the disk has none left."""
    if part.exists() and shutil.disk_usage(part).free < _ROOM_BYTES:
        raise StorageFull(f"the disk that holds {part.parent} is full") from None


def is_whole(folder: Path) -> bool:
    """Whether what was converted is there as it was made."""
    try:
        return bool(_made(folder)["sha256"] == _digest(folder))
    except (OSError, ValueError, LookupError, TypeError):  # it may hold anything
        return False


def check(folder: Path) -> None:
    """Raises Changed."""
    if not is_whole(folder):
        raise Changed(f"{_place(folder)} is not as it was converted: begin a new run")


def _made(folder: Path) -> Any:
    return json.loads((folder / _COLUMNS).read_text(encoding="utf-8"))


def _digest(folder: Path) -> str:
    """Of what the runtime put into its folder, with the names."""
    digest = hashlib.sha256()
    for path in _files(folder):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _files(folder: Path) -> list[Path]:
    """All but ours, below any folder of it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return [path for path in files if path != folder / _COLUMNS]


def _place(path: Path, depth: int = 2) -> str:
    """Of an artifact's folder, or of a file in it, in the run's folder."""
    return Path(*path.parts[-depth:]).as_posix()


def files_of(artifact: Path) -> list[Path]:
    """What the runtime put into its folder."""
    return [path for path in artifact.iterdir() if path.name != _COLUMNS]


def exported(subject: Subject) -> ExportedProgram:
    """What runs the module, as torch exports it for this shape of its input."""
    import torch

    with torch.no_grad():
        return torch.export.export(subject.runnable, (subject.x,))


def int8_columns(int8: int, products: int) -> Mapping[str, Any]:
    """Of a module of which so many products are computed in int8, the others in float32. Raises
    Unsuitable where none is."""
    if not int8:
        reason = "all its products are in float32" if products else "it multiplies nothing"
        raise Unsuitable(f"nothing of it is computed in {INT8}: {reason}")
    computed = INT8 if int8 == products else f"{INT8}, float32"
    return {"int8_share": int8 / products, "computed_dtype": computed}


class Loaded(Prepared):
    """A converted module, which a runtime loaded from its file.

    call     one call, on the memory of the subject's input
    version  of the package that runs it
    resident_before_bytes  None where torch's allocator sees what the call takes
    more     columns that are read back from what was loaded
    """

    is_dispatched = False
    more: Mapping[str, Any] = {}

    def __init__(
        self, call: Call, file: Path, version: str, resident_before_bytes: int | None = None
    ) -> None:
        super().__init__(call)
        if resident_before_bytes is not None:
            self.memory_source, self.resident_before_bytes = memory.RESIDENT, resident_before_bytes
        self._file, self._version = file, version

    def columns(self) -> Mapping[str, Any]:
        """Those of the conversion, and the file's place in the run's folder."""
        return {
            **_made(self._file.parent)["columns"],
            "artifact": _place(self._file, 3),
            "runtime_version": self._version,
            **self.more,
        }
