import pickle

import numpy as np
import pytest
import torch as th

from vla_algos.bc.stream import TrainingStream


def test_every_sample_comes_once_per_pass():
    stream = TrainingStream(0)
    batches = [stream.next_indices(5, 2) for _ in range(5)]
    order = np.concatenate(batches)
    assert [len(b) for b in batches] == [2] * 5
    assert sorted(order[:5]) == sorted(order[5:]) == list(range(5))


def test_a_batch_may_be_larger_than_the_data():
    assert sorted(TrainingStream(0).next_indices(3, 6)) == [0, 0, 1, 1, 2, 2]


def test_stated_shares_of_the_tokens_are_hidden():
    hidden = TrainingStream(0).hidden_tokens((4000, 7), token_dropout=0.3, full_dropout=0.5)
    is_full = hidden.all(dim=1)
    assert is_full.float().mean() == pytest.approx(0.5, abs=0.03)
    assert hidden[~is_full].float().mean() == pytest.approx(0.3, abs=0.02)


def test_a_pickled_stream_goes_on_with_the_same_bits():
    stream = TrainingStream(3)
    stream.next_indices(7, 3)
    stream.hidden_tokens((2, 7), 0.5, 0.5)
    copy = pickle.loads(pickle.dumps(stream))
    for _ in range(4):
        assert np.array_equal(stream.next_indices(7, 3), copy.next_indices(7, 3))
        assert th.equal(stream.hidden_tokens((3, 7), 0.5, 0.5), copy.hidden_tokens((3, 7), 0.5, 0.5))
    assert copy.seed == 3
