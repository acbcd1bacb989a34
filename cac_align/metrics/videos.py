"""Videos of a folder, and the prompt of each."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reward_model.folders import regular_files

#: File name -> prompt, the form of VBench's ``--prompt_file``.
PROMPT_FILE = "prompts.json"
SUFFIXES = (".mp4", ".gif", ".mov", ".webm", ".mkv", ".avi")
_NUMBERED = re.compile(r"-(\d+)$")
_SEED_FOLDER = re.compile(r"seed[-_ ]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class VideoEntry:
    """A video of a folder.

    Attributes:
        path: the file.
        name: its path inside the folder, with slashes; what rows and tables call it.
        prompt: the text it was made from.
        index: which of the videos of its prompt: the seed, or a count from 0.
    """

    path: Path
    name: str
    prompt: str
    index: int


def find_videos(folder: str | os.PathLike[str], *, unreadable: bool = False) -> list[VideoEntry]:
    """The videos of a folder and of those below it, by name.

    Understood are, also mixed: VBench's names (``<prompt>-<index>.mp4``); folders named by seed
    (``seed3/<prompt>.mp4``); results of :func:`cac_align.best_of_n`, of which only ``best.mp4`` counts; and a
    ``prompts.json`` (file name -> prompt) in the folder or beside it, which wins over names.

    Args:
        folder: where they lie.
        unreadable: also name files that cannot be read (pipes, dead links, without permission), so that a table can
            say so; by default they are passed over.

    Raises:
        ValueError: if the folder does not exist or holds no video, or the file beside it is not a prompt file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise ValueError(f"no folder of videos at {str(root)!r}")
    results = {f.parent: _result_prompt(f) for f in regular_files(root, (".json",)) if f.name == "result.json"}
    prompts = _prompt_file(root)
    entries: list[VideoEntry] = []
    counts: dict[str, int] = {}
    for path in _video_files(root, unreadable):
        inside = path.relative_to(root)
        home = next((p for p in path.parents if results.get(p) is not None), None)
        if _is_passed_over(path, inside, home):
            continue
        prompt, index = _named(inside)
        if home is not None:
            prompt, index = results.get(path.parent) or prompt, None
        prompt = prompts.get(inside.as_posix(), prompts.get(path.name, prompt))
        if index is None:
            index = counts.get(prompt, 0)
        counts[prompt] = max(counts.get(prompt, 0), index + 1)
        entries.append(VideoEntry(path, inside.as_posix(), prompt, index))
    if not entries:
        raise ValueError(f"{str(root)!r} holds no video; looked for {', '.join(SUFFIXES)} in it and below")
    return entries


def _video_files(root: Path, unreadable: bool) -> list[Path]:
    broken: list[Path] = []
    files = regular_files(root, SUFFIXES, leave_out=lambda path, reason: broken.append(path))
    return sorted([*files, *(p for p in broken if unreadable and p.suffix.lower() in SUFFIXES)])


def _is_passed_over(path: Path, inside: Path, home: Path | None) -> bool:
    """True for files being written, and for candidates of a result in ``home`` that were not chosen."""
    being_written = any(part.startswith(".") for part in inside.parts)
    return being_written or (home is not None and path != home / "best.mp4")


def _named(inside: Path) -> tuple[str, int | None]:
    """Prompt and index as the name tells them."""
    number = _NUMBERED.search(inside.stem)
    if number:
        return inside.stem[: number.start()], int(number[1])
    seed = next((m for part in reversed(inside.parts[:-1]) if (m := _SEED_FOLDER.fullmatch(part))), None)
    return inside.stem, int(seed[1]) if seed else None


def _result_prompt(file: Path) -> str | None:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    prompt = data.get("prompt") if isinstance(data, Mapping) else None
    return prompt if isinstance(prompt, str) and (file.parent / "best.mp4").is_file() else None


def _prompt_file(root: Path) -> dict[str, str]:
    file = next((f for f in (root / PROMPT_FILE, root.parent / PROMPT_FILE) if f.is_file()), None)
    if file is None:
        return {}
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{file} is not JSON ({error}); expected file names and their prompts") from None
    if not isinstance(data, dict) or not all(isinstance(v, str) for v in data.values()):
        raise ValueError(f"{file} must map file names to prompts; fix or remove it")
    return data
