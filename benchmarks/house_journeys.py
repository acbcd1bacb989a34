"""The files that four journeys through the house enter at run time, with the minis on the CPU.

A journey is one call, watched with ``sys.setprofile`` in every thread it starts. Frames of this repository's packages
count, by file and function; an edge leads from the file of the nearest such frame below to the file of the one that was
called. What runs while a module is being imported does not count, nor do comprehensions and lambdas as functions of
their own. Pipelines, rewards and trainers are ready before the watch begins; opening a judge and opening stage 3 are
journeys of their own.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("reward_model", "cac_align", "recipes")
PROMPT = "a yellow triangle moves right on a brown background"


@dataclass
class Footprint:
    """What a call has entered.

    Args:
        root: of the repository.
        packages: folders under it whose files count.
    """

    root: Path = ROOT
    packages: tuple[str, ...] = PACKAGES
    functions: set[tuple[str, str]] = field(default_factory=set)
    edges: set[tuple[str, str]] = field(default_factory=set)
    _files: dict[CodeType, str | None] = field(default_factory=dict)
    _on: bool = False

    @property
    def files(self) -> list[str]:
        """Paths under the root, sorted."""
        return sorted({file for file, _ in self.functions})

    @property
    def mutual(self) -> list[tuple[str, str]]:
        """Pairs of files that call each other."""
        return sorted((a, b) for a, b in self.edges if a < b and (b, a) in self.edges)

    @contextmanager
    def reaching_threads(self) -> Iterator[None]:
        """Threads that begin within the block can be watched, also by a :meth:`watching` that begins after them."""
        before = threading.getprofile()
        threading.setprofile(self._note)
        try:
            yield
        finally:
            threading.setprofile(before)  # type: ignore[arg-type]

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Notes what is entered within the block, in this thread and in those that begin within it."""
        with self.reaching_threads():
            self._on = True
            sys.setprofile(self._note)
            try:
                yield
            finally:
                sys.setprofile(None)
                self._on = False

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        if not self._on or event != "call" or (file := self._file(frame.f_code)) is None or _is_importing(frame):
            return
        name = frame.f_code.co_qualname
        if not frame.f_code.co_name.startswith("<"):
            self.functions.add((file, name))
        below = frame.f_back
        while below is not None and self._file(below.f_code) is None:
            below = below.f_back
        origin = self._file(below.f_code) if below is not None else None
        if origin is not None and origin != file:
            self.edges.add((origin, file))

    def _file(self, code: CodeType) -> str | None:
        """The file of a frame under the root, None for one that does not count."""
        if code not in self._files:
            path = Path(code.co_filename)
            inside = path.is_relative_to(self.root) and path.relative_to(self.root).parts[0] in self.packages
            self._files[code] = path.relative_to(self.root).as_posix() if inside else None
        return self._files[code]


def _is_importing(frame: FrameType | None) -> bool:
    """Whether the import machinery is at work in this thread: it runs a module's top level, or asks a finder."""
    while frame is not None:
        if frame.f_back is not None and _is_import(frame.f_back):
            return True
        frame = frame.f_back
    return False


def _is_import(frame: FrameType) -> bool:
    return "importlib" in frame.f_code.co_filename


