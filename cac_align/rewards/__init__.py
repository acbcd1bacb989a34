"""Rewards: callables from videos to numbers, all of one shape (:mod:`cac_align.rewards.base`)."""
