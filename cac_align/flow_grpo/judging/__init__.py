"""Rewards of a run: ``reward_specs`` (names and weights), ``reward_bus`` (judging while drawing), ``canaries``."""
