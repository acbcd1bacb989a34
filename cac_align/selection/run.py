"""One call of best-of-n: candidates are drawn or read back, judged, chosen, and kept whatever ends the run."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cac_align.pipelines import Pipeline
from cac_align.rewards.base import (
    Evaluation,
    RewardError,
    demo_note,
    describe_reward,
    evaluate,
    objections,
    order,
    reward_name,
)
from cac_align.selection import candidates as draw
from cac_align.selection import run_folder
from cac_align.selection.costs import Cost, pick, seconds_of, total_forwards
from cac_align.selection.run_folder import BestOfNOutput

if TYPE_CHECKING:
    import numpy as np

logger = logging.getLogger(__name__)


class DrawnCandidate(NamedTuple):
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
    loose: list[dict[str, tuple[list[dict[str, Any]], dict[int, DrawnCandidate]]]] = field(default_factory=list)

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

    def draw(
        self,
        prompt: str,
        folder: Path | None,
        indices: Sequence[int] | None = None,
        *,
        part: str = "",
        changes: Mapping[str, Any] | None = None,
    ) -> dict[int, DrawnCandidate]:
        """Candidates of one prompt by their number: those the folder holds already, and the rest drawn in batches.

        Each batch is stored as soon as it is drawn.

        Args:
            indices: the candidates that are wanted; None: all.
            part: folder within the run's folder, such as that of previews.
            changes: arguments of the pipeline in which they differ from the run's.
        """
        made_by, wanted = self.made_by(prompt, changes), range(self.n) if indices is None else sorted(indices)
        videos: dict[int, DrawnCandidate] = {}
        place = None if folder is None else folder / part
        if place is None:
            self.loose[-1][part] = made_by, videos
        else:
            videos |= self._stored(place, made_by, wanted)
        missing = [k for k in wanted if k not in videos]
        seeds = [made_by[k]["candidate_seed"] for k in missing]
        arguments = {**self.pipe_kwargs, **(changes or {})}
        drawn = draw.generate_costed(self.pipe, prompt, seeds, arguments, self.batch_size)
        for k, (video, cost) in zip(missing, drawn, strict=True):
            videos[k] = DrawnCandidate(video, cost)
            if place is not None:
                run_folder.store(place, k, video, made_by[k], cost)
            self.bar.update()
        return {k: videos[k] for k in wanted}

    def _stored(
        self, place: Path, made_by: Sequence[Mapping[str, Any]], wanted: Sequence[int]
    ) -> dict[int, DrawnCandidate]:
        """Those of the wanted candidates that a folder holds."""
        found = {}
        for k in wanted:
            if (frames := run_folder.load(place, k, made_by[k])) is not None:
                found[k] = DrawnCandidate(frames, run_folder.load_cost(place, k))
                self.bar.update()
        return found

    def judge(self, prompt: str, videos: Sequence[np.ndarray]) -> tuple[Evaluation, list[float]]:
        """The reward's answer about videos of one prompt, asked for all at once, and the seconds it took for each.

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

    def choose(self, prompt: str, drawn: Mapping[int, DrawnCandidate]) -> BestOfNOutput:
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
