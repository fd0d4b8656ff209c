import subprocess
import sys

import pytest

import vla_algos


def test_import_is_light_and_exports_load_on_use():
    code = (
        "import sys, vla_algos; assert not {'torch', 'stable_baselines3', 'transformers'} & set(sys.modules);"
        "assert all(hasattr(vla_algos, name) for name in vla_algos.__all__); assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name_lists_the_exports():
    with pytest.raises(AttributeError, match=r"no attribute 'PPO'. It exports: ActorPolicy, BC, .*TokenPPO"):
        vla_algos.PPO  # noqa: B018
