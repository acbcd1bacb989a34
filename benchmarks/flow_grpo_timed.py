"""Flow-GRPO steps watched phase by phase: what ``flow_grpo.py`` and ``device.py`` time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from flow_grpo_plain import PlainLoop, bytes_of

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.trainer import FlowGRPOTrainer

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "recipes" / "configs" / "flow_grpo"
PRESETS = {"fast": "wan21_1p3b_80gb.yaml", "plain": "wan21_1p3b_80gb.yaml", "strict": "strict_official.yaml"}
#: A window in the middle of a video whose group starts as one, as in grpo.yaml: there is a prefix to share.
LATE = {"window_mode": "fixed", "window_start": 2, "window_size": 2, "window_stop": None, "same_initial_noise": True}
ON_STEPS = ("grpo", "guard", "dppo")
#: Ways to do a step: the preset's file, and what is changed in it.
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (file, {}) for name, file in PRESETS.items()},
    "fast, shared": (PRESETS["fast"], {"same_initial_noise": True}),
    "fast, not shared": (PRESETS["fast"], {"same_initial_noise": True, "shared_prefix": "off"}),
    **{
        f"{name}, {how}": (f"{name}.yaml", LATE | change)
        for name in ON_STEPS
        for how, change in (("shared", {}), ("not shared", {"shared_prefix": "off"}))
    },
    **{name: (f"{name}.yaml", {}) for name in ("nft", "rvm")},
}
PHASES = ("text", "sampling", "decoding", "judge", "update", "rest")

#: What makes a preset a run of the minis; the same for all, so that they draw the same videos' worth.
MINI = {
    "model": str(ROOT / "assets" / "wan-mini"),
    "prompts": str(CONFIGS / "mini_prompts.txt"),
    "eval_prompts": None,
    "max_sequence_length": 64,
    # Graded, so that no group is without variance: the trainer would skip it, and the comparison would be unfair.
    "rewards": [{"reward": "cac", "options": {"readout": "log_odds"}}],
    "height": 32,
    "width": 32,
    "num_frames": 33,
    "mixed_precision": "no",
    "lora_r": 8,
    "lora_alpha": 16,
}


class Clock:
    """Seconds per phase. A phase inside another one stops the outer one's watch."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._open: list[str] = ["rest"]
        self._since = time.perf_counter()

    def start(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._since = time.perf_counter()

    def stop(self) -> dict[str, float]:
        self._switch()
        return dict(self.seconds)

    def _switch(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.seconds[self._open[-1]] += now - self._since
        self._since = now

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        self._switch()
        self._open.append(name)
        try:
            yield
        finally:
            self._switch()
            self._open.pop()

    def watch(self, owner: Any, method: str, name: str) -> None:
        """Counts every call of a method as a phase."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.phase(name):
                return inner(*args, **kwargs)

        setattr(owner, method, timed)


class Ours:
    """A step of :class:`FlowGRPOTrainer`, watched from outside."""

    def __init__(self, config: FlowGRPOConfig, reward: Any, clock: Clock, pipe: Any = None) -> None:
        self.trainer = trainer = FlowGRPOTrainer(config, reward=reward, pipe=pipe)
        self.transformer, self.parameters = trainer.transformer, list(trainer.learner.parameters.values())
        self.step = trainer.run_step
        clock.watch(trainer.texts, "batch", "text")
        clock.watch(trainer.rollouts, "draw_one", "sampling")
        clock.watch(trainer.pipe.vae, "decode", "decoding")
        clock.watch(trainer.bus, "submit", "judge")
        clock.watch(trainer.bus, "collect", "judge")
        clock.watch(trainer.learner, "learn", "update")
        collect = trainer.collect

        def kept() -> Any:
            self.experience = collect()
            return self.experience

        trainer.collect = kept  # type: ignore[method-assign]

    def records(self) -> list[list[Any]]:
        return [rollout.records for rollout in self.experience.rollouts]

    def record_bytes(self) -> int:
        records = [record for call in self.records() for record in call]
        return bytes_of(t for r in records for t in (r.latents, r.next_latents, r.mean, r.log_prob))


def watched_plain(config: FlowGRPOConfig, reward: Any, clock: Clock, pipe: Any = None) -> PlainLoop:
    """The plain loop with the same phases."""
    loop = PlainLoop(config, reward, pipe)
    clock.watch(loop, "texts", "text")
    clock.watch(loop.pipe.vae, "decode", "decoding")
    clock.watch(loop, "reward", "judge")
    clock.watch(loop, "update", "update")
    rollout = loop.pipe.scheduler.rollout

    @contextmanager
    def timed(*args: Any) -> Iterator[Any]:
        with clock.phase("sampling"), rollout(*args) as trajectory:
            yield trajectory

    loop.pipe.scheduler.rollout = timed
    return loop
