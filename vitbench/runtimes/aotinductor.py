"""AOTInductor: what torch.compile generates, compiled in advance into a package that is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vitbench.runtimes import Prepared, Rules, Subject, _artifact
from vitbench.runtimes._artifact import Loaded

RULES = Rules(
    name="aotinductor",
    summary="torch.export and Inductor, compiled in advance",
    conversion_s=6.0,
    loading_s=0.4,
    converts=True,
)
FILE = "model.pt2"
_SCRIPT = '''\
{title}

from pathlib import Path

import torch

file = Path(__file__).parent / {file!r}
model = torch._inductor.aoti_load_package(str(file))


def run(x):
    """The outputs for an input, all of them tensors."""
    return torch.utils._pytree.tree_leaves(model(x))


if __name__ == "__main__":
    x = torch.randn({shape}, dtype=torch.{dtype}, device={device!r})
    print(*(tuple(y.shape) for y in run(x)))
'''


def refuses(device: str, dtype: str, mode: str) -> str | None:
    """It computes inference, wherever Inductor compiles."""
    return None if mode == "forward" else f"{RULES.name} does not train: it runs a converted module"


def script(dtype: str) -> str:
    """The same for every dtype."""
    return _SCRIPT


def convert(subject: Subject, folder: Path) -> Mapping[str, Any]:
    """The package: libraries, and the weights in them."""
    import torch

    torch._inductor.aoti_compile_and_package(
        _artifact.exported(subject), package_path=str(folder / FILE)
    )
    return {}


def prepare(subject: Subject, artifact: Path | None) -> Prepared:
    """The package, whose threads and memory are torch's own."""
    import torch

    assert artifact is not None
    run = torch._inductor.aoti_load_package(str(artifact / FILE))
    return Loaded(lambda: run(subject.x), artifact / FILE, torch.__version__)