def named(name: str, packages: tuple[str, ...] = PACKAGES, root: Path = ROOT) -> Any:
    """The class or function of this name, wherever it stands, so that a journey outlives a move of its module.

    Raises:
        LookupError: no module, or more than one, has it at its top.
    """
    homes = []
    for path in sorted(p for package in packages for p in (root / package).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if name in text and any(getattr(node, "name", None) == name for node in ast.parse(text).body):
            homes.append(path.relative_to(root))
    if len(homes) != 1:
        raise LookupError(f"{name} is at the top of {len(homes)} modules, not one: {', '.join(map(str, homes))}")
    parts = homes[0].with_suffix("").parts
    return getattr(importlib.import_module(".".join(parts[:-1] if parts[-1] == "__init__" else parts)), name)


# --- the journeys -----------------------------------------------------------------------------------------------------


def judge_a_video(folder: Path) -> tuple[Footprint, Footprint]:
    """The judge opens its model; then a video file goes through ``CaCReward.judge`` to a verdict. The video is
    abnormal, so both turns are asked.
    """
    from cac_align import CaCReward

    video, truth = write_world_video(folder / "abnormal.mp4", "squash")
    reward = CaCReward(str(ROOT / "assets/cac-mini"))
    opening, judging = Footprint(), Footprint()
    with opening.watching():
        reward.make_ready()
    with judging.watching():
        verdict = reward.judge(video, truth["prompt"])
    if len(verdict.turns) != 2:
        raise RuntimeError(f"the judge answered {len(verdict.turns)} turn(s) about an abnormal video, not 2")
    return opening, judging


def choose_the_best(folder: Path) -> Footprint:
    """A prompt through ``best_of_n`` to ``report.html``."""
    from diffusers import WanPipeline

    from cac_align import CaCReward, best_of_n

    pipe = WanPipeline.from_pretrained(ROOT / "assets/wan-mini")
    pipe.set_progress_bar_config(disable=True)
    reward = CaCReward(str(ROOT / "assets/cac-mini"), all_readouts=True)
    reward.make_ready()
    size = {"height": 32, "width": 32, "num_frames": 81, "num_inference_steps": 4}
    footprint = Footprint()
    with footprint.watching():
        best_of_n(pipe, PROMPT, reward=reward, n=2, output_dir=folder / "out", progress_bar=False, **size)
    if not (folder / "out" / "report.html").is_file():
        raise RuntimeError("best_of_n has written no report.html")
    return footprint


def align_a_step(folder: Path) -> tuple[Footprint, Footprint]:
    """One step of Flow-GRPO with the settings of its mini preset, from rollouts to the update: with a reward that is a
    plain function, and with the preset's own, the composite of two judges.
    """
    from cac_align import FlowGRPOConfig, FlowGRPOTrainer

    settings = read_preset("flow_grpo/mini.yaml")
    small = {"batch": "2x4", "sample_batch_size": 4, "num_inference_steps": 4}
    footprints = []
    for reward, combination in ((brightness, "scores"), (None, "advantages")):  # a function has no parts to weigh
        footprint = Footprint()
        with footprint.reaching_threads():  # the one that judges begins with the trainer, which tries the reward
            changes = {**small, "reward_combination": combination, "output_dir": str(folder / combination)}
            config = FlowGRPOConfig.from_dict({**settings, **changes})
            trainer = FlowGRPOTrainer(config, reward=reward)
            with footprint.watching():
                trainer.run_step()
        footprints.append(footprint)
    return footprints[0], footprints[1]


def brightness(videos: Sequence[np.ndarray], prompts: Sequence[str], *, fps: float) -> list[float]:
    """A reward as a user would write a first one: the mean of the pixels, 0 to 1."""
    return [float(video.mean()) / 255 for video in videos]


def train_a_step(folder: Path) -> tuple[Footprint, Footprint]:
    """Stage 3 on annotated videos: opening the trainer, then one step from rollouts to the update."""
    lines = []
    for number, kind in enumerate((None, "squash", None, "split")):
        path, truth = write_world_video(folder / f"{number}.mp4", kind, seed=910_100 + number)
        lines.append(json.dumps({"video": path.name, **truth, "split": "train", "group": f"{number}"}))
    (folder / "annotations.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = read_preset("stage3/mini.yaml")
    small = {"prompts_per_step": 2, "num_generations": 4, "max_steps": 1, "output_dir": str(folder / "out")}
    data = {"source": "annotations", "path": str(folder / "annotations.jsonl")}
    open_trainer = named("open_trainer")
    # On code whose library imports no mini, the fast vision path is handed in.
    takes = "fast_vision" in inspect.signature(open_trainer).parameters
    given = {"fast_vision": named("fast_vision")} if takes else {}
    opening, step = Footprint(), Footprint()
    with opening.watching():
        block = open_trainer({**settings, **small, "data": data}, **given)
        trainer = block.__enter__()
    try:
        with step.watching():
            trainer.run_step()
    finally:
        block.__exit__(None, None, None)
    return opening, step


def read_preset(name: str) -> dict[str, Any]:
    """A preset of the recipes, paths of the repository made absolute."""
    import yaml

    settings = yaml.safe_load((ROOT / "recipes/configs" / name).read_text(encoding="utf-8"))
    return {key: _absolute(value) for key, value in settings.items()}


def _absolute(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _absolute(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_absolute(entry) for entry in value]
    is_ours = isinstance(value, str) and value.startswith(("assets/", "recipes/"))
    return str(ROOT / value) if is_ours else value


def write_world_video(path: Path, kind: str | None, seed: int = 910_001) -> tuple[Path, dict[str, Any]]:
    """A procedural video as a file, and its annotation."""
    import av

    from reward_model.world import make_video

    frames, truth = make_video(seed, kind)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=16, options={"crf": "0", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv444p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path, truth.to_dict()


def run_journeys(only: str = "") -> dict[str, Footprint]:
    """All journeys, or those whose letter is in ``only`` (``"ab"``), by their names."""
    walks: dict[str, tuple[tuple[str, ...], Callable[[Path], Any]]] = {
        "a": (("judge: opening", "judge: `CaCReward.judge`"), judge_a_video),
        "b": (("best-of-n: `best_of_n` to report.html, judge open",), choose_the_best),
        "c": (("Flow-GRPO: one step, the reward a function", "Flow-GRPO: one step, two judges"), align_a_step),
        "d": (("stage 3: opening", "stage 3: one step"), train_a_step),
    }
    footprints: dict[str, Footprint] = {}
    for letter, (titles, walk) in walks.items():
        if only and letter not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            walked = walk(Path(folder))
        footprints |= zip(titles, walked if isinstance(walked, tuple) else (walked,), strict=True)
    return footprints
