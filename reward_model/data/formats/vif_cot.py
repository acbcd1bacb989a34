"""ViF-CoT-4K (Skyra, arXiv 2512.15693) as records: the external bench of A.2.

A sample of its SFT file has ``messages`` (system, user, assistant) and ``images``, the paths of its frames:
``.../parsed_frames/<source>/<real|fake>/<generator>/<video id>/<k>.png``. The assistant text ends in
``<answer>Fake</answer>`` or ``Real``; a fake one carries ``<type>..</type> in <t>[s, e]</t> at <bbox>[x1, y1, x2,
y2]</bbox>``, seconds and 0-1 floats of one decimal, one box per window. Real ones carry inspections (``<t>``,
``<bbox>``) too: they are never anomalies. Videos are not named by the samples, so the caller says where they lie. The
file itself was not available when this was written: whatever does not look like this is reported, never guessed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from reward_model.data.formats.common import (
    FormatError,
    Imported,
    TypeMap,
    empty_annotation,
    grid_box,
    map_type,
    same_box_on,
    seconds_to_frames,
)
from reward_model.data.formats.documents import read_json
from reward_model.data.records import GROUP_KEY, Record
from reward_model.data.validation import Problem
from reward_model.schema import Anomaly, AnomalyType, Box, VideoAnnotation

_OBJECT, _HUMAN, _MOTION, _PHYSICAL, _CHARACTER = AnomalyType
#: CaC's own taxonomy applied to Skyra's 23 names; None: no local anomaly in CaC's sense.
_CAC: dict[str, AnomalyType | None] = {
    "Abnormal Human Body Structure": _HUMAN,
    "Person Identity Inconsistency": _HUMAN,
    "Text Distortion": _CHARACTER,
    "Shape Distortion": _OBJECT,
    "General Object Identity Inconsistency": _OBJECT,
    "Abnormal General Object Structure": _OBJECT,
    "Structure Anomaly": _OBJECT,
    "Abnormal Object Splitting": _OBJECT,
    "Abnormal Multi-Object Merging": _OBJECT,
    "Violation of Physical Law": _PHYSICAL,
    "Violation of General Causality Law": _PHYSICAL,
    "Abnormal Rigid-Body Crossing": _PHYSICAL,
    "General Interaction Anomaly": _PHYSICAL,
    "Unnatural Human Movement": _MOTION,
    "Unnatural Animal Movement": _MOTION,
    "Unnatural General Object Movement": _MOTION,
    "Texture Jittering": _MOTION,
    "Abnormal Object Appearance": _MOTION,
    "Abnormal Object Disappearance": _MOTION,
    "Unnatural Blur": None,
    "Color Over-saturation": None,
    "Lighting Inconsistency": None,
    "Camera Motion Inconsistency": None,
}
#: ``paper`` follows A.2, "object inconsistency" to Object Distortion, which takes appearance and disappearance along;
#: ``cac`` follows the definitions of B.1.2, where sudden (dis)appearance is a Motion Anomaly (paper, B.1.2).
TYPE_MAPS: Mapping[str, TypeMap] = {
    "paper": {**_CAC, "Abnormal Object Appearance": _OBJECT, "Abnormal Object Disappearance": _OBJECT},
    "cac": _CAC,
}

_ANSWER = re.compile(r"<answer>\s*(fake|real)\s*</answer>", re.IGNORECASE)
_LIST = r"\[([^\[\]<>]*)\]"
_EVIDENCE = re.compile(
    rf"<type>([^<>]+)</type>[^<>]*<t>\s*{_LIST}\s*</t>(?:[^<>]*<bbox>\s*{_LIST}\s*</bbox>)?", re.IGNORECASE
)
_TYPE = re.compile(r"<type>", re.IGNORECASE)


class SampleName(NamedTuple):
    """Parts of a sample's folder name: the last folders of its image paths."""

    source: str
    label: str
    generator: str
    video_id: str


def read_vif_cot(
    path: str | Path,
    *,
    video_root: str | Path,
    video_pattern: str,
    type_map: str | TypeMap = "paper",
) -> Imported:
    """The records of an SFT file.

    Args:
        path: a JSON list of samples.
        video_root: folder of the extracted videos; the paths of the records are relative to it.
        video_pattern: where in it a sample's video lies, a glob with the fields ``{source}``, ``{label}``,
            ``{generator}`` and ``{video_id}``, such as ``{source}/{label}/*{video_id}*.mp4``. It must match one file.
        type_map: ``"paper"``, ``"cac"``, or a mapping from Skyra's names to types (None leaves an anomaly out).

    Returns:
        One record per video, in the group ``source/video id`` (real and fake twins share it). A fake video all of whose
        anomalies are left out is neither normal nor usable: it is left out with a warning.

    Raises:
        ValueError: if the file is not a JSON list, or ``type_map`` names no preset.
    """
    types = _type_map(type_map)
    samples = read_json(path)
    if not isinstance(samples, list):
        raise FormatError(f"{str(path)!r} must hold a JSON list of samples")
    records, problems, seen = [], [], dict[str, int]()
    for number, sample in enumerate(samples, 1):
        name = ""
        try:
            place = sample_name(sample)
            name = "/".join(place)
            if name in seen:
                problems.append(Problem(number, name, f"the same video as sample {seen[name]}; skipped", "warning"))
                continue
            seen[name] = number
            video = _find_video(Path(video_root), video_pattern, place)
            record = _record(sample, place, Path(video_root), video, types)
            if isinstance(record, str):
                problems.append(Problem(number, name, record, "warning"))
            else:
                records.append(record)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            problems.append(Problem(number, name, str(error) or type(error).__name__))
    return Imported(records, problems)


