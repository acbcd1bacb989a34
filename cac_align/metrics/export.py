"""Folders and prompt files that VBench's own scripts accept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from cac_align.metrics.dimensions import check_dimension
from cac_align.metrics.videos import PROMPT_FILE, VideoEntry
from reward_model.files import atomic, write_json, write_text
from reward_model.video.clip import VideoError, load_video
from reward_model.video.reading import read_facts
from reward_model.video.writing import LOSSLESS_H264, write_video

LAYOUTS = ("standard", "custom")
#: The package looks for videos 0 to 4 of each prompt.
PER_PROMPT = 5
_LONGEST = 255


def export_videos(
    entries: Sequence[VideoEntry],
    output: str | os.PathLike[str],
    *,
    layout: Literal["standard", "custom"] = "standard",
    dimensions: Sequence[str] = ("subject_consistency", "dynamic_degree", "imaging_quality"),
    link: bool = False,
) -> Path:
    """Writes ``videos/``, ``prompts.json`` (for ``--prompt_file``) and ``full_info.json`` (for ``--full_json_dir``)
    into a folder.

    The prompt files lie beside the videos and not among them, because the package takes the first file of a folder for
    a video.

    Args:
        entries: from :func:`~cac_align.metrics.videos.find_videos`.
        output: the folder; videos that are there already are left alone if they are the same. A video that is turned,
            varies in rate or hides frames is written anew, upright, at a constant rate and without loss: the package
            reads files as they are stored.
        layout: ``"standard"`` names videos ``<prompt>-<0..4>.mp4``, as ``--mode vbench_standard`` wants them;
            ``"custom"`` numbers them, for ``--mode custom_input`` and prompts that are not valid file names.
        dimensions: what ``full_info.json`` asks for.
        link: make symbolic links in place of copies, where a copy would be of the same bytes.

    Returns:
        The folder of the videos.

    Raises:
        ValueError: if a video is not an mp4, a prompt is not a file name, or two videos share a name. All are listed.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout!r} must be one of {', '.join(LAYOUTS)}")
    for dimension in dimensions:
        check_dimension(dimension, "package")
    names = _standard_names(entries) if layout == "standard" else _custom_names(entries)
    output = Path(output)
    for entry, name in zip(entries, names, strict=True):
        _place(entry.path, output / "videos" / name, link)
    write_json(output / PROMPT_FILE, {name: entry.prompt for name, entry in zip(names, entries, strict=True)})
    prompts = list(dict.fromkeys(entry.prompt for entry in entries))
    write_json(output / "full_info.json", [{"prompt_en": p, "dimension": list(dimensions)} for p in prompts])
    return output / "videos"


def standard_prompts(full_info: str | os.PathLike[str], dimensions: Sequence[str]) -> list[str]:
    """VBench's prompts for some dimensions, in its order and each once.

    Args:
        full_info: ``VBench_full_info.json`` of the package or of its repository.
        dimensions: names; any of its sixteen.

    Raises:
        ValueError: if the file is of another kind, or has nothing for a dimension.
    """
    path = Path(full_info)
    if not path.is_file():
        raise ValueError(f"no VBench_full_info.json at {str(path)!r}; it is in the vbench package's folder")
    try:
        data: Any = json.loads(path.read_text(encoding="utf-8"))
        asked = [(str(e["prompt_en"]), set(e["dimension"])) for e in data]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a list of objects with prompt_en and dimension: {error!r}") from None
    for dimension in dimensions:
        if not any(dimension in found for _, found in asked):
            raise ValueError(f"{path} has no prompt for dimension={dimension!r}")
    return list(dict.fromkeys(prompt for prompt, found in asked if found & set(dimensions)))


def missing_videos(entries: Sequence[VideoEntry], prompts: Sequence[str]) -> list[str]:
    """Names that the standard mode would look for and not find, in the order of ``prompts``."""
    there = {(entry.prompt, entry.index) for entry in entries}
    return [f"{p}-{k}.mp4" for p in prompts for k in range(PER_PROMPT) if (p, k) not in there]


def write_prompts(path: str | os.PathLike[str], prompts: Sequence[str]) -> Path:
    """One prompt per line, which generators and :func:`cac_align.prompts.read_prompts` read."""
    write_text(Path(path), "\n".join(prompts) + "\n")
    return Path(path)


def _standard_names(entries: Sequence[VideoEntry]) -> list[str]:
    names = [f"{entry.prompt}-{entry.index}.mp4" for entry in entries]
    wrong = [f"{e.name}: {why}" for e, n in zip(entries, names, strict=True) if (why := _unfit(e, n))]
    wrong += [f"two videos would be named {n!r}" for n in dict.fromkeys(names) if names.count(n) > 1]
    if wrong:
        more = f"; and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError("layout='standard' cannot hold these, use 'custom': " + "; ".join(wrong[:5]) + more)
    return names


def _unfit(entry: VideoEntry, name: str) -> str | None:
    if entry.path.suffix.lower() != ".mp4":
        return "the package reads mp4 only"
    if "/" in name or "\0" in name or name.startswith("."):
        return f"prompt {entry.prompt[:40]!r} is not a valid file name"
    if len(name.encode()) > _LONGEST:
        return f"a name of {len(name.encode())} bytes, file systems take {_LONGEST}"
    if entry.index >= PER_PROMPT:
        return f"video {entry.index} of its prompt, the package looks at 0 to {PER_PROMPT - 1}"
    return None


def _custom_names(entries: Sequence[VideoEntry]) -> list[str]:
    wrong = [e.name for e in entries if e.path.suffix.lower() != ".mp4"]
    if wrong:
        raise ValueError(f"the package reads mp4 only, not {', '.join(wrong[:5])}; convert them")
    return [f"{k:05d}-{entry.index}.mp4" for k, entry in enumerate(entries)]


def _place(source: Path, target: Path, link: bool) -> None:
    try:
        anew = not read_facts(source).as_stored
    except VideoError:
        anew = False  # the package will say so
    if target.exists():
        same = same_video(source, target) if anew else target.samefile(source) or _same_bytes(source, target)
        if same:
            return
        raise ValueError(f"{target} already exists with other content; export into an empty folder")
    if anew:
        video = load_video(source)
        write_video(target, video.frames, video.fps, LOSSLESS_H264)
        return
    with atomic(target) as temporary:
        if link:
            temporary.symlink_to(source.absolute())
        else:
            shutil.copyfile(source, temporary)


def _same_bytes(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def same_video(one: Path, other: Path) -> bool:
    """True if two files show the same frames at the same rate."""
    try:
        a, b = load_video(one), load_video(other)
    except VideoError:
        return False
    if a.frames.shape != b.frames.shape or abs(a.fps / b.fps - 1) > 1e-3:
        return False
    return all((x == y).all() for x, y in zip(a.frames, b.frames, strict=True))
