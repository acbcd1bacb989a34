"""The videos of a corpus: named files, folders, patterns, and manifests with a prompt and own columns for each."""

from __future__ import annotations

import glob
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cac_align.corpus.table_files import TABLE_SUFFIXES, read_table_rows
from cac_align.corpus.verdict_rows import KINDS, WRITTEN
from cac_align.metrics.videos import SUFFIXES

#: Columns of a manifest that say what is judged; ``fps`` only where the file states no rate, or a wrong one.
GIVEN = ("video", "prompt", "fps")


@dataclass(frozen=True)
class CorpusVideo:
    """A video to judge.

    Attributes:
        video: its path, from the current folder or absolute.
        prompt: the text it was made from.
        fps: frames per second in place of the file's own.
        own: further columns of its manifest.
        absolute: the user named it with an absolute path, which the table keeps.
    """

    video: str
    prompt: str | None = None
    fps: float | None = None
    own: Mapping[str, Any] = field(default_factory=dict)
    absolute: bool = False


def find_corpus(
    sources: Sequence[str], prompts: Sequence[str] | None = None, fps: float | None = None
) -> list[CorpusVideo]:
    """The videos of all sources, in their order; those of a folder or a pattern by name.

    Args:
        sources: video files, folders (with those below), patterns such as ``runs/*/best.mp4``, and manifests: tables
            (Parquet, JSONL, CSV) with a column ``video`` and, if wanted, ``prompt`` and ``fps``. Paths in a manifest
            count from its folder.
        prompts: one for all, or one for each; for videos that do not come from a manifest.
        fps: frames per second where a manifest says nothing else.

    Raises:
        ValueError: if a folder, a pattern or a manifest holds no video, or a manifest cannot be read; the message names
            the line.
    """
    found = [(source, _clips(source)) for source in sources]
    clips = [clip for _, part in found for clip in part]
    if prompts and any(_is_manifest(source) for source, _ in found):
        raise ValueError("--prompt is for videos that are named themselves; a manifest has a column 'prompt'")
    if prompts and len(prompts) not in (1, len(clips)):
        raise ValueError(
            f"{len(prompts)} prompts for {len(clips)} videos; give --prompt once for all, or once per video"
        )
    texts = [None] * len(clips) if not prompts else [prompts[0]] * len(clips) if len(prompts) == 1 else list(prompts)
    return [
        replace(c, prompt=c.prompt if text is None else text, fps=fps if c.fps is None else c.fps)
        for c, text in zip(clips, texts, strict=True)
    ]


def own_columns(clips: Iterable[CorpusVideo]) -> list[str]:
    """Names of the users' own columns, in the order in which they first appear."""
    return list(dict.fromkeys(name for clip in clips for name in clip.own))


def _is_manifest(source: str) -> bool:
    return source.lower().endswith(TABLE_SUFFIXES)


def _clips(source: str) -> list[CorpusVideo]:
    path = Path(source)
    if path.is_dir():
        return [_named(video) for video in _in_folder(path, source)]
    if _is_manifest(source):
        return read_manifest(path)
    if not path.exists() and glob.has_magic(source):
        return [_named(video) for video in _matches(source)]
    return [_named(source)]


def _named(video: str) -> CorpusVideo:
    return CorpusVideo(video, absolute=Path(video).is_absolute())


def _in_folder(folder: Path, named: str) -> list[str]:
    inside = [p for p in sorted(folder.rglob("*")) if p.suffix.lower() in SUFFIXES and p.is_file()]
    inside = [p for p in inside if not any(part.startswith(".") for part in p.relative_to(folder).parts)]
    if not inside:
        raise ValueError(f"the folder {named!r} holds no video; looked for {', '.join(SUFFIXES)} in it and below")
    return [str(path) for path in inside]


def _matches(pattern: str) -> list[str]:
    """Videos that a pattern names, and those of folders that it names."""
    found: list[str] = []
    for name in sorted(glob.glob(pattern, recursive=True)):  # noqa: PTH207 - from anywhere
        path = Path(name)
        if path.is_file() and path.suffix.lower() in SUFFIXES:
            found.append(name)
        elif path.is_dir() and not pattern.endswith("**"):  # two stars name what is inside as well
            found += _in_folder(path, name) if any(p.suffix.lower() in SUFFIXES for p in path.rglob("*")) else []
    if not found:
        raise ValueError(f"the pattern {pattern!r} names no video; looked for {', '.join(SUFFIXES)}")
    return list(dict.fromkeys(found))


# --- manifests --------------------------------------------------------------------------------------------------------


def read_manifest(path: Path) -> list[CorpusVideo]:
    """The videos of a manifest in its order, their paths from the current folder.

    A table that ``cac-align score`` wrote is a manifest as well: what was found before is left out.

    Raises:
        ValueError: if it is not such a table, or a row cannot be judged; the message names the row.
    """
    rows = read_table_rows(path, {"fps": "number"})
    if not rows:
        raise ValueError(f"{str(path)!r} names no video: it has no row")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    if "video" not in columns:
        raise ValueError(f"{str(path)!r} has no column 'video'; its columns are {', '.join(map(repr, columns))}")
    taken = [name for name in columns if name in KINDS and name not in GIVEN]
    if set(WRITTEN) <= set(columns):
        columns = [name for name in columns if name not in taken]
    elif taken:
        raise ValueError(f"{str(path)!r} has a column {taken[0]!r}, a name that the table of verdicts needs; rename it")
    own = [name for name in columns if name not in GIVEN]
    return [_clip(row, own, path, number) for number, row in enumerate(rows, 1)]


def _clip(row: Mapping[str, Any], own: Sequence[str], path: Path, number: int) -> CorpusVideo:
    place = f"{str(path)!r}, row {number}"
    video, prompt, fps = (row.get(name) for name in GIVEN)
    if not isinstance(video, str) or not video:
        raise ValueError(f"{place}: video={video!r} must be a path")
    if "://" in video:
        raise ValueError(f"{place}: video={video!r} is an address; download the file and name its path")
    if prompt is not None and not isinstance(prompt, str):
        raise ValueError(f"{place}: prompt={prompt!r} must be a text")
    if fps is not None and (isinstance(fps, bool) or not isinstance(fps, int | float) or not 0 < fps < math.inf):
        raise ValueError(f"{place}: fps={fps!r} must be a number above zero, or be left out")
    absolute = Path(video).is_absolute()
    found = video if absolute else os.path.normpath(path.parent / video)
    own_values = {name: row.get(name) for name in own}
    return CorpusVideo(str(found), prompt or None, None if fps is None else float(fps), own_values, absolute)
