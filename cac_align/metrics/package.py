"""The real ``vbench`` package in its own environment: its pins (transformers 4.33, numpy 1) cannot share ours."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cac_align.metrics.dimensions import check_dimension
from cac_align.metrics.environment import find_python
from cac_align.metrics.weights import DINO_B16, cache_root, torch_home

WORKER = Path(__file__).with_name("package_worker.py")
#: A score, or None and the reason.
Answer = tuple[float | None, str | None]


class PackageError(RuntimeError):
    """The package's process died. The message ends with its last lines."""


class VBenchPackage:
    """Hands videos to the real package and reads its answers.

    The package's imaging quality and motion smoothness contain code under non-commercial licences (pyiqa, AMT).

    Args:
        python: interpreter of an environment with ``vbench``; None: ``$VBENCH_PYTHON``, else the one that
            ``cac-align vbench install`` made.
        cache_dir: the package's weights; None: ``$VBENCH_CACHE_DIR``, else ``~/.cache/vbench``.
        device: None: CUDA if that environment sees any.

    Raises:
        ValueError: if there is no such environment.

    Example:
        >>> VBenchPackage().score(["dog.mp4"], ["motion_smoothness"])                            # doctest: +SKIP
        {'motion_smoothness': [(0.9871, None)]}
    """

    def __init__(
        self,
        python: str | os.PathLike[str] | None = None,
        *,
        cache_dir: str | os.PathLike[str] | None = None,
        device: str | None = None,
    ) -> None:
        self.python, self.cache_dir, self.device = find_python(python), cache_root(cache_dir).absolute(), device

    def check(self, dimensions: Sequence[str]) -> None:
        """Raises WeightsError for the first weight file that is missing."""
        for dimension in dimensions:
            for weights in check_dimension(dimension, "package").weights:
                weights.find(self.cache_dir)

    def score(
        self,
        videos: Sequence[Any],
        dimensions: Sequence[str],
        *,
        prompts: Sequence[str | None] | None = None,
        fps: float | None = None,
    ) -> dict[str, list[Answer]]:
        """One answer per dimension and video, on the scale of the package's total.

        Args:
            videos: mp4 files, which the package reads itself; anything else is written to lossless mp4 first, and so
                are turned files, files of a varying rate and those that hide frames, which it reads as they are stored.
            dimensions: names of :data:`cac_align.metrics.DIMENSIONS`.
            prompts: some dimensions read them.
            fps: frame rate of videos passed as arrays.

        Raises:
            ValueError: an unknown dimension, a missing weight file, or a dimension that needs prompts and has none.
            PackageError: the package's process died.
        """
        self.check(dimensions)
        texts = list(prompts) if prompts is not None else [None] * len(videos)
        for dimension in dimensions:
            if check_dimension(dimension, "package").needs_prompt and None in texts:
                raise ValueError(f"{dimension} compares videos with their prompts: pass the text of each video")
        with tempfile.TemporaryDirectory(prefix="vbench-") as folder:
            paths, broken = self._files(videos, fps, Path(folder))
            found = self.run(
                [str(p) for p in paths.values()], dimensions, [texts[k] or "" for k in paths], Path(folder)
            )
        order = {k: position for position, k in enumerate(paths)}
        return {
            d: [
                (None, broken[k]) if k in broken else _answer(found["dimensions"][d], order[k], d)
                for k in range(len(videos))
            ]
            for d in dimensions
        }

    def run(
        self, paths: Sequence[str], dimensions: Sequence[str], prompts: Sequence[str], folder: Path
    ) -> dict[str, Any]:
        """The worker's raw answer; its files lie in ``folder``.

        Raises:
            PackageError: it died.
        """
        job = {
            "videos": list(paths),
            "prompts": list(prompts),
            "dimensions": list(dimensions) if paths else [],
            "device": self.device,
            "cache_dir": str(self.cache_dir),
            "work_dir": str(folder / "work"),
        }
        question, answer, log = folder / "job.json", folder / "answer.json", folder / "log.txt"
        question.write_text(json.dumps(job), encoding="utf-8")
        environment = {
            **os.environ,
            "TORCH_HOME": str(self.make_torch_home(folder)),
            "VBENCH_CACHE_DIR": str(self.cache_dir),
        }
        # A virtual environment or a launcher's ranks of ours mean nothing over there.
        for name in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
            environment.pop(name, None)
        with log.open("wb") as output:
            done = subprocess.run(
                [str(self.python), str(WORKER), str(question), str(answer)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment,
                cwd=folder,
                check=False,
            )
        if done.returncode or not answer.is_file():
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise PackageError(
                f"the vbench package stopped with code {done.returncode} ({self.python}): " + " | ".join(lines[-3:])
            )
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8"))
        found["dimensions"] = found["dimensions"] or {
            d: {"total": None, "values": {}, "errors": {}} for d in dimensions
        }
        return found

    def make_torch_home(self, folder: Path) -> Path:
        """A folder in which the package finds DINO: it looks only in torch's folder, also when its own cache has the
        file.
        """
        home, own = torch_home(), self.cache_dir / DINO_B16.path
        if not own.is_file() or DINO_B16.places(self.cache_dir)[0].is_file():
            return home
        made = folder / "torch"
        (made / "hub" / "checkpoints").mkdir(parents=True)
        (made / "hub" / "checkpoints" / own.name).symlink_to(own)
        for repository in (home / "hub").glob("facebookresearch_dino_*"):
            (made / "hub" / repository.name).symlink_to(repository.absolute())
        return made

    def _files(self, videos: Sequence[Any], fps: float | None, folder: Path) -> tuple[dict[int, Path], dict[int, str]]:
        """The file of each video that can be read, and the reasons of the others. The package prefers mp4 and chokes
        on broken files in native code, so each is decoded once before.
        """
        from reward_model.video.clip import FileVideo, VideoError, load_video
        from reward_model.video.writing import LOSSLESS_H264, write_video

        paths: dict[int, Path] = {}
        broken: dict[int, str] = {}
        for k, video in enumerate(videos):
            try:
                loaded = load_video(video, fps)
            except VideoError as error:
                broken[k] = str(error)
                continue
            facts = loaded.facts if isinstance(loaded, FileVideo) else None
            if fps is None and facts is not None and facts.as_stored and facts.path.suffix == ".mp4":
                paths[k] = Path(video).absolute()
            else:
                paths[k] = write_video(folder / f"{k:06d}.mp4", loaded.frames, loaded.fps, LOSSLESS_H264)
        return paths, broken


def _answer(said: dict[str, Any], position: int, dimension: str) -> Answer:
    key = str(position)
    if key in said["values"]:
        return said["values"][key] / check_dimension(dimension, "package").per_video_scale, None
    return None, said["errors"].get(key, "the package skipped this video silently")
