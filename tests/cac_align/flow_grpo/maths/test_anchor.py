"""The selective anchor: ranks against scipy's, disagreement by hand, and what is unknown is held."""

import random

import pytest
from scipy.stats import rankdata

from cac_align.flow_grpo.maths.anchor import disagreement, rank_in_group, selective_anchor


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_those_of_scipy(seed):
    rng = random.Random(seed)
    scores = [rng.choice([0.0, 0.1, 0.2, 0.5, rng.random()]) for _ in range(24)]
    groups = [k % 3 for k in range(24)]
    found = rank_in_group(scores, groups)
    for group in range(3):
        own = [s for s, g in zip(scores, groups, strict=True) if g == group]
        expected = (rankdata(own) - 1) / (len(own) - 1)
        assert [f for f, g in zip(found, groups, strict=True) if g == group] == pytest.approx(expected.tolist())


def test_disagreement_by_hand():
    """Four videos: main 0, 1/3, 2/3, 1; the others 0, 1/2 (twice), 1 and 1, 2/3, 1/3, 0."""
    main, others = [0.1, 0.2, 0.3, 0.4], [[5.0, 6.0, 6.0, 7.0], [9.0, 8.0, 7.0, 6.0]]
    expected = [0.5, 1 / 3 - (0.5 + 2 / 3) / 2, 2 / 3 - (0.5 + 1 / 3) / 2, 0.5]
    assert disagreement(main, others, "aaaa") == pytest.approx([abs(v) for v in expected], abs=1e-15)
    assert disagreement(main, [main, main], "aaaa") == [0.0] * 4
    assert disagreement(main, [main[::-1]], "aaaa") == pytest.approx([1, 1 / 3, 1 / 3, 1])


def test_scales_do_not_matter_and_groups_do():
    main, other = [1.0, 2.0, 3.0, 40.0, 50.0, 60.0], [3.0, 2.0, 1.0, 1.0, 2.0, 3.0]
    squeezed = [v**3 / 7 - 4 for v in other]
    assert disagreement(main, [other], "aaabbb") == disagreement(main, [squeezed], "aaabbb") == [1, 0, 1, 0, 0, 0]


def test_what_is_unknown_is_held():
    main, other = [1.0, None, 3.0, 2.0, 5.0], [1.0, 2.0, None, 2.0, 5.0]
    assert disagreement(main, [other], "aaaab") == [0.0, None, None, 0.25, None]
    assert selective_anchor(main, [other], "aaaab", 0.6) == [0, 1, 1, 0, 1]
    assert selective_anchor(main, [other], "aaaab", 0.25) == [0, 1, 1, 1, 1], "the threshold itself holds"
    assert selective_anchor(main, [other], "aaaab", 0.0) == [1] * 5
    with pytest.raises(ValueError, match="at least one auxiliary reward"):
        disagreement(main, [], "aaaab")
