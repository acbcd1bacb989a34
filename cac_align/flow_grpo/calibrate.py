"""The scale of a training's rewards: a bank of videos of the base model is drawn and judged once, before the training.

The bank is drawn as a training's evaluations are, with the pipeline's own deterministic sampler, from the training's
prompts and its own seeds. Videos are judged in batches, each of which is on the disk at once: a bank that was stopped
goes on where it was.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.judging.reward_specs import read_specs
from cac_align.flow_grpo.loading import drawing_pipeline
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.needs import bank_of, check_needs
from cac_align.flow_grpo.run_prompts import prompt_images, prompt_texts
from cac_align.flow_grpo.sampler.experts import drawing_arguments
from cac_align.flow_grpo.sampler.rollout import image_argument
from cac_align.rewards.base import Evaluation, Reward, RewardError, check_num_frames, check_reward, evaluate, make_ready
from cac_align.rewards.calibration import (
    CLIP,
    MIN_VIDEOS,
    Calibration,
    Scale,
    difference,
    measure_scale,
    reward_identity,
)
from cac_align.selection.candidates import encode_once, generate
from reward_model.digests import json_digest
from reward_model.journal import Journal
from reward_model.shipped import package_version

log = logging.getLogger(__name__)

#: Number of a video, its prompt and its seed.
Item = tuple[int, str, int]
#: Videos that are judged at once; always the same ones, so that a bank that was stopped comes to the same scores.
BATCH = 4
#: Share of the bank beyond the clip from which a reward is called saturated.
_SATURATED = 0.05


def calibrate_rewards(
    config: FlowGRPOConfig,
    output: str | Path | None = None,
    *,
    num_videos: int = 64,
    seed: int = 0,
    device: str | None = None,
) -> Calibration:
    """Draws and judges a bank, and writes the scale of every reward.

    Args:
        config: settings of the training: model, prompts, sizes, sampling and rewards; the others do not count.
        output: file to write; by default that of the settings. Beside it lies ``<output>.bank.jsonl`` with every score.
        num_videos: videos of the bank: one of each prompt, then a second of each, until there are enough.
        seed: seed of the bank.
        device: device of drawing; by default CUDA where there is one. Rewards name their own.

    Raises:
        ValueError: the settings do not fit, or the output holds a bank of others.
        CalibrationError: if a reward has no scale on this bank.
        RewardError: if a reward cannot be asked.
    """
    output = output or config.calibration
    if output is None:
        raise ValueError("calibration=null: name the file to write (--output), and set calibration to it for training")
    if num_videos < MIN_VIDEOS:
        raise ValueError(f"num_videos={num_videos} must be at least {MIN_VIDEOS}; 64 or more make a steady scale")
    check_needs(config)
    rewards = _counted_rewards(config)
    prompts, images = prompt_texts(config), prompt_images(config)
    videos = [(k % len(prompts), derive_seed(seed, "calibration", k) % 2**32) for k in range(num_videos)]
    bank = {
        **bank_of(config),
        "num_videos": num_videos,
        "seed": seed,
        "prompts": json_digest(prompts)[:16],
        "seeds": json_digest([s for _, s in videos])[:16],
        "mixed_precision": config.mixed_precision,
    }
    identities = {name: reward_identity(reward) for name, reward in rewards.items()}
    path = Path(output)
    journal = Journal(
        path.with_name(f"{path.name}.bank.jsonl"),
        in_use=ValueError(f"another process is drawing the bank of {str(path)!r}; wait for it, or stop it"),
    )
    with closing(journal):
        known = _known(journal, {"bank": bank, "rewards": identities})
        firsts = [k for k in range(0, num_videos, BATCH) if k not in known]
        asked = [(k, prompts[place], drawn_from) for k, (place, drawn_from) in enumerate(videos)]
        missing = [asked[k : k + BATCH] for k in firsts]
        for items, scores in _judged(config, rewards, missing, images, device):
            journal.append(json.dumps({"first": items[0][0], "scores": scores}))
            known |= {k: one for (k, _, _), one in zip(items, scores, strict=True)}
    scales = {
        name: measure_scale([known[k][name] for k in range(num_videos)], name, identities[name]) for name in rewards
    }
    _warn_of_saturated(scales)
    found = Calibration(scales, {**bank, "cac_align": package_version()})
    found.save(path)
    return found


def _warn_of_saturated(scales: Mapping[str, Scale]) -> None:
    for name, scale in scales.items():
        if scale.clipped > _SATURATED:
            log.warning(
                "%.0f %% of the bank lie more than %g robust deviations from the median of reward %r: it saturates; a "
                "graded readout (log_odds) would make a better scale",
                100 * scale.clipped,
                CLIP,
                name,
            )


def _counted_rewards(config: FlowGRPOConfig) -> dict[str, Reward]:
    rewards = {spec.name: spec.build() for spec in read_specs(config.rewards) if spec.weight > 0}
    for reward in rewards.values():
        check_reward(reward)
        check_num_frames(reward, config.num_frames)
    return rewards


def _known(journal: Journal, header: Mapping[str, Any]) -> dict[int, dict[str, float | None]]:
    """Scores by video of a bank that was stopped; a new bank gets its first line.

    Raises:
        ValueError: if the file is that of another bank, or no bank.
    """
    remedy = f"delete {str(journal.path)!r} to draw a new bank, or name another output"
    try:
        lines = [json.loads(line.data) for line in journal.lines()]
        if not lines:
            journal.append(json.dumps(header))
            return {}
        was, *rest = lines
        known = {entry["first"] + k: dict(one) for entry in rest for k, one in enumerate(entry["scores"])}
        parts = [(dict(was[part]), json.loads(json.dumps(header[part]))) for part in ("bank", "rewards")]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{str(journal.path)!r} is not the scores of a bank: {error!r}; {remedy}") from error
    if changed := "; ".join(told for before, now in parts if (told := difference(before, now))):
        raise ValueError(f"{str(journal.path)!r} holds another bank: {changed}; {remedy}")
    return known


def _judged(
    config: FlowGRPOConfig,
    rewards: Mapping[str, Reward],
    batches: Sequence[Sequence[Item]],
    images: Mapping[str, Any],
    device: str | None,
) -> Iterator[tuple[Sequence[Item], list[dict[str, float | None]]]]:
    """Draws the videos of each batch one by one and asks every reward about all of them."""
    from tqdm.auto import tqdm

    if not batches:
        return
    for reward in rewards.values():
        make_ready(reward)
    arguments = {
        **drawing_arguments(config),
        **{name: getattr(config, name) for name in ("negative_prompt", "max_sequence_length")},
    }
    bar = tqdm(total=sum(map(len, batches)), desc="bank", unit="video")
    with bar, drawing_pipeline(config, device) as pipe, encode_once(pipe):
        for items in batches:
            frames = [
                generate(pipe, prompt, [seed], {**arguments, **image_argument(images, prompt)})[0]
                for _, prompt, seed in items
            ]
            texts = [prompt for _, prompt, _ in items]
            answers = {name: evaluate(r, frames, texts, fps=config.fps) for name, r in rewards.items()}
            _report_failures(answers)
            bar.update(len(items))
            yield items, [{name: answer.scores[k] for name, answer in answers.items()} for k in range(len(items))]


def _report_failures(answers: Mapping[str, Evaluation]) -> None:
    """Says which videos of a batch a reward could not judge.

    Raises:
        RewardError: if it could judge none of them.
    """
    for name, answer in answers.items():
        lost = [reason for score, reason in zip(answer.scores, answer.reasons, strict=True) if score is None]
        if lost and len(lost) == len(answer.scores):
            raise RewardError(f"reward {name!r} could judge none of {len(lost)} videos of the bank: {lost[0]}")
        if lost:
            log.warning("reward %r could not judge %d videos of the bank: %s", name, len(lost), lost[0])
