"""How answers may be drawn."""

import math

import pytest

from reward_model.conversation import Sampling


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be a whole number of at least 1"),
        ({"max_new_tokens": 7.5}, "max_new_tokens=7.5 must be a whole number of at least 1"),
        ({"temperature": -0.1}, "temperature=-0.1 must be a number of at least 0; 0 takes the likeliest answer"),
        ({"temperature": math.nan}, "temperature=nan must be a number of at least 0; 0 takes the likeliest answer"),
        ({"top_p": 0.0}, "top_p=0.0 must be a number above 0 and at most 1; 1 draws from all tokens"),
        ({"top_p": 1.01}, "top_p=1.01 must be a number above 0 and at most 1; 1 draws from all tokens"),
        ({"seed": "x"}, "seed='x' must be a whole number, or null"),
    ],
)
def test_sampling_that_cannot_work_names_the_value_and_the_rule(given, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        Sampling(**given)


def test_sampling_at_its_limits():
    assert Sampling(1, 0, 1.0).seed is None and Sampling(temperature=2.5, top_p=1e-6, seed=0).temperature == 2.5
