"""Best-of-n: draw n videos from an unchanged pipeline, let a reward judge them, keep the best, show why."""

from __future__ import annotations

import contextlib
import inspect
import logging
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, overload

from cac_align.pipelines import Pipeline
from cac_align.rewards.base import (
    RankBy,
    Reward,
    RewardError,
    check_num_frames,
    check_rank_by,
    check_reward,
    demo_note,
    describe_reward,
    evaluate,
    make_ready,
    objections,
    order,
    reward_name,
)
from cac_align.rewards.composite import CompositeReward
from cac_align.selection import candidates as draw
from cac_align.selection import run_folder
from cac_align.selection.run_folder import BestOfNOutput
from reward_model.video.clip import check_fps

if TYPE_CHECKING:
    import numpy as np
    from tqdm.auto import tqdm


logger = logging.getLogger(__name__)


@overload
def best_of_n(
    pipe: Pipeline,
    prompt: str,
    *,
    reward: Reward | Sequence[Reward],
    n: int = 5,
    seed: int = 0,
    fps: float = 16,
    batch_size: int = 1,
    output_dir: str | Path | None = None,
    rank_by: RankBy = "verdict",
    progress_bar: bool = True,
    **pipe_kwargs: Any,
) -> BestOfNOutput: ...


@overload
def best_of_n(
    pipe: Pipeline,
    prompt: Sequence[str],
    *,
    reward: Reward | Sequence[Reward],
    n: int = 5,
    seed: int = 0,
    fps: float = 16,
    batch_size: int = 1,
    output_dir: str | Path | None = None,
    rank_by: RankBy = "verdict",
    progress_bar: bool = True,
    **pipe_kwargs: Any,
) -> list[BestOfNOutput]: ...


def best_of_n(
    pipe: Pipeline,
    prompt: str | Sequence[str],
    *,
    reward: Reward | Sequence[Reward],
    n: int = 5,
    seed: int = 0,
    fps: float = 16,
    batch_size: int = 1,
    output_dir: str | Path | None = None,
    rank_by: RankBy = "verdict",
    progress_bar: bool = True,
    **pipe_kwargs: Any,
) -> BestOfNOutput | list[BestOfNOutput]:
    """Draws ``n`` videos, has them judged and returns them with the best one chosen.

    Candidate k depends on the pipeline, the prompt, ``seed`` and k alone: not on ``n``, nor on the order, nor (up to
    the rounding of batched arithmetic: measured on the CPU in float32, nothing for Wan and one level of 255 in 4 of
    100,000 values for LTX) on ``batch_size``. Its noise comes from a CPU generator seeded with
    ``out.seeds[k]``; several prompts share these seeds. The reward sees exactly the frames that are kept: uint8, in
    memory, before any video codec.

    What cannot work is found before anything is drawn, and the reward is loaded then, too (a pipeline that offloads to
    the CPU has the GPU to itself while it draws: the reward loads afterwards). Candidates that were drawn are never
    lost: where something fails later, they are kept in ``output_dir`` or in a folder that the log and a note of the
    error name, and the same call with ``output_dir=`` that folder goes on with them.

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
        rank_by: ``"verdict"``: a video that a judge calls abnormal never beats one it does not object to, then the
            score decides; ``"score"``: the score alone. The same where the reward gives no verdicts.
        progress_bar: show a bar with one tick per candidate.
        **pipe_kwargs: passed on to the pipeline; a photo that is stored on its side is turned upright.

    Returns:
        A :class:`BestOfNOutput`, or a list of them for several prompts. Of equal scores the first candidate wins.

    Raises:
        ValueError: an argument is out of range or unknown to the pipeline, or the pipeline returns no frames.
        RewardError: the reward broke its contract, or could judge no candidate at all; the reasons are listed.
        ResumeError: ``output_dir`` holds candidates made with other settings.

    Example:
        >>> out = best_of_n(pipe, "a dog catches a ball", reward=CaCReward(), n=5, num_frames=81)      # doctest: +SKIP
        >>> out.best, out.scores, out.frames.shape                                                     # doctest: +SKIP
    """
    prompts = _check(pipe, prompt, n, seed, batch_size, pipe_kwargs)
    check_rank_by(rank_by)
    rate = check_fps(fps)
    reward = CompositeReward(reward) if isinstance(reward, list | tuple) else reward
    check_reward(reward)
    if isinstance(pipe_kwargs.get("num_frames"), int):
        check_num_frames(reward, pipe_kwargs["num_frames"])
    draw.check_whole(pipe)
    pipe_kwargs = draw.upright(pipe_kwargs)
    draw.warn_of_stretching(pipe, pipe_kwargs)
    folders: list[Path | None] = [None] * len(prompts)
    if output_dir is not None:
        several = not isinstance(prompt, str)
        folders = [Path(output_dir) / f"prompt-{k:02d}" if several else Path(output_dir) for k in range(len(prompts))]
    if not draw.offloads(pipe):
        make_ready(reward)
    outputs = []
    marks = run_folder.describe_pipeline(pipe, run_folder.stored_pipeline(folders))
    origin = {"pipeline": marks, "arguments": run_folder.plain(pipe_kwargs)}
    settings = {**origin, "seed": seed}
    with _bar(n * len(prompts), progress_bar) as bar, draw.encode_once(pipe):
        run = _Run(pipe, reward, n, batch_size, rate, pipe_kwargs, settings, bar, rank_by)
        with run.kept(isinstance(prompt, str)):
            for text, folder in zip(prompts, folders, strict=True):
                videos, seeds = run.draw(text, folder)
                outputs.append(run.choose(text, videos, seeds))
                if folder is not None:
                    outputs[-1].save(folder)
    return outputs[0] if isinstance(prompt, str) else outputs