def _type_map(type_map: str | TypeMap) -> TypeMap:
    if not isinstance(type_map, str):
        return type_map
    if type_map not in TYPE_MAPS:
        raise FormatError(f"type_map {type_map!r} must be one of {', '.join(TYPE_MAPS)}, or a mapping")
    return TYPE_MAPS[type_map]


def sample_name(sample: object) -> SampleName:
    """Source, label, generator and video id of a sample, from the folder that all its frames share.

    Raises:
        FormatError: no images, images of several folders, or a folder that is not ``.../<real|fake>/<generator>/<id>``.
    """
    images = sample.get("images") if isinstance(sample, dict) else None
    if not (isinstance(images, list) and images and all(isinstance(i, str) for i in images)):
        raise FormatError("the sample has no list of 'images'")
    folders = {PurePosixPath(i.replace("\\", "/")).parent for i in images}
    parts = min(folders).parts
    if len(folders) > 1 or len(parts) < 4 or parts[-3].lower() not in ("real", "fake"):
        raise FormatError(
            f"frames lie in {min(folders)}; expected one folder .../<source>/<real|fake>/<generator>/<id>"
        )
    return SampleName(parts[-4], parts[-3].lower(), parts[-2], parts[-1])


def _find_video(root: Path, pattern: str, place: SampleName) -> Path:
    try:
        wanted = pattern.format(**place._asdict())
    except (KeyError, IndexError, ValueError) as error:
        raise FormatError(
            f"video_pattern {pattern!r} has a bad field ({error}); use {', '.join(place._fields)}"
        ) from None
    found = sorted(root.glob(wanted))
    if len(found) != 1:
        raise FormatError(f"{len(found)} files match {wanted!r} in {str(root)!r}; the video pattern must match one")
    return found[0].relative_to(root)


def _record(sample: Mapping[str, Any], place: SampleName, root: Path, video: Path, types: TypeMap) -> Record | str:
    said = [m["content"] for m in sample["messages"] if m["role"] == "assistant"]
    if not said or not isinstance(said[-1], str):
        raise FormatError("the sample has no text of an assistant among its messages")
    text = said[-1]
    answers = {a.lower() for a in _ANSWER.findall(text)}
    if len(answers) != 1:
        raise FormatError("the assistant text must hold one <answer>Fake</answer> or <answer>Real</answer>")
    answer = answers.pop()
    if answer != place.label:
        raise FormatError(f"the answer says {answer}, the frames lie under {place.label!r}")
    truth = empty_annotation("/".join(place), root / video, source=f"ViF-CoT-4K {place.source} {place.generator}")
    extra = {GROUP_KEY: f"{place.source}/{place.video_id}"}
    if answer == "real":
        return Record(video.as_posix(), truth, extra=extra)
    anomalies = tuple(_anomalies(text, truth, types))
    if not anomalies:
        return "a fake video without a single anomaly of the five types; skipped"
    return Record(video.as_posix(), replace(truth, anomalies=anomalies), extra=extra)


def _anomalies(text: str, truth: VideoAnnotation, types: TypeMap) -> Iterator[Anomaly]:
    found = list(_EVIDENCE.finditer(text))
    if len(found) != len(_TYPE.findall(text)):
        raise FormatError("a <type> is not followed by its <t>[start, end]</t>")
    for evidence in found:
        name, window, box = evidence.groups()
        kind = map_type(name, types)
        if kind is None:
            continue
        start_s, end_s = _numbers(window, 2)
        frames = seconds_to_frames(start_s, end_s, truth.fps, truth.num_frames)
        region = _box(_numbers(box, 4)) if box else None
        yield Anomaly(kind, frames, same_box_on(frames, region) if region else {}, reason=_sentence(text, evidence))


def _box(values: list[float]) -> Box | None:
    # All zeros stand for the whole frame, or for no place at all.
    return grid_box(values, (1, 1)) if any(values) else None


def _numbers(text: str, count: int) -> list[float]:
    try:
        values = [float(v) for v in text.split(",")]
    except ValueError:
        values = []
    if len(values) != count:
        raise FormatError(f"[{text}] must hold {count} numbers")
    return values


def _sentence(text: str, evidence: re.Match[str]) -> str:
    """The words around a piece of evidence without its tags, up to the next evidence."""
    start = max(text.rfind(". ", 0, evidence.start()) + 2, text.rfind(">", 0, evidence.start()) + 1, 0)
    following = _TYPE.search(text, evidence.end())
    stop = following.start() if following else len(text)
    chunk = re.split(r"</?(?:think|answer)>", text[start:stop])[0]
    chunk = re.sub(r"(?<!\s)\s*+(?:\b(?:in|at)\s*+)?<(t|bbox)>[^<>]*</\1>", "", chunk)
    sentences = re.split(r"(?<=\.)\s+", re.sub(r"</?\w+>", "", chunk).strip())
    kept = sentences if not following or len(sentences) < 2 else sentences[:-1]
    return " ".join(" ".join(kept).split())
