"""Who trains random weights by reinforcement is told so."""

import warnings

import pytest

from vla_algos import TPO, TokenGRPO, TokenPPO, TokenRLOO
from vla_algos.errors import RandomWeightsWarning
from vla_algos.models import load_vla, save_vla
from vla_gym.envs.toy_env import ToyLiberoEnv

GROUPS = {"group_size": 2, "n_groups": 1}
ALGORITHMS = [(TokenPPO, {}), (TokenGRPO, GROUPS), (TokenRLOO, GROUPS), (TPO, GROUPS)]


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
def test_a_preset_is_warned_of_and_a_checkpoint_is_not(algorithm, kwargs, tmp_path):
    with pytest.warns(RandomWeightsWarning, match=r"trains the preset 'nano' from random weights.*compact-libero-goal"):
        model = algorithm("VLAPolicy", ToyLiberoEnv(), policy_kwargs={"vla": "nano"}, device="cpu", **kwargs)
    model.save(tmp_path / "model.zip")
    save_vla(load_vla("nano"), tmp_path / "vla")
    with warnings.catch_warnings():
        warnings.simplefilter("error", RandomWeightsWarning)
        algorithm.load(tmp_path / "model.zip", env=ToyLiberoEnv(), device="cpu")
        algorithm("VLAPolicy", ToyLiberoEnv(), policy_kwargs={"vla": str(tmp_path / "vla")}, device="cpu", **kwargs)


def test_so_is_who_names_no_model():
    with pytest.warns(RandomWeightsWarning, match="preset 'compact'") as caught:
        TokenPPO("VLAPolicy", ToyLiberoEnv(), device="cpu")
    assert caught[0].filename == __file__
