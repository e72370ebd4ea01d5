"""Files that travel between machines, known by their content: plugins, checkpoints, artifacts."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from vitbench.cases.plan import Plan
from vitbench.devices._imports import beside

# Under which a plan's checkpoint and images travel; a plugin's name has no such mark.
_WEIGHTS, _IMAGES = ":weights", ":images"


def pack(files: Mapping[str, Path]) -> bytes:
    """Files by their names in the parcel. Equal names and contents give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, path in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size = path.stat().st_size
            with path.open("rb") as file:
                archive.addfile(entry, file)
    return buffer.getvalue()


def pack_folder(folder: Path) -> bytes:
    """All files of a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return pack({path.relative_to(folder).as_posix(): path for path in paths})


def unpack(parcel: bytes, folder: Path) -> None:
    """Makes the folder of what is in a parcel: as a whole, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    with tarfile.open(fileobj=io.BytesIO(parcel)) as archive:
        archive.extractall(part, filter="data")
    with contextlib.suppress(OSError):  # another process had the same parcel
        os.rename(part, folder)
    shutil.rmtree(part, ignore_errors=True)


def digest(parcel: bytes) -> str:
    """What a parcel is known by."""
    return hashlib.sha256(parcel).hexdigest()


def of_plan(plan: Plan) -> dict[str, bytes]:
    """What the workers of a plan read of this machine's files, each by a name."""
    parcels = {}
    for name, path in plan.plugins.items():
        files = (path, *beside(path))
        top = Path(os.path.commonpath([file.parent for file in files]))
        parcels[name] = pack({file.relative_to(top).as_posix(): file for file in files})
    if plan.weights is not None:
        parcels[_WEIGHTS] = pack({plan.weights.name: plan.weights})
    if plan.calibration is not None and (folder := plan.calibration.folder) is not None:
        images = plan.calibration.files()
        parcels[_IMAGES] = pack({file.relative_to(folder).as_posix(): file for file in images})
    return parcels


def localized(plan: Plan, folders: Mapping[str, Path]) -> Plan:
    """The plan with the files as they lie in these folders, one for each parcel."""
    plugins = {name: next(folders[name].rglob(path.name)) for name, path in plan.plugins.items()}
    weights, calibration = plan.weights, plan.calibration
    if weights is not None:
        weights = folders[_WEIGHTS] / weights.name
    if calibration is not None and calibration.folder is not None:
        calibration = dataclasses.replace(calibration, folder=folders[_IMAGES])
    return dataclasses.replace(plan, plugins=plugins, weights=weights, calibration=calibration)
