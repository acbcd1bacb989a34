"""Best-of-n: draw n videos from an unchanged pipeline, let a reward judge them, keep the best, show why."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, overload

from cac_align.pipelines import Pipeline
from cac_align.rewards.base import (
    RankBy,
    Reward,
    check_num_frames,
    check_rank_by,
    check_reward,
    make_ready,
)
from cac_align.rewards.composite import CompositeReward
from cac_align.selection import candidates as draw
from cac_align.selection import run_folder
from cac_align.selection.run import Run
from cac_align.selection.run_folder import BestOfNOutput
from reward_model.video.clip import check_fps

if TYPE_CHECKING:
    from tqdm.auto import tqdm


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
        repair: where the chosen candidate is judged abnormal, tries to repair that many candidates, best first, until
            one is judged normal: see :func:`cac_align.repair`. Wan text-to-video pipelines.
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
                outputs.append(_outcome(run, text, folder, stages))
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
    """Arguments of :func:`best_of_n` for what it does beside drawing and judging."""

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


def _outcome(run: Run, prompt: str, folder: Path | None, stages: Stages) -> BestOfNOutput:
    """Everything about one prompt: drawn, judged, chosen, repaired."""
    run.loose.append({})
    if stages.preview_steps is None:
        output = run.choose(prompt, run.draw(prompt, folder))
    else:
        from cac_align.selection.previews import choose_by_previews

        keep, judge_all = stages.keep, stages.judge_all
        output = choose_by_previews(run, prompt, folder, stages.preview_steps, keep=keep, judge_all=judge_all)
    if stages.repair:
        from cac_align.selection.repairing import repair_outcome

        output = repair_outcome(run, output, folder, stages.repair)
    return output
