"""What is asked of a whole model: `litv2_s[attention=sra]`, read without importing torch."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from vitbench.cases import class_names
from vitbench.cases.scalars import Scalar, check, merged
from vitbench.errors import BadInput, nearest
from vitbench.subjects.backbones import LITV2, RIVALS
from vitbench.subjects.plugins import only_defines

# What a backbone is put to, and the heads that do it; a classifier has its own.
HEADS: Mapping[str, tuple[str, ...]] = {
    "classify": ("",),
    "detect": ("retinanet", "mask_rcnn"),
    "segment": ("semantic_fpn",),
}
TASKS = tuple(HEADS)
# The stages of LITv2 whose attention is chosen, by what their hyper-parameters begin with, and
# their strides.
STAGE_3, STAGE_4 = "", "stage4_"
STAGES: Mapping[str, int] = {STAGE_3: 16, STAGE_4: 32}
# Those that have a name of their own.
NAMES = (*LITV2, *RIVALS)
_INSTALL = "pip install 'vitbench[backbones]'"


def heads_of(tasks: Iterable[str]) -> list[str]:
    """The heads of some tasks."""
    return [head for task in tasks for head in HEADS[task]]


def task_of(head: str) -> str:
    """The task that a head does."""
    return next(task for task, heads in HEADS.items() if head in heads)


def parse(text: str) -> tuple[str, dict[str, Scalar]]:
    """`litv2_s[attention=sra,sr_ratio=2]` -> name and hyper-parameters. Raises BadInput."""
    return class_names.parse(text, "a backbone")


def check_name(name: str, plugins: Mapping[str, Path]) -> None:
    """Raises BadInput where there is no such backbone, or not what it needs."""
    if name in plugins:
        if only_defines(plugins[name], "ATTENTION"):
            raise BadInput(f"{name} is an attention, by its file: name it with --attention")
        return
    if name in LITV2:
        if importlib.util.find_spec("torchvision") is None:
            raise BadInput(f"{name} needs torchvision, which is not installed: {_INSTALL}")
        return
    if name in RIVALS:
        _check_timm(RIVALS[name], f"backbone {name}")
    elif name.startswith("timm:"):
        _check_timm(name.removeprefix("timm:"), name)
    elif ":" in name:
        module, _, factory = name.partition(":")
        top = module.partition(".")[0]
        if not (factory.isidentifier() and top.isidentifier()) or _find(top) is None:
            raise BadInput(
                f"backbone {name} is a module and a factory in it, but no module is called {top!r}"
            )
    else:
        known = (*NAMES, *plugins)
        raise BadInput(
            f"no backbone is called {name!r}; {nearest(name, known)}; timm:NAME is any of timm's, "
            "module:factory one of yours"
        )


def _find(module: str) -> object | None:
    """The module's spec; the current folder counts too, though workers do not run from it."""
    if Path(f"{module}.py").is_file() or Path(module, "__init__.py").is_file():
        return module
    try:
        return importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return None


def _check_timm(model: str, what: str) -> None:
    found = importlib.util.find_spec("timm")
    if found is None or not found.submodule_search_locations:
        raise BadInput(f"{what} is timm's, which is not installed: {_INSTALL}")
    known = timm_names(Path(found.submodule_search_locations[0]))
    if known and model.partition(".")[0] not in known:
        raise BadInput(f"timm has no model {model!r}; {nearest(model, known)}")


@cache
def timm_names(folder: Path) -> frozenset[str]:
    """The models that timm registers, read from its files: importing it takes torch, and seconds.
    Empty where the files do not say.
    """
    found: set[str] = set()
    for path in (folder / "models").glob("*.py"):
        text = path.read_text(encoding="utf-8", errors="replace")
        found |= set(re.findall(r"^@register_model\s+def (\w+)", text, re.MULTILINE))
        found |= set(re.findall(r"^    ['\"](\w+)['\"]: ['\"][\w.]+['\"],$", text, re.MULTILINE))
    return frozenset(found)


def check_head(head: str) -> str:
    """The head. Raises BadInput where there is none of that name."""
    heads = [name for name in heads_of(TASKS) if name]
    if head not in heads:
        raise BadInput(f"no head is called {head!r}; {nearest(head, heads)}")
    return head


def settings(
    name: str, given: Mapping[str, Scalar], mechanisms: Mapping[str, Path]
) -> dict[str, Scalar]:
    """All hyper-parameters of a backbone, the defaults too. Raises BadInput.

    Those of LITv2 are the mechanism of stage 3 and its own, and where they are given the same of
    stage 4, `stage4_attention=msa`; of another backbone we know what is given.

    mechanisms  that there are: name -> file
    """
    return _settings(name, given, mechanisms, strict=True)


def known_settings(
    name: str, given: Mapping[str, Scalar], mechanisms: Mapping[str, Path]
) -> dict[str, Scalar]:
    """The same, without what the mechanisms of these settings do not have."""
    return _settings(name, given, mechanisms, strict=False)


def _settings(
    name: str, given: Mapping[str, Scalar], mechanisms: Mapping[str, Path], *, strict: bool
) -> dict[str, Scalar]:
    if name not in LITV2:
        return dict(given)
    found: dict[str, Scalar] = {}
    for prefix, stride in STAGES.items():
        own = stage_of(given, prefix)
        if not (own or prefix == STAGE_3):  # stage 4 is the authors', which says nothing
            continue
        mechanism = str(own.get("attention", "hilo"))
        defaults, is_open = _defaults(mechanism, stride, mechanisms)
        for key in [key for key in own if key != "attention"]:
            if key not in defaults and not is_open:
                if not strict:
                    del own[key]
                    continue
                known = [prefix + word for word in ("attention", *defaults)]
                hint = nearest(prefix + key, (*known, "head", f"{STAGE_4}attention"))
                raise BadInput(f"{name} with {mechanism} has no parameter {prefix + key!r}; {hint}")
            check(name, prefix + key, own[key], defaults.get(key))
        all_of_it = merged({"attention": mechanism} | defaults, own)
        found |= {prefix + key: value for key, value in all_of_it.items()}
    return found


def stage_of(given: Mapping[str, Scalar], prefix: str) -> dict[str, Scalar]:
    """The hyper-parameters of one of STAGES, without its prefix."""
    if prefix == STAGE_3:
        return {key: value for key, value in given.items() if not key.startswith(STAGE_4)}
    own = given.items()
    return {key.removeprefix(prefix): value for key, value in own if key.startswith(prefix)}


def _defaults(
    mechanism: str, stride: int, mechanisms: Mapping[str, Path]
) -> tuple[dict[str, Scalar], bool]:
    """The hyper-parameters of a mechanism, or of several in turns, at a stride, and whether there
    may be others. Raises BadInput."""
    defaults: dict[str, Scalar] = {}
    is_open = False
    for one in mechanism.split("+"):
        if not class_names.is_class(one) and one not in mechanisms:
            raise BadInput(f"no attention mechanism is called {one!r}; {nearest(one, mechanisms)}")
        outline = class_names.outline_of(one, mechanisms)
        is_open |= outline.keywords is None
        own = {k: v for k, v in (outline.keywords or {}).items() if isinstance(v, Scalar)}
        defaults |= own | outline.settings_at(stride)
    return defaults, is_open
