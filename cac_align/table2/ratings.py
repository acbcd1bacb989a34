"""People's ratings as a column: the table's videos as files that ``cac-align rate`` shows, and its export read back."""

from __future__ import annotations

from pathlib import Path

from reward_model.data.annotations import read_annotations
from reward_model.digests import text_digest

FOLDER = "videos-mp4"


def video_name(source: str, item: str, index: int) -> str:
    """The name of a video's file, without suffix: nothing of it tells people which row it is of."""
    return text_digest(f"{source}\x1f{item}\x1f{index}")[:16]


class Ratings:
    """An export of ``cac-align rate --export``.

    Args:
        path: ``consensus.jsonl``, or a rater's own file beside it.

    Raises:
        ValueError: if it is missing or breaks the rules of annotations.
    """

    def __init__(self, path: str | Path) -> None:
        if not Path(path).is_file():
            raise ValueError(
                f"no ratings at {str(path)!r}; rate the videos (cac-align rate OUTPUT/{FOLDER}), export them "
                "(--export), and name ratings/consensus.jsonl"
            )
        records = read_annotations(path, check_videos=False)
        self.values = {Path(r.video).stem: float(r.truth.status == "abnormal") for r in records}

    def value(self, name: str) -> float | None:
        """1 for a video people called abnormal, 0 for a normal one, None for one nobody rated."""
        return self.values.get(name)
