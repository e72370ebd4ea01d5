"""Modules of birder, beside which `assert_is_timms` sets our mechanisms as it does timm's."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType


def net(name: str) -> ModuleType:
    """birder.net.<name>, without the other parts of birder.

    birder and birder.net import data sets, training and every model, which takes five seconds. So
    they are registered as packages with the right place, whose own code does not run.
    """
    for package in ("birder", "birder.net"):
        if package not in sys.modules:
            spec = importlib.util.find_spec(package)
            assert spec is not None, f"{package} is not installed: pip install birder"
            sys.modules[package] = importlib.util.module_from_spec(spec)
    return importlib.import_module(f"birder.net.{name}")
