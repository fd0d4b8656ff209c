"""
The parts of transformers in use, imported so that a broken torchvision does no harm.

LIBERO's dependencies pull in torchvision, which pip takes from PyPI even where torch is a CPU build from elsewhere.
Such a pair fails at ``import torchvision``, and transformers, which imports it when it finds it, fails with it.
"""

from __future__ import annotations

import importlib
import sys


def _hide_broken_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        pass
    except Exception:
        # nobody could have used it; from here on it counts as not installed
        sys.modules["torchvision"] = None  # type: ignore[assignment]


_hide_broken_torchvision()

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast  # noqa: E402

__all__ = ["PreTrainedTokenizerBase", "PreTrainedTokenizerFast"]
