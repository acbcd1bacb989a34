"""Before the first step: does the reward work, and is the noise of replay far below the clip?"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_bus import RewardBus

log = logging.getLogger(__name__)

#: From this share of the clip on, replay noise is worth a warning.
NOISE_SHARE = 0.1


def check_reward(bus: RewardBus, config: FlowGRPOConfig, prompt: str) -> None:
    """Has one video of noise judged, of the size that will be drawn.

    Raises:
        ValueError: the reward raised, hung or broke its contract. That it could not judge noise is only logged.
    """
    shape = (config.num_frames, config.height, config.width, 3)
    video = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    bus.submit("check", [video], [prompt], fps=config.fps)
    answer = bus.collect()["check"]
    if bus.num_failed:
        raise ValueError(f"the reward does not work on a video of {shape}: {answer.reasons[0]}")
    if answer.scores[0] is None:
        log.warning("the reward could not judge a video of noise: %s", answer.reasons[0])


def judge_noise(found: Mapping[str, float], policy: str) -> str:
    """A measured floor (:meth:`~cac_align.flow_grpo.learner.replay.Replay.noise_floor`) in words, for the plan.

    Args:
        found: ``floor``, ``limit``, ``log_prob``.
        policy: ``warn`` or ``refuse``.

    Raises:
        ValueError: with ``refuse``, the floor is above a tenth of the limit.
    """
    share = found["floor"] / found["limit"]
    if share > NOISE_SHARE:
        said = (
            f"replaying at unchanged weights moves the ratio by {found['floor']:.3g}, {share:.0%} of its limit "
            f"{found['limit']:g}: gradients are partly noise. Sample and train in equal batches (train_batch_size "
            "null), raise the limit, or use fp32"
        )
        if policy == "refuse":
            raise ValueError(f"{said}; noise_floor='warn' goes on all the same")
        log.warning(said)
    log.debug("replay noise: %s", dict(found))
    if not found["floor"]:
        return "  noise floor none: replaying the recorded steps gives them back exactly"
    return f"  noise floor {share:.1%} of the clip: replaying at unchanged weights moves ratios by {found['floor']:.2g}"
