"""No episode that has ended is lost, and none that was measured otherwise is taken."""

from __future__ import annotations

import json
import resource
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from vla_algos import VLAPolicy
from vla_algos.errors import EvaluationFileError
from vla_algos.evaluation import EpisodeRecord, EvaluationResult, evaluate_policy_on_suite
from vla_algos.evaluation.episode_log import EpisodeLog, LoggedEpisode
from vla_algos.evaluation.harness import SCHEMA_VERSION
from vla_algos.evaluation.subject import plain, weights_digest
from vla_algos.models import load_vla, save_vla
from vla_gym import ActionTokenizer
from vla_gym.envs.toy_env import ToyLiberoEnv
from vla_gym.errors import FolderInUseError
from vla_gym.owned import own_file


class Constant:
    """Always the same action; Ctrl-C at one of its decisions."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.stop_at, self.n_decisions = stop_at, 0

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        self.n_decisions += 1
        if self.n_decisions == self.stop_at:
            raise KeyboardInterrupt
        return np.zeros((len(observation["proprio"]), 7), dtype=np.int64), None


def evaluate(model, folder: Path, resume: bool = False, **changes) -> EvaluationResult:
    keywords = {"n_init_states": 8, "env_fn": partial(ToyLiberoEnv, horizon=2), "vec_env_cls": DummyVecEnv} | changes
    return evaluate_policy_on_suite(model, "toy", episodes_file=folder / "log.jsonl", resume=resume, **keywords)


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("n_envs", [1, 3])
def test_an_interrupted_evaluation_is_resumed_to_the_same_result(n_envs: int, tmp_path: Path) -> None:
    whole = evaluate(Constant(), tmp_path / "whole", n_envs=n_envs)
    assert len(lines(tmp_path / "whole")) == 17
    with pytest.raises(KeyboardInterrupt):
        evaluate(Constant(stop_at=8), tmp_path, n_envs=n_envs)
    header, *episodes = lines(tmp_path)
    assert 0 < len(episodes) < 16 and header["schema_version"] == SCHEMA_VERSION
    # and half a line, of a process that was killed
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write('{"task_id": 1, "init')
    rest = Constant()
    assert evaluate(rest, tmp_path, resume=True, n_envs=n_envs) == whole
    assert rest.n_decisions < 32 // n_envs and len(lines(tmp_path)) == 17
    again = Constant()
    assert evaluate(again, tmp_path, resume=True) == whole and again.n_decisions == 0
    assert {path.name for path in tmp_path.iterdir()} == {"whole", "log.jsonl"}


def test_more_initial_states_are_added_and_fewer_are_chosen(tmp_path: Path) -> None:
    evaluate(Constant(), tmp_path, n_init_states=4)
    part = evaluate(Constant(stop_at=1), tmp_path, resume=True, n_init_states=2, task_ids=[1])
    assert [(e.task_id, e.init_state_id) for e in part.episodes] == [(1, 0), (1, 1)]
    assert evaluate(Constant(), tmp_path, resume=True).n_episodes == 16
    assert evaluate(Constant(), tmp_path, n_init_states=1).n_episodes == 2 and len(lines(tmp_path)) == 3


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"seed": 1}, "seed was 0, not 1"),
        ({"deterministic": False}, "deterministic was True, not False"),
        ({"env_fn": partial(ToyLiberoEnv, horizon=3)}, "horizon was 2, not 3"),
        ({"env_fn": partial(ToyLiberoEnv, horizon=2, image_size=32)}, "image_size was 64, not 32"),
    ],
)
def test_episodes_that_were_measured_otherwise_are_refused(changes: dict, name: str, tmp_path: Path) -> None:
    evaluate(Constant(), tmp_path, n_init_states=1)
    before = (tmp_path / "log.jsonl").read_text()
    with pytest.raises(EvaluationFileError, match=f"{name}.*without resume"):
        evaluate(Constant(), tmp_path, resume=True, **changes)
    assert (tmp_path / "log.jsonl").read_text() == before


@pytest.mark.parametrize("content", ["{}\n[]\n", "no\n", '{}\n{"task_id": 0}\n', "[1]\n", "\xff\n"])
def test_another_file_is_named(content: str, tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text(content)
    with pytest.raises(EvaluationFileError, match=r"log\.jsonl (does not hold|were|in)|in .*log\.jsonl"):
        evaluate(Constant(), tmp_path, resume=True)


def test_another_asset_pack_is_refused(tmp_path: Path) -> None:
    log = EpisodeLog(tmp_path / "log.jsonl", resume=False)
    log.begin({})
    log.append(LoggedEpisode(EpisodeRecord(0, 0, True, 1), "open it", "primitive"))
    with pytest.raises(EvaluationFileError, match="the assets primitive, not with libero"):
        log.append(LoggedEpisode(EpisodeRecord(0, 1, True, 1), "open it", "libero"))


def test_a_disk_that_is_full_for_a_moment_loses_no_episode(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = EpisodeLog(tmp_path / "log.jsonl", resume=False)
    log.begin({"seed": 0})
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    for k in range(4):
        resource.setrlimit(resource.RLIMIT_FSIZE, (50 if k in (1, 2) else limits[1], limits[1]))
        try:
            log.append(LoggedEpisode(EpisodeRecord(0, k, True, 1), "open it", "primitive"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert len(lines(tmp_path)) == (2 if k < 3 else 5)
    assert [record.message for record in caplog.records if "tried again" in record.message]


def test_two_evaluations_do_not_write_one_file(tmp_path: Path) -> None:
    refused = []

    def run() -> None:
        try:
            evaluate(Constant(), tmp_path)
        except FolderInUseError as error:
            refused.append(str(error))

    with own_file(tmp_path / "log.jsonl"):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert "log.jsonl is being written by process" in refused[0]


def test_a_result_says_what_was_evaluated(tmp_path: Path) -> None:
    env_fn = partial(ToyLiberoEnv, image_size=32, horizon=2)
    for seed in (0, 1):
        save_vla(load_vla("nano", seed=seed, config_changes={"image_size": 32}), tmp_path / str(seed))
    results = []
    for name, temperature in (("0", None), ("0", 1.5), ("1", None)):
        policy = VLAPolicy.from_checkpoint(tmp_path / name, env_fn(), temperature=temperature)
        results.append(evaluate(policy, tmp_path, n_init_states=1, env_fn=env_fn, deterministic=False))
    first, hotter, other = results
    assert (first.temperature, hotter.temperature) == (1.0, 1.5) and "temperature 1.5" in str(hotter)
    assert first.checkpoint == hotter.checkpoint
    assert first.checkpoint["vla"] == str(tmp_path / "0") and len(first.checkpoint["sha256"]) == 64
    assert first.checkpoint["sha256"] != other.checkpoint["sha256"]
    assert (first.chunk_size, first.image_size, first.horizon, first.env_kwargs) == (1, 32, 2, None)
    first.save(tmp_path / "result.json")
    saved = json.loads((tmp_path / "result.json").read_text())
    assert saved["schema_version"] == SCHEMA_VERSION and saved["checkpoint"] == first.checkpoint
    assert EvaluationResult.load(tmp_path / "result.json") == first


def test_results_of_before_load_and_those_of_later_are_refused(tmp_path: Path) -> None:
    result = evaluate(Constant(), tmp_path, n_init_states=1)
    values = result.to_dict()
    new = ("schema_version", "checkpoint", "temperature", "chunk_size", "image_size", "render_quality", "physics")
    old = {key: value for key, value in values.items() if key not in (*new, "horizon", "env_kwargs")}
    path = tmp_path / "result.json"
    path.write_text(json.dumps(old))
    loaded = EvaluationResult.load(path)
    assert (loaded.schema_version, loaded.horizon, loaded.episodes) == (1, None, result.episodes)
    for damaged in ({**values, "schema_version": SCHEMA_VERSION + 1}, {**values, "schema_version": "2"}, [], {}, 3):
        path.write_text(json.dumps(damaged))
        with pytest.raises(EvaluationFileError, match=r"result\.json is not a result"):
            EvaluationResult.load(path)


def test_the_digest_depends_on_every_weight_and_type() -> None:
    model = load_vla("nano", seed=0)
    digest = weights_digest(model)
    assert digest == weights_digest(load_vla("nano", seed=0))
    assert digest != weights_digest(load_vla("nano", seed=0).bfloat16())
    next(iter(model.parameters())).data.view(-1)[-1] += 1
    assert digest != weights_digest(model)


def test_pictures_among_the_keywords_are_kept_as_checksums() -> None:
    picture = np.arange(3072, dtype=np.uint8).reshape(32, 32, 3)
    kept = plain({"textures": {"floor": picture}, "size": np.zeros(7)})
    assert kept["size"] == [0.0] * 7 and kept["textures"]["floor"]["shape"] == [32, 32, 3]
    assert len(json.dumps(kept)) < 300
    assert plain(picture[::-1]) != kept["textures"]["floor"] == plain(picture.copy())


def test_keywords_are_kept_as_plain_values() -> None:
    kwargs = {"assets": Path("a/b"), "task_ids": range(2), "cameras": ("wrist",), "action_tokenizer": ActionTokenizer()}
    kept = plain({**kwargs, "size": np.int64(3), "none": None})
    assert kept == json.loads(json.dumps(kept))
    assert kept["assets"] == "a/b" and kept["task_ids"] == [0, 1] and kept["action_tokenizer"]["q99"] == [1.0] * 7
