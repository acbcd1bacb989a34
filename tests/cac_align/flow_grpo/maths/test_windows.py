"""SDE windows: the same for a group on every rank, inside the stochastic steps, and drawn as their mode says."""

from collections import Counter

import pytest

from cac_align.flow_grpo.maths.sampling import SDEWindow, derive_seed


def test_all_and_fixed():
    assert SDEWindow("all").steps(19) == tuple(range(19))
    assert SDEWindow("all", start=2, stop=5).steps(19) == (2, 3, 4)
    assert SDEWindow("fixed", size=3, start=1).steps(19) == (1, 2, 3)


def test_random_depends_on_seed_epoch_and_prompt_alone():
    window = SDEWindow("random", size=2, start=1, stop=9)
    reference = window.steps(19, seed=3, epoch=2, prompt_id="a dog")
    assert reference == window.steps(19, seed=3, epoch=2, prompt_id="a dog", iteration=77)
    others = [
        [window.steps(19, seed=s, epoch=2, prompt_id="a dog") for s in range(20)],
        [window.steps(19, seed=3, epoch=e, prompt_id="a dog") for e in range(20)],
        [window.steps(19, seed=3, epoch=2, prompt_id=f"a dog {p}") for p in range(20)],
    ]
    assert all(len(set(drawn)) > 3 for drawn in others)


def test_random_reaches_every_place_alike():
    window = SDEWindow("random", size=2, start=1, stop=6)
    drawn = Counter(window.steps(19, prompt_id=k) for k in range(4000))
    assert set(drawn) == {(1, 2), (2, 3), (3, 4), (4, 5)}
    assert all(abs(count - 1000) < 5 * (4000 * 0.25 * 0.75) ** 0.5 for count in drawn.values())


def test_progressive_slides_to_the_end_and_starts_over():
    window = SDEWindow("progressive", size=3, start=1, stop=8, shift_every=2, stride=2)
    seen = [window.steps(19, iteration=k, prompt_id=k, epoch=k)[0] for k in range(10)]
    assert seen == [1, 1, 3, 3, 5, 5, 1, 1, 3, 3]
    odd = SDEWindow("progressive", size=3, stop=7, shift_every=1, stride=3)
    assert [odd.steps(19, iteration=k)[0] for k in range(4)] == [0, 3, 4, 0]
    assert SDEWindow("progressive", size=4, stop=4, shift_every=1).steps(19, iteration=5) == (0, 1, 2, 3)


@pytest.mark.parametrize("mode", ["all", "fixed", "random", "progressive"])
def test_windows_stay_inside(mode):
    window = SDEWindow(mode, size=2, start=3, shift_every=1)
    for k in range(40):
        steps = window.steps(10, epoch=k, iteration=k)
        assert steps == tuple(range(steps[0], steps[-1] + 1)) and steps[0] >= 3 and steps[-1] < 10


@pytest.mark.parametrize(
    ("options", "num_steps", "message"),
    [
        ({"mode": "some"}, 19, "'some' is unknown; choose one of all, fixed, random, progressive"),
        ({"size": 0}, 19, "size=0 must be at least 1"),
        ({"start": -1}, 19, "start=-1 must be at least 0"),
        ({"mode": "fixed", "size": 3, "start": 17}, 19, "3 steps does not fit between start=17 and stop=19"),
        ({"mode": "random", "size": 2, "stop": 20}, 19, "stop=20 lies outside the 19 stochastic steps"),
        ({"mode": "all"}, 0, "of 0 stochastic steps"),
    ],
)
def test_bad_windows(options, num_steps, message):
    with pytest.raises(ValueError, match=message):
        SDEWindow(**options).steps(num_steps)


def test_seeds_are_pinned_and_do_not_run_into_each_other():
    """The numbers are part of every run: a change of the hash would change what a resumed run draws."""
    assert derive_seed(0) == 3696793467068528757
    assert derive_seed(0, "window", 3) == 4260202177327446830
    assert len({derive_seed(1, 23), derive_seed(12, 3), derive_seed("1", 23), derive_seed(1, "23")}) == 4
    assert all(0 <= derive_seed(k) < 2**63 for k in range(100))
