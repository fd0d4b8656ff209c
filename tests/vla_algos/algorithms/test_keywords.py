"""Keywords of constructors: each is documented once, and means the same wherever it stands."""

import inspect
import re

import pytest

from vla_algos import TPO, TokenGRPO, TokenPPO, TokenRLOO
from vla_algos.algorithms.base import TokenAlgorithm

ALGORITHMS = (TokenPPO, TokenGRPO, TokenRLOO, TPO)


def documented(cls):
    """Keywords that a class's own docstring describes."""
    return re.findall(r":param (\w+):", cls.__doc__)


def keywords(cls):
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {p.name: p.annotation for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_keyword_is_documented_once(algorithm):
    own, shared = documented(algorithm), documented(TokenAlgorithm)
    assert len(own) == len(set(own)) and not set(own) & set(shared), "documented twice"
    assert set(own) <= set(keywords(algorithm)), "documented, but not taken"
    assert set(keywords(algorithm)) <= {*own, *shared}, "taken, but not documented"


def test_what_is_documented_for_all_is_taken_by_all():
    for name in set(documented(TokenAlgorithm)) - {"kl_coef"}:
        assert all(name in keywords(algorithm) for algorithm in ALGORITHMS), name


def test_keywords_of_one_name_have_one_type():
    types = {}
    for algorithm in ALGORITHMS:
        for name, annotation in keywords(algorithm).items():
            assert types.setdefault(name, annotation) == annotation, f"{name} of {algorithm.__name__}"
