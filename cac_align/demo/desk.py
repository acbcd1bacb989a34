"""From an uploaded file, a drawn scene or a prompt to what the demo page shows: a video and a piece of HTML.

Prompts, file names and the judge's words are data: jinja2 escapes them, see :mod:`cac_align.report.page`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cac_align.demo.uploads import (
    MAX_CANDIDATES,
    MAX_SEED,
    check_integer,
    check_prompt,
    check_upload,
    without_folder,
)
from cac_align.report.overlay import write_overlay
from cac_align.report.page import is_demo, page_file, page_template
from cac_align.report.view import candidate_view
from reward_model.video.clip import Video, load_video
from reward_model.video.writing import display_scale
from reward_model.world import KINDS, make_video

if TYPE_CHECKING:
    from cac_align.pipelines import Pipeline
    from cac_align.rewards.cac import CaCReward
    from reward_model.schema import Verdict, VideoAnnotation

#: Name of the scene in which nothing goes wrong.
NOTHING = "nothing"
#: The longer side of a video that is drawn for the page; the judge sees the file itself.
SHOWN_SIDE = 640
#: Answers whose files are kept: each is copied as soon as it is shown.
KEPT = 8
#: The mini generator's size and length; its model card says why.
MINI_SHAPE: dict[str, Any] = {
    "height": 32,
    "width": 32,
    "num_frames": 81,
    "num_inference_steps": 20,
    "guidance_scale": 3.0,
}


class Shown(NamedTuple):
    """One answer of the page: an MP4, None where there is nothing to play, and HTML."""

    video: Path | None
    html: str


class DemoDesk:
    """Answers one visitor at a time.

    Args:
        folder: where videos are written; those of the last few answers stay.
        reward: the judge.
        pipe: draws videos of :data:`MINI_SHAPE` from a prompt.
    """

    def __init__(self, folder: Path, reward: CaCReward, pipe: Pipeline) -> None:
        self.folder, self.reward, self.pipe = folder, reward, pipe
        self._answers = 0

    def judge_upload(self, path: str | None, prompt: str | None = None) -> Shown:
        """The verdict on a file.

        Args:
            path: the uploaded file; None where nothing was chosen.
            prompt: the text it was made from, if there is one.
        """

        def answer() -> Shown:
            file, text = check_upload(path), check_prompt(prompt)
            verdict = self.reward.judge(str(file), text or None)
            return self._verdict(verdict, load_video(file), text, without_folder(verdict.error or "", file))

        return _answered(answer)

    def judge_drawn(self, kind: str, seed: float) -> Shown:
        """The verdict on a scene of the procedural world, and what is true of it.

        Args:
            kind: one of :func:`scene_kinds`.
            seed: the scene; the same one with :data:`NOTHING` is its twin without the anomaly.
        """

        def answer() -> Shown:
            if kind not in scene_kinds():
                raise ValueError(f"{kind!r} must be one of {', '.join(scene_kinds())}")
            number = check_integer("the seed", seed, 0, MAX_SEED)
            frames, truth = make_video(number, None if kind == NOTHING else kind)
            verdict = self.reward.judge(frames, truth.prompt, fps=truth.fps)
            video = Video(frames, truth.fps)
            return self._verdict(verdict, video, truth.prompt, verdict.error or "", truth=_truth(kind, truth))

        return _answered(answer)

    def best_of(self, prompt: str | None, n: float, seed: float) -> Shown:
        """The best of ``n`` videos that the mini generator draws, with the report as a page within the page."""

        def answer() -> Shown:
            from cac_align.selection.best import best_of_n

            text = check_prompt(prompt, needed=True)
            number = check_integer("the number of candidates", n, 1, MAX_CANDIDATES)
            first = check_integer("the seed", seed, 0, MAX_SEED)
            folder = self._new_folder()
            out = best_of_n(self.pipe, text, reward=self.reward, n=number, seed=first, progress_bar=False, **MINI_SHAPE)
            page = out.save(folder).read_text(encoding="utf-8")
            return Shown(folder / "best.mp4", _rendered("best_of.html.j2", page=page))

        return _answered(answer)

    def _verdict(self, verdict: Verdict, video: Video, prompt: str, error: str, truth: str = "") -> Shown:
        frames, fps = _shown_frames(video), video.fps
        entry = {
            "index": 0,
            "score": verdict.score,
            "reason": error,
            "parts": {},
            "verdict": verdict.to_dict(),
            "scale": display_scale(*frames.shape[1:3]),
        }
        card = candidate_view(entry, frames, fps, rank=1)
        html = _rendered(
            "verdict.html.j2", card=card, prompt=prompt, truth=truth, demo=is_demo(verdict, {}), window=verdict.window_s
        )
        path = self._new_folder() / "overlay.mp4"
        return Shown(None if verdict.status is None else write_overlay(path, frames, verdict, fps), html)

    def _new_folder(self) -> Path:
        for old in sorted(self.folder.glob("answer-*"))[: 1 - KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        self._answers += 1
        folder = self.folder / f"answer-{self._answers:08d}"
        folder.mkdir(parents=True)
        return folder


def scene_kinds() -> tuple[str, ...]:
    """The scenes that can be drawn: with nothing wrong, or with one of the world's kinds of anomalies."""
    return (NOTHING, *KINDS)


def refusal(text: str) -> str:
    """HTML of a sentence that says why there is no verdict."""
    return _rendered("refusal.html.j2", text=text)


def _answered(answer: Callable[[], Shown]) -> Shown:
    """The answer, or a sentence on what was wrong with the question."""
    try:
        return answer()
    except ValueError as error:  # VideoError among them
        return Shown(None, refusal(str(error)))
    except MemoryError:
        return Shown(None, refusal("this video takes more memory than there is; cut it, or scale it down"))


def _shown_frames(video: Video) -> np.ndarray:
    """All frames (T, H, W, 3) uint8, a large video made smaller."""
    height, width = video.size
    factor = min(1.0, SHOWN_SIDE / max(height, width))
    size = max(2, round(height * factor)), max(2, round(width * factor))
    return video.take(range(video.num_frames), size)


def _truth(kind: str, truth: VideoAnnotation) -> str:
    if not truth.anomalies:
        return "Drawn with nothing wrong."
    first = min(a.frames.start for a in truth.anomalies) / truth.fps
    last = (max(a.frames.end for a in truth.anomalies) + 1) / truth.fps
    said = "; ".join(a.reason for a in truth.anomalies if a.reason)
    return f"Drawn with {kind.replace('_', ' ')} ({KINDS[kind].value}), {first:.2f} s to {last:.2f} s: {said}."


def _rendered(name: str, **values: object) -> str:
    style = page_file(__package__, "demo.css")
    return page_template(__package__, name).render(style=style, **values)
