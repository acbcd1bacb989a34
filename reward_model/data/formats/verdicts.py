"""A judge's verdicts as annotations that no person made, for people to correct: review, Label Studio, CVAT.

Every record says so: its extra key ``annotation`` reads "generated annotation", ``made_by`` names the model, ``reward``
and ``provenance`` tell how it came about (Appendix E asks for automated annotation and for its traces).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from reward_model.data.formats.common import FormatError, Imported, empty_annotation
from reward_model.data.formats.documents import read_text
from reward_model.data.formats.tracks import Keyframe, expand, from_tracks, to_tracks
from reward_model.data.line_checks import check_anomaly, check_object
from reward_model.data.records import GENERATED, MAKER_KEY, ORIGIN_KEY, Record
from reward_model.data.validation import Problem
from reward_model.schema import Anomaly, Box
from reward_model.strict_json import is_int, is_number


def read_entries(path: str | Path) -> list[dict[str, Any]]:
    """The entries of a file of verdicts, each with the ``video`` it is about.

    Args:
        path: JSON or JSONL of ``cac-align score --json``, ``result.json`` of best-of-n, or ``verdicts.json`` of
            ``cac-align rate --judge``. Entries of a result take its prompt along.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    if not Path(path).exists():
        raise ValueError(f"no file of verdicts at {str(path)!r}; make one with: cac-align score --json VIDEO ...")
    text = read_text(path)
    try:
        try:
            data = json.loads(text)
        except ValueError:
            data = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is neither JSON nor JSONL: {error}") from error
    entries = data.get("candidates", [data]) if isinstance(data, dict) else data
    if not isinstance(entries, list) or not all(isinstance(e, dict) and type(e.get("video")) is str for e in entries):
        raise ValueError(f"{path} is not a list of verdicts; expected what cac-align score --json prints")
    prompt = data.get("prompt") if isinstance(data, dict) else None
    return [{"prompt": prompt, **e} for e in entries] if isinstance(prompt, str) else entries


def read_verdicts(path: str | Path, *, video_root: str | Path | None = None) -> Imported:
    """One record per verdict, with the absolute path of its video.

    Args:
        path: see :func:`read_entries`.
        video_root: where the videos lie; without it they are looked for beside ``path`` and in the current folder.

    Returns:
        Records whose boxes are filled in between the frames the judge looked at, so that a tool shows them as one
        track. A verdict that could not be had, or that names no anomaly though it is abnormal, is a problem.
    """
    path = Path(path)
    roots = [Path(video_root)] if video_root is not None else [path.parent, Path.cwd()]
    records, problems = [], []
    for number, entry in enumerate(read_entries(path), 1):
        name = PurePosixPath(entry["video"].replace("\\", "/")).as_posix()
        try:
            record = _record(name, entry, roots)
        except (ValueError, OSError) as error:
            problems.append(Problem(number, name, str(error)))
            continue
        faults = [f.message for f in check_object(record.to_dict()) if f.severity == "error"]
        problems += [Problem(number, name, message) for message in faults]
        records += [] if faults else [record]
    return Imported(records, problems)


def _record(name: str, entry: Mapping[str, Any], roots: Sequence[Path]) -> Record:
    verdict = entry.get("verdict")
    if not isinstance(verdict, dict):
        raise FormatError("the entry holds no verdict; judge the video again with cac-align score --json")
    status = verdict.get("status")
    if status not in ("normal", "abnormal"):
        raise FormatError(f"the judge gave no status ({verdict.get('error') or status!r}); judge the video again")
    place = next((root / name for root in roots if (root / name).is_file()), None)
    if place is None:
        raise FormatError(f"no video file {name!r} in {', '.join(map(str, roots))}; name its folder (--video-root)")
    prompt = entry.get("prompt")
    truth = empty_annotation(name, place, prompt if isinstance(prompt, str) else "", source="judge")
    judged = verdict.get("num_frames")
    if is_int(judged) and judged and judged != truth.num_frames:
        raise FormatError(f"the judge saw {judged} frames, the file has {truth.num_frames}; judge the video again")
    anomalies = _anomalies(verdict, truth.num_frames)
    provenance = verdict.get("provenance")
    extra: dict[str, Any] = {ORIGIN_KEY: GENERATED, MAKER_KEY: _maker(provenance)}
    if is_number(verdict.get("score")):
        extra["reward"] = verdict["score"]
    if isinstance(provenance, dict):
        extra["provenance"] = provenance
    return Record(str(place.absolute()), replace(truth, anomalies=tuple(anomalies)), extra=extra)


def _anomalies(verdict: Mapping[str, Any], num_frames: int) -> list[Anomaly]:
    """The anomalies of an abnormal verdict, with boxes between the frames the judge looked at.

    Raises:
        FormatError: they break a rule of annotations, or there is none.
    """
    named = verdict.get("anomalies") or []
    if not isinstance(named, list):
        raise FormatError("the verdict's anomalies are not a list; judge the video again")
    for number, anomaly in enumerate(named, 1):
        for fault in check_anomaly(anomaly, num_frames):
            if fault.severity == "error":
                raise FormatError(f"anomaly {number}: {fault.message}")
    if verdict["status"] != "abnormal":
        return []
    if not named:
        raise FormatError("abnormal, but no anomaly is named; judge it with reasoning")
    step = _step(verdict.get("turns"))
    return [filled(Anomaly.from_dict(a), step) for a in named]


def filled(anomaly: Anomaly, step: int) -> Anomaly:
    """The same anomaly with boxes also between frames that lie at most ``step`` apart, on straight lines."""
    tracks = []
    for track in to_tracks(anomaly.boxes):
        frames = sorted(track)
        gaps = {a for a, b in pairwise(frames) if b - a > step}
        keys = [Keyframe(n, _corners(track[n]), ends=n in gaps or n == frames[-1]) for n in frames]
        tracks.append(expand(keys, frames[-1] + 1).boxes)
    return replace(anomaly, boxes=from_tracks(tracks))


def _corners(box: Box) -> tuple[float, float, float, float]:
    return float(box.xmin), float(box.ymin), float(box.xmax), float(box.ymax)


def _step(turns: Any) -> int:
    """Most frames between two that a look was shown whose boxes are meant: turns two, or the last turn where there was
    none; 1 where the file does not tell.
    """
    told = [turn for turn in turns if isinstance(turn, dict)] if isinstance(turns, list) else []
    steps = [1]
    for turn in [turn for turn in told if turn.get("number") == 2] or told[-1:]:
        indices = turn.get("frame_indices")
        if isinstance(indices, list) and all(is_int(n) for n in indices):
            steps += [b - a for a, b in pairwise(indices)]
    return max(steps)


def _maker(provenance: Any) -> str:
    model = provenance.get("model") if isinstance(provenance, dict) else None
    if isinstance(model, dict):
        name, revision = model.get("model"), model.get("revision")
        model = f"{name} at {revision}" if name and revision else name
    return str(model) if model else "a judge that is not named"
