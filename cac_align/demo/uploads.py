"""Limits on what a visitor hands to the demo page; refused before a frame is decoded, in a sentence for the page."""

from __future__ import annotations

from pathlib import Path

from reward_model.video.clip import VideoError
from reward_model.video.reading import read_facts

MAX_MEGABYTES = 50
MAX_SECONDS = 20
#: Twenty seconds at 30 frames per second; what is drawn for the page is held in memory at once.
MAX_FRAMES = 600
MAX_PROMPT = 500
MAX_CANDIDATES = 6
MAX_SEED = 2**31 - 1


def check_upload(path: str | Path | None) -> Path:
    """The file, if it may be judged here.

    Args:
        path: the uploaded file; None where nothing was chosen.

    Raises:
        VideoError: if the file is missing, too large or too long, states no frame rate, or is not a video.
    """
    if not path:
        raise VideoError("no video was chosen: upload a file first")
    file = Path(path)
    if file.is_file() and file.stat().st_size > MAX_MEGABYTES * 1_000_000:
        raise VideoError(
            f"{file.name!r} has {file.stat().st_size / 1e6:.0f} MB; this page takes up to {MAX_MEGABYTES} MB: cut it, "
            "or scale it down"
        )
    try:
        facts = read_facts(file)
    except VideoError as error:
        raise VideoError(without_folder(str(error), file)) from error
    if facts.fps is None:
        raise VideoError(
            f"{file.name!r} states no frame rate; write it anew with one, or use cac-align score with --fps"
        )
    seconds = facts.num_frames / facts.fps
    if seconds > MAX_SECONDS or facts.num_frames > MAX_FRAMES:
        raise VideoError(
            f"{file.name!r} has {facts.num_frames} frames over {seconds:.1f} s; this page takes up to {MAX_SECONDS} s "
            f"and {MAX_FRAMES} frames: cut it, or use cac-align score, which takes longer ones"
        )
    return file


def check_prompt(prompt: str | None, *, needed: bool = False) -> str:
    """The prompt without spaces around it.

    Raises:
        ValueError: if it is too long, or absent where it is needed.
    """
    text = (prompt or "").strip()
    if needed and not text:
        raise ValueError("the prompt is empty: write what the video shows")
    if len(text) > MAX_PROMPT:
        raise ValueError(f"the prompt has {len(text)} characters; this page takes up to {MAX_PROMPT}")
    return text


def check_integer(name: str, value: object, low: int, high: int) -> int:
    """A number a visitor chose, as an integer.

    Raises:
        ValueError: if it is not a whole number from ``low`` to ``high``.
    """
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    if not whole or not low <= value <= high:  # type: ignore[operator]
        raise ValueError(f"{name} {value!r} must be a whole number from {low} to {high}")
    return int(value)  # type: ignore[call-overload]


def without_folder(text: str, path: Path) -> str:
    """A message that names the file alone: where a server keeps it is not a visitor's concern."""
    return text.replace(f"{path.parent}/", "")
