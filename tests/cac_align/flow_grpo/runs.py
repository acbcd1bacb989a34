"""Tiny real runs for the trainer's tests: a WanPipeline of a few thousand weights and a reward that reads pixels."""

from __future__ import annotations

import copy
import functools
import tempfile
from typing import Any

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.learner.experience import chunks_of
from cac_align.flow_grpo.trainer import FlowGRPOTrainer
from reward_model.engine.checkpoints import fingerprint
from tests.conftest import _quiet, _wan_parts

PROMPTS = ["a red ball moves right", "a blue square bounces", "a dog catches a ball", "green ball on black"]
EVAL_PROMPTS = ["a red square bounces", "a blue ball moves left"]
#: What the shared parts were like when a pipeline was first made of them, by the VAE.
_FIRST: dict[int, Any] = {}


def tiny_pipe(num_layers: int = 2) -> Any:
    """16x16 pixels, 5 or 9 frames; the same weights every time. All share what no training touches: VAE and text."""
    from diffusers import WanPipeline

    return _quiet(WanPipeline(**own(_built(num_layers))))


@functools.cache
def _built(num_layers: int) -> dict[str, Any]:
    return _wan_parts(16, num_layers)


def own(parts: dict[str, Any]) -> dict[str, Any]:
    """These parts with a copy of each that a training touches. A test that changes another one copies it first: else
    later runs of this process differ from those of other processes.
    """
    vae, text = parts["vae"], parts["text_encoder"]
    built_with = {name: value for name, value in vae.config.items() if not name.startswith("_")}  # saving adds those
    state = [built_with, *((str(x.dtype), fingerprint(x)) for x in (vae, text))]
    first = _FIRST.setdefault(id(vae), state)
    assert state == first, "an earlier test of this process changed the VAE or the text encoder that all share"
    touched = [name for name in parts if name.startswith("transformer") or name == "scheduler"]
    return {**parts, **{name: copy.deepcopy(parts[name]) for name in touched}}


def shallow_pipe() -> Any:
    """One block, which is all that most tests of a trainer need."""
    return tiny_pipe(num_layers=1)


@functools.cache
def _texts() -> tempfile.TemporaryDirectory:
    """A cache of embeddings for all runs of this process; runs of several processes need ``text_cache=None``."""
    return tempfile.TemporaryDirectory(prefix="texts")


def settings(folder: Any, **changes: Any) -> FlowGRPOConfig:
    base = {
        "output_dir": str(folder),
        "prompts": None,
        "height": 16,
        "width": 16,
        "num_frames": 5,
        "num_inference_steps": 4,
        "guidance_scale": 3.0,
        "kernel": "flow",
        "noise_level": 0.7,
        "batch": "2x4",
        "sample_batch_size": 4,
        "max_sequence_length": 16,
        "text_cache": _texts().name,
        "max_steps": 4,
        "lora_r": 4,
        "lora_alpha": 8,
        "learning_rate": 1e-3,
        "ema_every": 1,
        "rewards": ["tests.cac_align.flow_grpo.toy_rewards:brightness"],
        "reward_mode": "sync",
        "save_every": 2,
        "eval_every": 2,
        "log_videos_every": 0,
    }
    return FlowGRPOConfig.from_dict({**base, **changes})


def build(
    folder: Any,
    *,
    pipe: Any = None,
    reward: Any = None,
    eval_prompts: Any = (),
    accelerator: Any = None,
    **changes: Any,
) -> Any:
    return FlowGRPOTrainer(
        settings(folder, **changes),
        pipe=pipe or shallow_pipe(),
        reward=reward,
        prompts=PROMPTS,
        eval_prompts=list(eval_prompts),
        accelerator=accelerator,
    )


def weights(trainer: Any) -> dict[str, Any]:
    return {k: v.detach().clone() for k, v in trainer.learner.parameters.items()}


def equal(a: Any, b: Any) -> bool:
    import torch

    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def gradients(trainer, experience, chunks=None):
    """What one update would step along; the weights stay."""
    found = {}

    def note(loss, step):
        found.update({k: p.grad.clone() for k, p in trainer.learner.parameters.items()})
        trainer.learner.optimizer.zero_grad()

    kept, trainer.learner.apply = trainer.learner.apply, note
    try:
        trainer.learner.update(experience, chunks or chunks_of(experience, trainer.config.rows_per_forward))
    finally:
        trainer.learner.apply = kept
    return found
