"""What importing the models brings along."""

from __future__ import annotations

import subprocess
import sys

PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
import vla_algos.models
assert sys.modules["torchvision"] is None
names = ("mujoco", "stable_baselines3", "libero", "robosuite", "ray", "timm")
assert not [name for name in names if name in sys.modules]
"""


def test_models_need_neither_environments_nor_a_working_torchvision(tmp_path):
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    result = subprocess.run([sys.executable, "-c", PROBE, str(tmp_path)], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