def _check(
    pipe: Pipeline, prompt: str | Sequence[str], n: int, seed: int, batch_size: int, pipe_kwargs: Mapping[str, Any]
) -> list[str]:
    """The prompts as a list, after every argument has been looked at."""
    if not callable(pipe):
        hint = f"; load it: DiffusionPipeline.from_pretrained({pipe!r})" if isinstance(pipe, str) else ""
        raise ValueError(f"pipe must be a diffusers pipeline, got {type(pipe).__name__}{hint}")
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
    _check_known(pipe, pipe_kwargs)
    return prompts


def _check_known(pipe: Pipeline, pipe_kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for an argument that neither best_of_n nor the pipeline knows."""
    try:
        parameters = inspect.signature(pipe.__call__).parameters
    except (TypeError, ValueError):
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    own = [name for name in inspect.signature(best_of_n).parameters if name != "pipe_kwargs"]
    for name in pipe_kwargs:
        if name not in parameters:
            near = get_close_matches(name, [*own, *parameters], 1)
            raise ValueError(
                f"{name}={pipe_kwargs[name]!r}: best_of_n hands what it does not know on to the pipeline, and "
                f"{type(pipe).__name__} takes no {name!r}{f'; did you mean {near[0]}?' if near else ''}"
            )


@contextlib.contextmanager
def _bar(total: int, shown: bool) -> Iterator[tqdm[NoReturn]]:
    from tqdm.auto import tqdm

    with tqdm(total=total, desc="best of n", unit="video", disable=not shown) as bar:
        yield bar


@dataclass(frozen=True)
class _Run:
    """One call of :func:`best_of_n`: what all its prompts share."""

    pipe: Pipeline
    reward: Any
    n: int
    batch_size: int
    fps: float
    pipe_kwargs: dict[str, Any]
    settings: Mapping[str, Any]
    bar: Any
    rank_by: str
    #: What was drawn for each prompt and is in no folder yet.
    loose: list[tuple[str, dict[int, np.ndarray]]] = field(default_factory=list)

    def made_by(self, prompt: str) -> list[dict[str, Any]]:
        """The settings of every candidate of a prompt."""
        origin = {**self.settings, "prompt": prompt}
        seeds = [draw.candidate_seed(self.settings["seed"], k) for k in range(self.n)]
        return [{**origin, "candidate": k, "candidate_seed": s} for k, s in enumerate(seeds)]

    @contextlib.contextmanager
    def kept(self, single: bool) -> Iterator[None]:
        """Whatever ends the run early, candidates that lie in no folder are written to one: the log and a note of the
        error name it, the error's ``candidates`` is its path.
        """
        try:
            yield
        except BaseException as error:
            count = sum(len(videos) for _, videos in self.loose)
            if count:
                folder = self._rescue(single)
                said = (
                    f"the {count} videos drawn so far are kept: the same call with output_dir={str(folder)!r} goes on"
                )
                logger.warning("%s: %s", type(error).__name__, said)
                error.add_note(said)
                error.candidates = folder  # type: ignore[attr-defined]
            raise

    def _rescue(self, single: bool) -> Path:
        root = Path(tempfile.mkdtemp(prefix="best-of-n-"))
        for number, (prompt, videos) in enumerate(self.loose):
            folder, made_by = root if single else root / f"prompt-{number:02d}", self.made_by(prompt)
            for k, video in videos.items():
                run_folder.store(folder, k, video, made_by[k])
        return root

    def draw(self, prompt: str, folder: Path | None) -> tuple[list[np.ndarray], list[int]]:
        """The candidates of one prompt and their seeds: those the folder holds already, and the rest drawn in batches.

        Each batch is stored as soon as it is drawn.
        """
        seeds = [draw.candidate_seed(self.settings["seed"], k) for k in range(self.n)]
        made_by = self.made_by(prompt)
        videos: dict[int, np.ndarray] = {}
        if folder is None:
            self.loose.append((prompt, videos))
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
        if all(score is None for score in answer.scores):
            listed = "; ".join(f"candidate {k}: {reason}" for k, reason in enumerate(answer.reasons))
            raise RewardError(f"reward {name!r} could judge none of the {len(videos)} candidates: {listed}")
        self.bar.set_postfix_str("")
        _warn_of_unfamiliar(name, answer.verdicts)
        settings = {**self.settings, "n": self.n, "batch_size": self.batch_size, "reward": name}
        note = demo_note(self.reward)
        return BestOfNOutput(
            prompt=prompt,
            candidates=videos,
            scores=answer.scores,
            best=order(answer.scores, objections(answer.verdicts), self.rank_by)[0],
            seeds=seeds,
            verdicts=answer.verdicts,
            reasons=answer.reasons,
            fps=self.fps,
            parts=answer.parts,
            settings={**settings, "rank_by": self.rank_by, **({"note": note} if note else {}), **self._made_with()},
        )

    def _made_with(self) -> dict[str, Any]:
        """Settings of the reward and versions of what drew, for the record."""
        return {"reward_settings": describe_reward(self.reward), **_versions()}


def _warn_of_unfamiliar(name: str, verdicts: Sequence[Any]) -> None:
    """Says, before anything is ranked, that the judge does not know what it is ranking."""
    far = [k for k, v in enumerate(verdicts) if v is not None and getattr(v, "out_of_domain", None) is True]
    if far:
        logger.warning(
            "%d of %d candidates are unlike what %s was trained on, so their order says little (candidate %d: %s)",
            len(far), len(verdicts), name, far[0], verdicts[far[0]].domain_reason,
        )  # fmt: skip


def _versions() -> dict[str, str]:
    """Versions of what drew the videos, for the record: candidates of the same settings may differ between versions."""
    from importlib.metadata import version

    return {"diffusers": version("diffusers"), "torch": version("torch")}
