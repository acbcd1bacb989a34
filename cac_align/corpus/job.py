"""A corpus judged by one process, by all that ``accelerate launch`` or ``torchrun`` started, or by the jobs of an
array; the rows of all become one table in the order of the manifest.

Every process takes each n-th block of videos; who took which does not show in the table. Nothing but the shared folder
is needed between jobs. Processes of one launch also wait for each other, so that the first can write the table.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from cac_align.corpus.judging import Asked
from cac_align.corpus.parts import Entry, Parts, PartsError, append_entries, clip_key, open_part, parts_folder
from cac_align.corpus.sources import CorpusVideo, own_columns
from cac_align.corpus.table_files import Own, path_from, write_table
from cac_align.corpus.verdict_rows import judged_columns


class Launched(NamedTuple):
    """The place of this process among those of one launch: its number, how many there are, its number on this
    machine.
    """

    rank: int = 0
    num: int = 1
    local: int = 0

    @classmethod
    def from_environment(cls) -> Launched:
        """As ``accelerate launch`` and ``torchrun`` say; one process where neither started this one."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        rank, num, local = (int(os.environ.get(name, default)) for name, default in zip(names, (0, 1, 0), strict=True))
        return cls(rank, max(1, num), local)


class Shard(NamedTuple):
    """One job of an array: its number from 1, and how many there are."""

    number: int = 1
    num: int = 1

    @classmethod
    def parse(cls, text: str) -> Shard:
        """``i/n`` as it is typed.

        Raises:
            ValueError: if it is something else.

        Example:
            >>> Shard.parse("3/8")
            Shard(number=3, num=8)
        """
        first, _, last = text.partition("/")
        if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
            raise ValueError(f"--shard {text!r} must be i/n with i from 1 to n, such as 1/8 to 8/8")
        return cls(int(first), int(last))


@dataclass(frozen=True)
class CorpusJob:
    """Videos to be judged, and the table of their rows.

    Attributes:
        table: the file.
        clips: the videos in the order of the table.
        settings: whatever a row depends on beside its video, prompt and rate; with ``answers``, the table holds what
            the judge wrote.
        block: neighbours that are judged together where batches are used.
    """

    table: Path
    clips: Sequence[CorpusVideo]
    settings: Mapping[str, Any]
    block: int = 8

    @property
    def folder(self) -> Path:
        """The folder of the finished rows."""
        return parts_folder(self.table)

    def asked(self, part: int = 0, parts: int = 1) -> list[list[Asked]]:
        """The blocks of one of several parts; a video that is named twice with one prompt is in one block only."""
        keys = {clip_key(clip, self.table.parent): clip for clip in reversed(self.clips)}
        each = [Asked(key, clip) for key, clip in reversed(keys.items())]
        blocks = [each[k : k + self.block] for k in range(0, len(each), self.block)]
        return blocks[part::parts]

    def left(self, part: int = 0, parts: int = 1) -> list[list[Asked]]:
        """The blocks of a part without the videos that have a score already.

        Raises:
            PartsError: if the rows on the disk are of another run.
        """
        known = Parts(self.folder, self.settings)
        blocks = [[a for a in block if not known.is_done(a.clip, a.key)] for block in self.asked(part, parts)]
        return [block for block in blocks if block]


class Totals(NamedTuple):
    """Contents of a table: rows by status (None: not judged), and the first that was not judged."""

    statuses: Counter[str | None]
    unjudged: tuple[str, str] | None

    def __str__(self) -> str:
        none = self.statuses[None]
        words = [f"{self.statuses[status]} {status}" for status in ("normal", "abnormal")]
        return f"{self.statuses.total()} videos: {', '.join([*words, *([f'{none} not judged'] if none else [])])}"


def keep_rows(
    job: CorpusJob, entries: Iterable[list[Entry]], part: int = 0, parts: int = 1
) -> Iterator[list[dict[str, Any]]]:
    """Writes rows down as they come, and hands them on.

    Args:
        job: whose rows they are.
        entries: of videos that were judged together.
        part: number of this process from 0, of ``parts``.
    """
    with open_part(job.folder, part, parts) as journal:
        for together in entries:
            append_entries(journal, together)
            yield [entry.row for entry in together]


def merge_rows(job: CorpusJob) -> Totals:
    """Makes the table of the rows on the disk.

    Raises:
        PartsError: if a video was not judged yet.
    """
    known, folder = Parts(job.folder), job.table.parent
    keys = [clip_key(clip, folder) for clip in job.clips]
    missing = [clip.video for clip, key in zip(job.clips, keys, strict=True) if not known.has(key)]
    if missing:
        raise PartsError(
            f"{len(missing)} of {len(keys)} videos are not judged yet, the first {missing[0]!r}; run the shards that "
            "are missing, and then --merge again"
        )
    own = own_columns(job.clips)
    kinds: dict[str, Any] = {"video": "text", "prompt": "text"}
    kinds |= {name: Own([clip.own.get(name) for clip in job.clips]) for name in own}
    kinds |= judged_columns(bool(known.settings.get("answers")))
    statuses: Counter[str | None] = Counter()
    first: list[tuple[str, str]] = []

    def rows() -> Iterator[dict[str, Any]]:
        for clip, key in zip(job.clips, keys, strict=True):
            row = known.row(key)
            statuses[row["status"]] += 1
            if row["status"] is None and not first:
                first.append((clip.video, str(row["error"])))
            video = clip.video if clip.absolute else path_from(folder, clip.video)
            given = {"video": video, "prompt": clip.prompt, **{name: clip.own.get(name) for name in own}}
            yield {**given, **row, "fps": clip.fps if row["fps"] is None else row["fps"]}

    write_table(job.table, rows(), kinds)
    return Totals(statuses, first[0] if first else None)


@contextmanager
def until_all_are_done(launched: Launched) -> Iterator[None]:
    """A block that no process of a launch leaves before all have come to its end."""
    if launched.num == 1:
        yield
        return
    import torch.distributed as dist

    # Only to wait: over the network card, whatever the processes compute on, and as long as a corpus may take.
    dist.init_process_group("gloo", timeout=timedelta(days=60))
    try:
        yield
        dist.barrier()
    finally:
        dist.destroy_process_group()
