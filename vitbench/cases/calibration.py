"""Images: quantized backbones take their ranges from them, and spectra are read over them. No
torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitbench.errors import BadInput, first_line

SUFFIXES = (".jpeg", ".jpg", ".png")
# Ranges hardly change beyond so many.
MOST_IMAGES = 128
# Inputs of a layer; each has thousands of tokens, so more of them hardly widen a range.
NORMAL_INPUTS = 4
# The option that names the folder, and the extra that installs scikit-image, of int8.
_OPTION, _EXTRA = "--calibration", "int8"
# Photographs in scikit-image's wheel; what else it has would be downloaded.
_BUNDLED = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "motorcycle_left.png",
    "rocket.jpg",
)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Images, as they were when the run was planned.

    folder  of the user's; None: scikit-image's
    images  that are taken of it
    sha256  of their names and contents
    """

    folder: Path | None
    images: int
    sha256: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return dataclasses.asdict(self) | {"folder": self.folder and str(self.folder)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Calibration:
        """The inverse of to_dict."""
        return cls(**{**data, "folder": data["folder"] and Path(data["folder"])})

    @property
    def source(self) -> str:
        """What they are, in words."""
        if self.folder is None:
            return f"scikit-image's {self.images} images"
        return f"{self.folder} ({self.images} {'image' if self.images == 1 else 'images'})"

    def files(self) -> list[Path]:
        """Where they are, in a fixed order."""
        return _files(self.folder)

    def check(self) -> None:
        """Raises BadInput where they are other images now."""
        if read(self.folder).sha256 != self.sha256:
            raise BadInput(
                f"the run was begun with other images for calibration: {self.source} have changed "
                "since; start a new run"
            )


def calls(batch_size: int, calibration: Calibration | None) -> int:
    """How often a module is called to take its ranges; of a layer there are no images."""
    return NORMAL_INPUTS if calibration is None else -(-calibration.images // batch_size)


def read(folder: Path | None, option: str = _OPTION, extra: str = _EXTRA) -> Calibration:
    """The images of a folder and of those below it, else scikit-image's. Raises BadInput where
    there are none, or one cannot be read."""
    files, digest = _files(folder, option, extra), hashlib.sha256()
    for path in files:
        _check(path, option)
        digest.update(path.name.encode(errors="surrogateescape"))
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return Calibration(folder, len(files), digest.hexdigest())


def _files(folder: Path | None, option: str = _OPTION, extra: str = _EXTRA) -> list[Path]:
    """Raises BadInput where there are none."""
    if folder is None:
        return _bundled(option, extra)
    try:
        if not folder.is_dir():
            raise BadInput(f"{option} takes a folder of images, got {folder}")
        paths = [path for path in _below(folder) if path.suffix.lower() in SUFFIXES]
    except OSError as error:
        raise BadInput(f"{option} {error.filename} cannot be read: {error.strerror}") from None
    if not paths:
        raise BadInput(f"{option} {folder} holds no images ({', '.join(SUFFIXES)})")
    paths.sort()
    # From the whole of it: the first ones may all show the same.
    count = min(len(paths), MOST_IMAGES)
    return [paths[index * len(paths) // count] for index in range(count)]


def _below(folder: Path) -> Iterator[Path]:
    """The files of a folder, and of those in it. Raises OSError."""

    def fail(error: OSError) -> None:
        raise error

    for parent, _, names in os.walk(folder, onerror=fail):
        yield from (Path(parent, name) for name in names)


def _bundled(option: str, extra: str) -> list[Path]:
    spec = importlib.util.find_spec("skimage")
    folders = [] if spec is None else spec.submodule_search_locations or []
    paths = [Path(folder, "data", name) for folder in folders for name in _BUNDLED]
    found = [path for path in paths if path.is_file()]
    if not found:
        raise BadInput(
            f"this needs images: give a folder with {option}, or take scikit-image's: "
            f"pip install 'vitbench[{extra}]'"
        )
    return found


def _check(path: Path, option: str) -> None:
    """Raises BadInput for what is no image."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.load()
    except FileNotFoundError:
        raise BadInput(f"{option}: {path} leads to no file") from None
    # A broken file: Pillow raises what its parser of the format does.
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise BadInput(f"{option}: {path} is no image: {first_line(error)}") from None
