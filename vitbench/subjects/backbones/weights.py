"""Checkpoints into a backbone: tensors only, never code."""

from __future__ import annotations

import argparse
import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


class BadWeights(ValueError):
    """The checkpoint cannot be used; the message is one sentence for the user."""


# What checkpoints hold beside tensors. Loading runs nothing of these: they are filled as data, and
# the settings that the authors keep are a dictionary to us.
_ALLOWED: list[Any] = [argparse.Namespace, (OrderedDict, "yacs.config.CfgNode")]
# Where training code keeps the weights.
_KEYS = ("model", "state_dict", "model_ema", "module")


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name. Raises BadWeights."""
    try:
        with torch.serialization.safe_globals(_ALLOWED), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the errors below say what is odd about a file
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise BadWeights(f"weights {path} cannot be read: {error.strerror or error}") from None
    except pickle.UnpicklingError as error:
        raise BadWeights(_refusal(path, str(error))) from None
    # A file cut off is reported by whichever reader met the end first.
    except (RuntimeError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadWeights(
            f"weights {path} are no whole checkpoint ({first}): download or save the file again"
        ) from None
    return _tensors(path, content)


def _refusal(path: Path, message: str) -> str:
    """torch's page of advice, which ends in how to run what is pickled, as one sentence."""
    what = re.search(r"unsupported (?:global: )?(?:GLOBAL|class) ([\w.]+)", message, re.IGNORECASE)
    if what is not None:
        return (
            f"weights {path} pickle more than tensors ({what[1]}), which loading would run: "
            "save its state_dict alone, with torch.save(model.state_dict(), FILE)"
        )
    return (
        f"weights {path} are no checkpoint of tensors: save a state_dict, with "
        "torch.save(model.state_dict(), FILE)"
    )


def _tensors(path: Path, content: object) -> dict[str, Tensor]:
    inner = content
    while isinstance(inner, Mapping) and not any(
        isinstance(value, Tensor) for value in inner.values()
    ):
        key = next((name for name in _KEYS if name in inner), None)
        if key is None:
            break
        inner = inner[key]
    if isinstance(inner, Mapping):
        tensors = {str(key): value for key, value in inner.items() if isinstance(value, Tensor)}
        if tensors:
            return tensors
    raise BadWeights(
        f"weights {path} hold no state_dict, neither by itself nor under {', '.join(_KEYS)}"
    )


def load_into(module: nn.Module, path: Path) -> None:
    """Fills the module; every name and shape must fit. Raises BadWeights.

    A classifier's checkpoint fits a pyramid too: its norm and head are left out, and the norms of
    the maps stay as they are, as the authors fine-tune it.
    """
    loaded, own = read(path), module.state_dict()
    if getattr(module, "features_only", False):
        loaded = {k: v for k, v in loaded.items() if not k.startswith(("head.", "norm."))}
        fresh = {key for key in own if key.startswith("norm")}
        loaded |= {key: own[key] for key in fresh - loaded.keys()}
    missing, unexpected = own.keys() - loaded.keys(), loaded.keys() - own.keys()
    resized = [key for key in own if key in loaded and own[key].shape != loaded[key].shape]
    if resized:
        key = resized[0]
        raise BadWeights(
            f"weights {path} are of another size: {key} is {_size(loaded[key])}, "
            f"here {_size(own[key])} ({len(resized)} of {len(own)} differ)"
        )
    if missing or unexpected:
        text = [f"{len(missing)} are missing ({min(missing)}, ...)"] if missing else []
        text += (
            [f"{len(unexpected)} are not known here ({min(unexpected)}, ...)"] if unexpected else []
        )
        raise BadWeights(f"weights {path} are of another model: {'; '.join(text)}")
    module.load_state_dict(loaded)


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a number"
