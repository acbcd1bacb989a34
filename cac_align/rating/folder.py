"""The one folder a rating session may touch: which videos lie in it, and what belongs to them.

Every path is resolved before it is opened: what leads out of the folder, by ``..``, by an absolute name or through a
link, is refused.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reward_model.folders import file_digest, unreadable
from reward_model.video.clip import VideoError

SUFFIXES = (".mp4", ".m4v", ".webm", ".mov", ".mkv", ".avi")
#: Where journals and exports go, inside the folder.
RATINGS = "ratings"
#: A prompt beside a video or in a result file is read up to this size.
MAX_TEXT_BYTES = 64 * 2**20


class OutsideError(ValueError):
    """A path leads out of the folder. The message names it."""


@dataclass(frozen=True)
class FoundVideo:
    """A video of the folder; ``path`` is relative to it, with slashes; ``group`` is the best-of-n run it is from;
    ``digest`` is the SHA-256 of its bytes.
    """

    path: str
    num_frames: int
    fps: float
    width: int
    height: int
    prompt: str = ""
    group: str = ""
    digest: str = ""


def inside(root: Path, relative: str | Path) -> Path:
    """The real path of something in ``root``, which need not exist yet.

    Raises:
        OutsideError: if it lies elsewhere.
    """
    # realpath gives a loop of links back as it is, where resolve raises RuntimeError.
    real_root = Path(os.path.realpath(root))
    path = Path(os.path.realpath(real_root / relative))
    if not path.is_relative_to(real_root):
        raise OutsideError(f"{str(relative)!r} leads out of {str(root)!r}; only files inside it are opened")
    return path


def find_ratable_videos(root: Path) -> tuple[list[FoundVideo], list[str]]:
    """All videos below ``root`` in the order of their names, and one line for each that was left out, with the reason.

    In a folder that ``best_of_n`` wrote, ``best.mp4`` is left out silently: it is one of the candidates.
    """
    videos: list[FoundVideo] = []
    left_out: list[str] = []
    seen: dict[Path, str] = {}
    # A file itself comes before links to it.
    for path, prompt, group in sorted(_files(root), key=lambda entry: entry[0].is_symlink()):
        name = path.relative_to(root).as_posix()
        shown = name.encode("utf-8", "replace").decode()
        try:
            real = inside(root, name)
            if shown != name:
                raise VideoError("the file name is not valid UTF-8; rename it")
            if real in seen:
                raise VideoError(f"it is the same file as {seen[real]!r}")
            videos.append(describe_video(root, name, prompt, group))
            seen[real] = name
        except (OutsideError, VideoError, OSError, ValueError) as error:
            left_out.append(f"{shown}: {error}")
    return sorted(videos, key=lambda v: v.path), left_out


def describe_video(root: Path, name: str, prompt: str = "", group: str = "") -> FoundVideo:
    """One video by its relative name.

    Raises:
        OutsideError: it leads out of the folder.
        VideoError: if it is not a readable video, is too short, or states no frame rate.
    """
    from reward_model.video.reading import probe

    path = inside(root, name)
    header = probe(path)
    if header.fps is None or header.num_frames < 2:
        raise VideoError(f"it states {header.num_frames} frame(s) at fps={header.fps}; re-encode it as MP4")
    prompt = prompt or _beside(root, name)
    return FoundVideo(
        name, header.num_frames, header.fps, header.width, header.height, prompt, group, file_digest(path)
    )


def _files(root: Path) -> Iterator[tuple[Path, str, str]]:
    for place, folders, names in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != RATINGS)
        here = Path(place)
        result = _result(root, here)
        parent = _result(root, here.parent) if here != root and here.name == "candidates" else {}
        run = here.parent if parent else here
        settings = parent or result
        prompt = settings.get("prompt", "")
        group = run.relative_to(root).as_posix() if settings else ""
        copy = "best.mp4" if result else ""
        for name in sorted(names):
            if name != copy and _is_video(name):
                yield here / name, prompt if isinstance(prompt, str) else "", group


def _is_video(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _result(root: Path, folder: Path) -> dict[str, Any]:
    """The ``result.json`` that ``best_of_n`` wrote there, or nothing."""
    text = _text(root, folder / "result.json")
    if not text:
        return {}
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) and "candidates" in data else {}


def _beside(root: Path, name: str) -> str:
    """The prompt in ``clip.txt`` beside ``clip.mp4``."""
    return _text(root, root / Path(name).with_suffix(".txt")).strip()


def _text(root: Path, path: Path) -> str:
    try:
        real = inside(root, path.relative_to(root))
    except OutsideError:
        return ""
    if unreadable(real) or real.stat().st_size > MAX_TEXT_BYTES:
        return ""
    return real.read_bytes().decode("utf-8", "replace")
