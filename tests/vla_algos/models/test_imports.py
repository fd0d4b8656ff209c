"""What importing the models brings along."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import sys
import vla_algos.models
names = ("gymnasium", "mujoco", "stable_baselines3", "libero", "robosuite", "ray", "timm")
assert not [name for name in names if name in sys.modules]
"""
BROKEN = """
import sys
sys.path.insert(0, sys.argv[1])
import vla_algos.models
assert sys.modules["torchvision"] is None
"""


def test_models_know_no_environments():
    result = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_broken_torchvision_does_no_harm(tmp_path):
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')"
    )
    result = subprocess.run([sys.executable, "-c", BROKEN, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
