"""The group sampler: groups whole at every world size, no prompt twice in an epoch, no state."""

from collections import Counter

import pytest

from cac_align.flow_grpo.maths.sampling import GroupSampler

SAMPLER = GroupSampler(num_prompts=30, groups_per_step=4, num_generations=6, seed=5)


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_ranks_share_the_samples_of_a_step_evenly_and_no_world_size_changes_them(world_size):
    for step in range(SAMPLER.steps_per_epoch):
        parts = [SAMPLER.rank_samples(1, step, rank, world_size) for rank in range(world_size)]
        assert {len(part) for part in parts} == {24 // world_size}
        assert [spec for part in parts for spec in part] == SAMPLER.step_samples(1, step)
        if world_size <= 4:  # ranks divide groups: a group never leaves its rank
            assert all(len({s.group for s in part}) == 4 // world_size for part in parts)


def test_groups_are_whole():
    samples = SAMPLER.step_samples(0, 2)
    for group in range(4):
        members = [s for s in samples if s.group == group]
        assert [s.generation for s in members] == list(range(6))
        assert len({s.prompt_index for s in members}) == len({s.group_seed for s in members}) == 1
    assert len({s.seed for s in samples}) == 24 and len({s.prompt_index for s in samples}) == 4


def test_no_prompt_twice_in_an_epoch_and_other_ones_left_out_in_the_next():
    left = []
    for epoch in range(6):
        used = [s.prompt_index for k in range(SAMPLER.steps_per_epoch) for s in SAMPLER.step_samples(epoch, k)]
        assert set(Counter(used).values()) == {6} and len(set(used)) == 28
        left.append(frozenset(range(30)) - set(used))
    assert len(set(left)) > 1
    assert SAMPLER.prompt_order(0) != SAMPLER.prompt_order(1) != list(range(30))


def test_epoch_and_step_are_all_it_takes_to_resume():
    fresh = GroupSampler(30, 4, 6, seed=5)
    assert SAMPLER.steps_per_epoch == 7 and SAMPLER.locate(16) == (2, 2)
    assert fresh.step_samples(*fresh.locate(16)) == SAMPLER.step_samples(2, 2)
    seeds = {s.seed for e in range(3) for k in range(7) for s in SAMPLER.step_samples(e, k)}
    assert len(seeds) == 3 * 7 * 24, "a seed was used twice"
    assert GroupSampler(30, 4, 6, seed=6).step_samples(0, 0) != SAMPLER.step_samples(0, 0)


def test_more_generations_do_not_change_the_first_ones():
    few, many = GroupSampler(30, 4, 2, seed=5), SAMPLER
    seeds = {(s.prompt_index, s.generation): s.seed for s in many.step_samples(0, 0)}
    assert all(seeds[s.prompt_index, s.generation] == s.seed for s in few.step_samples(0, 0))


def test_bad_plans():
    with pytest.raises(ValueError, match="num_generations=1 must be at least 2: a group of one has no advantage"):
        GroupSampler(30, 4, 1)
    with pytest.raises(ValueError, match="groups_per_step=31 needs as many different prompts, the list has 30"):
        GroupSampler(30, 31, 2)
    with pytest.raises(ValueError, match="groups_per_step=0"):
        GroupSampler(30, 0, 2)
    with pytest.raises(ValueError, match="4 groups x 6 samples = 24 do not divide among 5 ranks"):
        SAMPLER.rank_samples(0, 0, 0, 5)
    with pytest.raises(ValueError, match="rank 2 must lie in 0 to 1"):
        SAMPLER.rank_samples(0, 0, 2, 2)
    with pytest.raises(ValueError, match=r"step 7 lies outside an epoch of 7 steps; use locate\(iteration\)"):
        SAMPLER.step_samples(0, 7)
