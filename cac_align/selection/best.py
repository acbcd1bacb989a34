"""Best-of-n: draw n videos from an unchanged pipeline, let a reward judge them, keep the best, show why."""

from __future__ import annotations

import contextlib
import inspect
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, overload

from cac_align.pipelines import Pipeline
from cac_align.rewards.base import (
    Evaluation,
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
from cac_align.selection.costs import Cost, metered, pick, seconds_of, total_forwards
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
    preview_steps: int | None = None,
    keep: int = 2,
    judge_all: bool = False,
    repair: int = 0,
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
    preview_steps: int | None = None,
    keep: int = 2,
    judge_all: bool = False,
    repair: int = 0,
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
    preview_steps: int | None = None,
    keep: int = 2,
    judge_all: bool = False,
    repair: int = 0,
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
        preview_steps: draws all candidates with so few denoising steps first and has these previews judged; only the
            best ``keep`` are then drawn in full, from the same seeds. None draws all in full.
        keep: candidates that previews let through; fewer than ``n``.
        judge_all: with previews, draws and judges all candidates in full as well, so that ``out.costs`` tells what the
            previews' choice lost against the best of all; the choice stays theirs.
        repair: where the chosen candidate is judged abnormal, tries to mend that many candidates, best first, until one
            is judged normal: see :func:`cac_align.repair`. Wan text-to-video pipelines.
        progress_bar: show a bar with one tick per candidate.
        **pipe_kwargs: passed on to the pipeline; a photo that is stored on its side is turned upright.

    Returns:
        A :class:`BestOfNOutput`, or a list of them for several prompts. Of equal scores the first candidate wins. A
        candidate that its preview left out is shown by that.

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
    stages = Stages(preview_steps, keep, judge_all, repair)
    stages.check(pipe, n, pipe_kwargs)
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
    with _bar(stages.videos(n) * len(prompts), progress_bar) as bar, draw.encode_once(pipe):
        run = Run(pipe, reward, n, batch_size, rate, pipe_kwargs, settings, bar, rank_by)
        with run.kept(isinstance(prompt, str)):
            for text, folder in zip(prompts, folders, strict=True):
                outputs.append(run.outcome(text, folder, stages))
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


class Stages(NamedTuple):
    """What :func:`best_of_n` does beside drawing and judging; its arguments of these names."""

    preview_steps: int | None
    keep: int
    judge_all: bool
    repair: int

    def check(self, pipe: Pipeline, n: int, pipe_kwargs: Mapping[str, Any]) -> None:
        """Raises ValueError for what cannot be, before anything is drawn."""
        if self.preview_steps is not None:
            from cac_align.selection.previews import check_previews

            check_previews(pipe, n, self.preview_steps, self.keep, pipe_kwargs)
        elif self.judge_all:
            raise ValueError("judge_all=True compares with what previews left out; set preview_steps=, or leave it out")
        if self.repair != 0:
            from cac_align.selection.repairing import check_repair

            check_repair(pipe, self.repair, pipe_kwargs)

    def videos(self, n: int) -> int:
        """Videos that are drawn for a prompt, previews included."""
        return n if self.preview_steps is None else n + (n if self.judge_all else self.keep)


class Drawn(NamedTuple):
    """A candidate: (T, H, W, 3) uint8, and what it cost; None: not known."""

    frames: np.ndarray
    cost: Cost | None = None


@dataclass(frozen=True)
class Run:
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
    #: What was drawn for each prompt and is in no folder yet: by part of the folder its settings and videos.
    loose: list[dict[str, tuple[list[dict[str, Any]], dict[int, Drawn]]]] = field(default_factory=list)

    def made_by(self, prompt: str, changes: Mapping[str, Any] | None = None) -> list[dict[str, Any]]:
        """The settings of every candidate of a prompt, whose pipeline arguments are these with some changed."""
        arguments = run_folder.plain({**self.pipe_kwargs, **(changes or {})})
        origin = {**self.settings, "arguments": arguments, "prompt": prompt}
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
            count = sum(len(videos) for parts in self.loose for _, videos in parts.values())
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
        for number, parts in enumerate(self.loose):
            folder = root if single else root / f"prompt-{number:02d}"
            for part, (made_by, videos) in parts.items():
                for k, drawn in videos.items():
                    run_folder.store(folder / part, k, drawn.frames, made_by[k], drawn.cost)
        return root

    def outcome(self, prompt: str, folder: Path | None, stages: Stages) -> BestOfNOutput:
        """Everything about one prompt: drawn, judged, chosen, repaired."""
        self.loose.append({})
        if stages.preview_steps is None:
            output = self.choose(prompt, self.draw(prompt, folder))
        else:
            from cac_align.selection.previews import choose_by_previews

            options = {"keep": stages.keep, "judge_all": stages.judge_all}
            output = choose_by_previews(self, prompt, folder, stages.preview_steps, **options)
        if stages.repair:
            from cac_align.selection.repairing import repair_outcome

            output = repair_outcome(self, output, folder, stages.repair)
        return output

    def draw(
        self,
        prompt: str,
        folder: Path | None,
        indices: Sequence[int] | None = None,
        *,
        part: str = "",
        changes: Mapping[str, Any] | None = None,
    ) -> dict[int, Drawn]:
        """Candidates of one prompt by their number: those the folder holds already, and the rest drawn in batches.

        Each batch is stored as soon as it is drawn.

        Args:
            indices: the candidates that are wanted; None: all.
            part: folder within the run's folder, such as that of previews.
            changes: arguments of the pipeline in which they differ from the run's.
        """
        made_by, wanted = self.made_by(prompt, changes), range(self.n) if indices is None else sorted(indices)
        videos: dict[int, Drawn] = {}
        place = None if folder is None else folder / part
        if place is None:
            self.loose[-1][part] = made_by, videos
        for k in wanted:
            stored = run_folder.load(place, k, made_by[k]) if place is not None else None
            if place is not None and stored is not None:
                videos[k] = Drawn(stored, run_folder.load_cost(place, k))
                self.bar.update()
        missing = [k for k in wanted if k not in videos]
        for start in range(0, len(missing), self.batch_size):
            batch = missing[start : start + self.batch_size]
            with metered(self.pipe) as meter:
                seeds = [made_by[k]["candidate_seed"] for k in batch]
                made = draw.generate(self.pipe, prompt, seeds, {**self.pipe_kwargs, **(changes or {})})
            for k, video in zip(batch, made, strict=True):
                videos[k] = Drawn(video, meter.cost(len(batch)))
                if place is not None:
                    run_folder.store(place, k, video, made_by[k], videos[k].cost)
            self.bar.update(len(batch))
        return {k: videos[k] for k in wanted}

    def judge(self, prompt: str, videos: Sequence[np.ndarray]) -> tuple[Evaluation, list[float]]:
        """What the reward says of videos of one prompt, all at once, and the seconds it took for each.

        Raises:
            RewardError: if it could judge none of them.
        """
        self.bar.set_postfix_str("judging")
        started = time.perf_counter()
        answer = evaluate(self.reward, videos, [prompt] * len(videos), fps=self.fps)
        seconds = (time.perf_counter() - started) / len(videos)
        name = reward_name(self.reward)
        if all(score is None for score in answer.scores):
            listed = "; ".join(f"candidate {k}: {reason}" for k, reason in enumerate(answer.reasons))
            raise RewardError(f"reward {name!r} could judge none of the {len(videos)} candidates: {listed}")
        self.bar.set_postfix_str("")
        _warn_of_unfamiliar(name, answer.verdicts)
        return answer, [seconds] * len(videos)

    def choose(self, prompt: str, drawn: Mapping[int, Drawn]) -> BestOfNOutput:
        """Has the candidates of one prompt judged and picks the best."""
        videos = [one.frames for one in drawn.values()]
        answer, seconds = self.judge(prompt, videos)
        costs = [one.cost for one in drawn.values()]
        objected = objections(answer.verdicts)
        return BestOfNOutput(
            prompt=prompt,
            candidates=videos,
            scores=answer.scores,
            best=order(answer.scores, objected, self.rank_by)[0],
            seeds=[draw.candidate_seed(self.settings["seed"], k) for k in drawn],
            verdicts=answer.verdicts,
            reasons=answer.reasons,
            fps=self.fps,
            parts=answer.parts,
            settings=self.told(),
            costs={
                "forwards": {"candidates": total_forwards(costs), "total": total_forwards(costs)},
                "judge_calls": len(videos),
                "seconds": {
                    "candidate": seconds_of([cost.seconds for cost in costs if cost is not None]),
                    "judge": seconds_of(seconds),
                },
                "random_pick": pick(answer.scores, objected),
            },
        )

    def told(self) -> dict[str, Any]:
        """Settings of an outcome, for the record."""
        note = demo_note(self.reward)
        settings = {**self.settings, "n": self.n, "batch_size": self.batch_size, "reward": reward_name(self.reward)}
        return {**settings, "rank_by": self.rank_by, **({"note": note} if note else {}), **self._made_with()}

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
