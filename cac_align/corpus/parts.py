"""Finished rows of a corpus, on the disk until the table is written: a folder beside the table.

Each process appends to a file of its own, whole lines that are on the disk before the next video is asked about, and
reads those of all others when it starts. So a run that was killed goes on, with any number of processes, and the table
is made of all files in the order of the manifest. ``run.json`` says with which judge and settings the rows were made.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from cac_align.corpus.sources import CorpusVideo
from cac_align.corpus.table_files import path_from
from reward_model.digests import json_digest
from reward_model.files import atomic
from reward_model.folders import file_digest
from reward_model.journal import Journal, read_object

RUN_FILE = "run.json"
_VERSION = 1


class Mark(NamedTuple):
    """The state of a video file: its size, the time of its last change, and a digest of its bytes."""

    size: int
    changed_ns: int
    digest: str


class Entry(NamedTuple):
    """A video that is judged: its key, the state of its file, and its row without the user's own columns."""

    key: str
    mark: Mark | None
    row: dict[str, Any]


class Place(NamedTuple):
    """The place of an entry: the number of its file, the byte its line starts at, its place in the line."""

    file: int
    start: int
    number: int


class _Known(NamedTuple):
    place: Place
    at: float
    mark: Mark | None
    scored: bool


class PartsError(ValueError):
    """The rows on the disk are of another run, or damaged. The message names the folder and the remedy."""


def clip_key(clip: CorpusVideo, folder: Path) -> str:
    """The key of a video: the same path from the folder of the table, prompt and rate, wherever they are named.

    Example:
        >>> clip_key(CorpusVideo("/a/b.mp4"), Path("/a")) == clip_key(CorpusVideo("/a/c/../b.mp4"), Path("/a"))
        True
    """
    return json_digest([path_from(folder, clip.video), clip.prompt, clip.fps])[:24]


def mark_of(path: str) -> Mark | None:
    """The state of a file; None where it cannot be read, which the judge will say."""
    try:
        now = Path(path).stat()
        return Mark(now.st_size, now.st_mtime_ns, file_digest(path))
    except (OSError, ValueError):
        return None


def parts_folder(table: Path) -> Path:
    """The folder of the finished rows of a table."""
    return table.with_name(table.name + ".parts")


class Parts:
    """Knowledge of a table's rows: those of all files, as they were when this was made.

    Args:
        folder: of :func:`parts_folder`.
        settings: whatever a row depends on beside the video, its prompt and its rate; None: as the run was begun.

    Raises:
        PartsError: if the rows there were made with other settings, or cannot be read.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any] | None = None) -> None:
        self.folder, self.settings = folder, _known_settings(folder, settings)
        self._files: list[Path] = []
        self._known: dict[str, _Known] = {}
        for path in sorted(folder.glob("part-*.jsonl")):
            self._read(path)

    def _read(self, path: Path) -> None:
        self._files.append(path)
        number = len(self._files) - 1
        with path.open("rb") as file:
            start = 0
            for count, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    break  # a killed process left half of it, or a living one is writing it
                at, entries = _entries(line, path, count)
                for k, entry in enumerate(entries):
                    before = self._known.get(entry.key)
                    if before is None or at >= before.at:  # judged again: the file was another, or could not be read
                        scored = entry.row["score"] is not None
                        self._known[entry.key] = _Known(Place(number, start, k), at, entry.mark, scored)
                start += len(line)

    def is_done(self, clip: CorpusVideo, key: str) -> bool:
        """True if a video has a score, and its file is what it was then. One that could not be judged is not done:
        what was in its way may have gone.
        """
        known = self._known.get(key)
        if known is None or not known.scored or known.mark is None:
            return False
        try:
            now = Path(clip.video).stat()
        except OSError:
            return False
        if (now.st_size, now.st_mtime_ns) == (known.mark.size, known.mark.changed_ns):
            return True
        found = mark_of(clip.video)
        return found is not None and found.digest == known.mark.digest

    def has(self, key: str) -> bool:
        """True if a video was judged, or found to be unreadable."""
        return key in self._known

    def row(self, key: str) -> dict[str, Any]:
        """The last row of a video that was judged."""
        known = self._known[key]
        path = self._files[known.place.file]
        with path.open("rb") as file:
            file.seek(known.place.start)
            line = file.readline()
        return _entries(line, path, 0)[1][known.place.number].row


@contextmanager
def open_part(folder: Path, part: int, parts: int) -> Iterator[Journal]:
    """The file of one process of a run.

    Args:
        part: its number from 0, of ``parts``.

    Raises:
        PartsError: if another process writes it.
    """
    path = folder / f"part-{part + 1:05d}-of-{parts:05d}.jsonl"
    taken = f"another run writes {str(path)!r}; wait for it, or name another --table"
    with closing(Journal(path, in_use=PartsError(taken))) as journal:
        yield journal


def append_entries(journal: Journal, entries: Iterable[Entry]) -> None:
    """Adds videos that were judged together, all of them or none; when this returns, they are on the disk."""
    rows = [[e.key, e.mark, e.row] for e in entries]
    journal.append(json.dumps({"at": round(time.time(), 3), "rows": rows}, allow_nan=False))


def _entries(line: bytes, path: Path, number: int) -> tuple[float, list[Entry]]:
    """A line: when its videos were judged, and what was found."""
    try:
        found = read_object(line)
        entries = [Entry(key, None if mark is None else Mark(*mark), dict(row)) for key, mark, row in found["rows"]]
        assert all("score" in entry.row for entry in entries)
        return float(found["at"]), entries
    except (ValueError, KeyError, TypeError, AssertionError):
        raise PartsError(
            f"{str(path)!r}, line {number}: not a line that score wrote; remove the file, and its videos are judged "
            "again"
        ) from None


def _known_settings(folder: Path, settings: Mapping[str, Any] | None) -> dict[str, Any]:
    """The settings of the rows in a folder, which are those given where it is new."""
    path = folder / RUN_FILE
    if not path.is_file():
        if settings is None:
            raise PartsError(f"no rows at {str(folder)!r}; judge the videos first, with the same --table")
        folder.mkdir(parents=True, exist_ok=True)
        with atomic(path) as temporary:
            temporary.write_text(json.dumps({"version": _VERSION, "settings": dict(settings)}, indent=1) + "\n")
        return dict(settings)
    try:
        found = read_object(path.read_bytes())
        before = dict(found["settings"])
    except (ValueError, KeyError, TypeError):
        raise PartsError(f"{str(path)!r} is damaged; remove the folder to judge all videos again") from None
    now = json.loads(json.dumps(dict(settings))) if settings is not None else before
    other = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    if found.get("version") != _VERSION or other:
        name = other[0] if other else "version"
        raise PartsError(
            f"the rows at {str(folder)!r} were made with {name}={before.get(name)!r}, not {now.get(name)!r}; name "
            "another --table, or remove that folder to judge all videos again"
        )
    return before
