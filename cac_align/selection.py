"""Best-of-n: draw n videos from an unchanged pipeline, let a reward judge them, keep the best, show why."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from cac_align import candidates as draw
from cac_align import run_folder
from cac_align.readout_note import readout_note
from cac_align.rewards.base import RewardError, check_callable, evaluate, reward_name
from cac_align.rewards.composite import CompositeReward
from reward_model.video import check_fps

if TYPE_CHECKING:
    import numpy as np

    from reward_model.schema import Verdict


@dataclass(frozen=True, repr=False)
class BestOfNOutput:
    """The candidates of one prompt, what the reward said of them, and the choice.

    Lists have one entry per candidate, in drawing order. ``scores`` and ``verdicts`` hold None where there is none;
    ``reasons`` says why a score is missing; ``parts`` holds the members' scores of a composite reward.
    """

    prompt: str
    candidates: list[np.ndarray]
    scores: list[float | None]
    best: int
    seeds: list[int]
    verdicts: list[Verdict | None]
    reasons: list[str | None]
    fps: float
    parts: dict[str, list[float | None]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def frames(self) -> np.ndarray:
        """The chosen video, (T, H, W, 3) uint8."""
        return self.candidates[self.best]

    @property
    def ranking(self) -> list[int]:
        """Candidates from best to worst; ties in drawing order, those without a score last."""
        return sorted(range(len(self.scores)), key=lambda k: (self.scores[k] is None, -(self.scores[k] or 0.0), k))

    def __repr__(self) -> str:
        return f"BestOfNOutput(prompt={self.prompt!r}, best={self.best}, scores={self.scores})"

    def __str__(self) -> str:
        """One line per candidate, best first."""
        return "\n".join(f"{rank}.  {self._line(k)}" for rank, k in enumerate(self.ranking, 1))

    def _line(self, k: int) -> str:
        score, verdict = self.scores[k], self.verdicts[k]
        if score is None:
            return f"candidate {k:02d}    -     could not judge: {self.reasons[k]}"
        found = ", ".join(t.value for t in verdict.types) if verdict else ""
        note = readout_note(verdict, score)
        said = "  ".join(part for part in (found, f"({note})" if note else "") if part)
        return f"candidate {k:02d}  {score:.4f}  {verdict.status if verdict else ''}  {said}".rstrip()

    def save(self, directory: str | Path) -> Path:
        """Writes ``best.mp4``, ``candidates/*.mp4``, ``result.json`` and ``report.html``; each file is written whole or
        not at all.

        Args:
            directory: created when missing; files of an earlier save are replaced.

        Returns:
            The path of ``report.html``, a self-contained page.
        """
        from cac_align.report.save import save_output

        return save_output(self, Path(directory))


@overload
def best_of_n(pipe: Any, prompt: str, *, reward: Any, **options: Any) -> BestOfNOutput: ...


@overload
def best_of_n(pipe: Any, prompt: Sequence[str], *, reward: Any, **options: Any) -> list[BestOfNOutput]: ...


def best_of_n(
    pipe: Any,
    prompt: str | Sequence[str],
    *,
    reward: Any,
    n: int = 5,
    seed: int = 0,
    fps: float = 16,
    batch_size: int = 1,
    output_dir: str | Path | None = None,
    progress_bar: bool = True,
    **pipe_kwargs: Any,
) -> BestOfNOutput | list[BestOfNOutput]:
    """Draws ``n`` videos, has them judged and returns them with the best one chosen.

    Candidate k depends on the pipeline, the prompt, ``seed`` and k alone: not on ``n``, nor on the order, nor (up to
    the rounding of batched arithmetic: measured on the CPU in float32, nothing for Wan and one level of 255 in 4 of
    100,000 values for LTX) on ``batch_size``. Its noise comes from a CPU generator seeded with
    ``out.seeds[k]``; several prompts share these seeds. The reward sees exactly the frames that are kept: uint8, in
    memory, before any video codec.

    Args:
        pipe: a diffusers pipeline whose output has ``frames``: text to video, or image to video with ``image=...``
            among ``pipe_kwargs``.
        prompt: one text, or several.
        reward: a callable as in :class:`cac_align.rewards.base.Reward`, or a list of them, whose mean counts.
        n: candidates per prompt.
        seed: integer >= 0.
        fps: frames per second of the pipeline's videos: 16 for Wan, 24 for LTX, 8 for CogVideoX.
        batch_size: candidates per pipeline call.
        output_dir: where finished candidates are kept, so that an interrupted run goes on there, and where the result
            is saved at the end. Several prompts get subfolders ``prompt-00``, ``prompt-01``, ...
        progress_bar: show a bar with one tick per candidate.
        **pipe_kwargs: passed on to the pipeline unchanged.

    Returns:
        A :class:`BestOfNOutput`, or a list of them for several prompts. Of equal scores the first candidate wins.

    Raises:
        ValueError: an argument is out of range, or the pipeline returns no frames.
        RewardError: the reward broke its contract, or could judge no candidate at all; the reasons are listed.
        ResumeError: ``output_dir`` holds candidates made with other settings.

    Example:
        >>> out = best_of_n(pipe, "a dog catches a ball", reward=CaCReward(), n=5, num_frames=81)      # doctest: +SKIP
        >>> out.best, out.scores, out.frames.shape                                                     # doctest: +SKIP
    """
    if not callable(pipe):
        raise ValueError(f"pipe must be a diffusers pipeline, got {type(pipe).__name__}")
    prompts = _check(prompt, n, seed, batch_size, pipe_kwargs)
    rate = check_fps(fps)
    reward = CompositeReward(reward) if isinstance(reward, list | tuple) else reward
    check_callable(reward)
    folders: list[Path | None] = [None] * len(prompts)
    if output_dir is not None:
        several = not isinstance(prompt, str)
        folders = [Path(output_dir) / f"prompt-{k:02d}" if several else Path(output_dir) for k in range(len(prompts))]
    outputs = []
    with _bar(n * len(prompts), progress_bar) as bar, draw.encode_once(pipe):
        origin = {"pipeline": run_folder.describe_pipeline(pipe), "arguments": run_folder.plain(pipe_kwargs)}
        run = _Run(pipe, reward, n, batch_size, rate, pipe_kwargs, {**origin, "seed": seed}, bar)
        for text, folder in zip(prompts, folders, strict=True):
            videos, seeds = run.draw(text, folder)
            outputs.append(run.choose(text, videos, seeds))
            if folder is not None:
                outputs[-1].save(folder)
    return outputs[0] if isinstance(prompt, str) else outputs


def _check(prompt: Any, n: Any, seed: Any, batch_size: Any, pipe_kwargs: Mapping[str, Any]) -> list[str]:
    """The prompts as a list, after every argument has been looked at."""
    prompts = [prompt] if isinstance(prompt, str) else list(prompt) if isinstance(prompt, Sequence) else [prompt]
    if not prompts:
        raise ValueError("prompt is an empty list; pass one text or a list of at least one")
    for text in prompts:
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"prompt {text!r} must be a text that is not empty")
    for name, value, low in (("n", n, 1), ("batch_size", batch_size, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < low:
            raise ValueError(f"{name}={value!r} must be an integer of at least {low}")
    for name in pipe_kwargs:
        if name in draw.RESERVED:
            raise ValueError(f"{name}= cannot be passed to best_of_n: {draw.RESERVED[name]}")
    return prompts


@contextlib.contextmanager
def _bar(total: int, shown: bool) -> Any:
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="best of n", unit="video", disable=not shown) as bar:
        yield bar


@dataclass(frozen=True)
class _Run:
    """One call of :func:`best_of_n`: what all its prompts share."""

    pipe: Any
    reward: Any
    n: int
    batch_size: int
    fps: float
    pipe_kwargs: dict[str, Any]
    settings: Mapping[str, Any]
    bar: Any

    def draw(self, prompt: str, folder: Path | None) -> tuple[list[np.ndarray], list[int]]:
        """The candidates of one prompt and their seeds: those the folder holds already, and the rest drawn in batches.

        Each batch is stored as soon as it is drawn.
        """
        seeds = [draw.candidate_seed(self.settings["seed"], k) for k in range(self.n)]
        origin = {**self.settings, "prompt": prompt}
        made_by = [{**origin, "candidate": k, "candidate_seed": s} for k, s in enumerate(seeds)]
        videos: dict[int, np.ndarray] = {}
        for k in range(self.n):
            stored = run_folder.load(folder, k, made_by[k]) if folder is not None else None
            if stored is not None:
                videos[k] = stored
                self.bar.update()
        missing = [k for k in range(self.n) if k not in videos]
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            made = draw.generate(self.pipe, prompt, [seeds[k] for k in batch], self.pipe_kwargs)
            for k, video in zip(batch, made, strict=True):
                videos[k] = video
                if folder is not None:
                    run_folder.store(folder, k, video, made_by[k])
            self.bar.update(len(batch))
        return [videos[k] for k in range(self.n)], seeds

    def choose(self, prompt: str, videos: list[np.ndarray], seeds: list[int]) -> BestOfNOutput:
        """Has the candidates of one prompt judged, all at once, and picks the best."""
        self.bar.set_postfix_str("judging")
        answer = evaluate(self.reward, videos, [prompt] * len(videos), fps=self.fps)
        name = reward_name(self.reward)
        known = {k: score for k, score in enumerate(answer.scores) if score is not None}
        if not known:
            listed = "; ".join(f"candidate {k}: {reason}" for k, reason in enumerate(answer.reasons))
            raise RewardError(f"reward {name!r} could judge none of the {len(videos)} candidates: {listed}")
        self.bar.set_postfix_str("")
        return BestOfNOutput(
            prompt=prompt,
            candidates=videos,
            scores=answer.scores,
            best=max(known, key=lambda k: (known[k], -k)),
            seeds=seeds,
            verdicts=answer.verdicts,
            reasons=answer.reasons,
            fps=self.fps,
            parts=answer.parts,
            settings={**self.settings, "n": self.n, "batch_size": self.batch_size, "reward": name, **_versions()},
        )


def _versions() -> dict[str, str]:
    """What drew the videos, for the record: candidates of the same settings may differ between versions."""
    from importlib.metadata import version

    return {"diffusers": version("diffusers"), "torch": version("torch")}
