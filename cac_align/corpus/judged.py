"""Judged candidates, grouped by prompt: folders that best-of-n saved, and tables of ``cac-align score --table``.

A candidate is a row with the columns of a table of verdicts. One from a folder has a column for each member of its
composite reward as well, by the member's name.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cac_align.corpus.conditions import Row
from cac_align.corpus.table_files import TABLE_SUFFIXES, path_from, read_table_rows
from cac_align.corpus.verdict_rows import KINDS, verdict_row


def read_candidates(sources: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of all candidates, in the order of the sources; ``video`` is a path from the current folder.

    Args:
        sources: folders with a ``result.json``, in them or anywhere below, and tables with the columns ``video`` and
            ``prompt``. Few-step previews that were not drawn in full are left out: another number of steps is not
            another candidate.

    Raises:
        ValueError: if a source holds no candidates or cannot be read, or a row has no video or no prompt.
        ReportError: if a ``result.json`` is not complete.
    """
    rows: list[dict[str, Any]] = []
    for source in sources:
        if source.lower().endswith(TABLE_SUFFIXES):
            rows += _from_table(Path(source))
        else:
            rows += _from_folder(Path(source))
    return rows


def group_candidates(rows: Iterable[Row], within: Sequence[str] = ()) -> list[list[Row]]:
    """Candidates of the same prompt, and of the same values of further columns, in the order in which they first
    appear; of a video named twice, the first row.

    Raises:
        ValueError: if no row has such a column.
    """
    rows = list(rows)
    for name in within:
        if not any(name in row for row in rows):
            raise ValueError(
                f"no candidate has a column {name!r} to group by; columns: {', '.join(column_names(rows))}"
            )
    groups: dict[str, dict[str, Row]] = {}
    for row in rows:
        key = json.dumps([row["prompt"], *(row.get(name) for name in within)], default=str)
        groups.setdefault(key, {}).setdefault(os.path.realpath(row["video"]), row)
    return [list(found.values()) for found in groups.values()]


def column_names(rows: Iterable[Row]) -> list[str]:
    """Names of all columns, in the order in which they first appear."""
    return list(dict.fromkeys(name for row in rows for name in row))


def scores_of(rows: Sequence[Row], column: str) -> list[float | None]:
    """The values of a column of numbers.

    Raises:
        ValueError: if one is something else.
    """
    found: list[float | None] = []
    for row in rows:
        value = row.get(column)
        if isinstance(value, bool) or not (value is None or isinstance(value, int | float)):
            raise ValueError(f"the column {column!r} holds {value!r} ({row['video']}), which is not a number")
        found.append(None if value is None else float(value))
    return found


def _from_table(path: Path) -> list[dict[str, Any]]:
    rows = read_table_rows(path, KINDS)
    if not rows:
        raise ValueError(f"{str(path)!r} holds no candidate: it has no row")
    for number, row in enumerate(rows, 1):
        for name in ("video", "prompt"):
            if not isinstance(row.get(name), str) or not row[name].strip():
                raise ValueError(
                    f"{str(path)!r}, row {number}: {name}={row.get(name)!r} must be a text; pairs are made of videos "
                    "of the same prompt"
                )
        if not Path(row["video"]).is_absolute():
            row["video"] = path_from(Path(), str(path.parent / row["video"]))
    return rows


def _from_folder(folder: Path) -> list[dict[str, Any]]:
    from cac_align.selection.run_folder import RESULT_FILE

    if not folder.is_dir():
        raise ValueError(
            f"{str(folder)!r} is neither a folder of best-of-n nor a table ({', '.join(TABLE_SUFFIXES)}); check it"
        )
    results = sorted(folder.rglob(RESULT_FILE))
    if not results:
        raise ValueError(f"{str(folder)!r} holds no {RESULT_FILE}, there or below; give what best-of-n saved")
    return [row for result in results for row in _from_result(result)]


def _from_result(path: Path) -> list[dict[str, Any]]:
    from cac_align.selection.run_folder import read_result
    from reward_model.schema import Verdict

    result = read_result(path)
    rows = []
    for entry in result["candidates"]:
        if _is_preview(entry, result["settings"]):
            continue
        row: dict[str, Any] = {
            "video": path_from(Path(), str(path.parent / "candidates" / Path(entry["video"]).name)),
            "prompt": result["prompt"],
            "seed": entry["seed"],
        }
        try:
            verdict = Verdict(None, None) if entry["verdict"] is None else Verdict.from_dict(entry["verdict"])
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{str(path)!r}: the verdict on candidate {entry['index']} cannot be read ({error!r}); save it again"
            ) from None
        row |= verdict_row(verdict, "")
        row |= {"score": entry["score"], "fps": result["fps"], "num_frames": result["num_frames"][entry["index"]]}
        row["error"] = entry["reason"]
        if taken := [name for name in entry["parts"] if name in row]:
            raise ValueError(
                f"{str(path)!r}: a member of the reward is named {taken[0]!r}, as a column of a table of verdicts "
                "is; rename it under 'parts'"
            )
        rows.append(row | entry["parts"])
    return rows


def _is_preview(entry: Row, settings: Row) -> bool:
    """True if a candidate was only drawn as its preview, in few steps."""
    return bool(entry.get("preview", {}).get("note")) and not settings.get("judge_all")
