"""``cac-align data import`` and ``export``: between annotation files and other formats."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reward_model.terminal.program import printable

if TYPE_CHECKING:
    from reward_model.data.formats.common import Imported
    from reward_model.data.records import Record
    from reward_model.data.validation import Problem

FORMATS = ("label-studio", "cvat", "grouped", "verdicts", "vif-cot", "deeptrace", "table")
TOOLS = ("label-studio", "cvat", "grouped")


def add_import(parser: argparse.ArgumentParser) -> None:
    """Options of ``import``."""
    parser.add_argument(
        "source", type=Path, metavar="PATH", help="the file; for label-studio and cvat also a ZIP or a folder of them"
    )
    parser.add_argument("--format", choices=FORMATS, required=True)
    parser.add_argument("--output", type=Path, required=True, metavar="JSONL", help="the annotation file to write")
    parser.add_argument(
        "--base", type=Path, metavar="JSONL", help="label-studio, cvat: the annotation file the tasks were made from"
    )
    parser.add_argument("--video-root", type=Path, metavar="DIR", help="folder of the videos")
    parser.add_argument(
        "--skip-bad", action="store_true", help="write the videos without errors; else any error stops the import"
    )
    parser.add_argument("--annotator", type=int, metavar="ID", help="label-studio: take this user's annotations")
    parser.add_argument("--skip-open", action="store_true", help="label-studio: leave out tasks nobody has annotated")
    parser.add_argument(
        "--frame-rate",
        type=float,
        metavar="FPS",
        help="label-studio: frameRate of the project, if it differs from the videos' and no rectangle states it",
    )
    parser.add_argument("--video-pattern", metavar="GLOB", help="vif-cot: such as '{source}/{label}/*{video_id}*.mp4'")
    parser.add_argument(
        "--type-map",
        metavar="NAME_OR_FILE",
        help="vif-cot: paper (default), cac; all formats: a JSON file, type name to type or null",
    )
    parser.add_argument("--last-frame", metavar="FIELD", help="deeptrace: field of a trace's last frame, or 'end'")
    parser.add_argument("--first-index", type=int, choices=(0, 1), help="deeptrace, table: number of the first frame")
    parser.add_argument("--box-on", choices=("first", "all"), default="first", help="deeptrace: frames with the box")
    parser.add_argument("--group-field", metavar="FIELD", help="deeptrace: field that names the source footage")
    parser.add_argument("--column", nargs="+", default=[], metavar="ROLE=NAME", help="table: columns by meaning")
    parser.add_argument("--time", choices=("frames", "seconds"), default="frames", help="table (default: frames)")
    parser.add_argument(
        "--box-unit",
        choices=("grid", "unit", "percent", "pixels"),
        default="grid",
        help="table (default: grid, 0-1000)",
    )
    parser.add_argument("--box-layout", choices=("xyxy", "xywh"), default="xyxy", help="table (default: xyxy)")


def run_import(args: argparse.Namespace) -> int:
    """Reads, lists what did not come through, and writes the rest."""
    from reward_model.data.annotations import read_annotations, rebase, write_annotations

    base = read_annotations(args.base, check_videos=False) if args.base else []
    found = READERS[args.format](args, base)
    for problem in found.problems:
        print(printable(str(problem).replace("line ", "item ", 1)), file=sys.stderr)
    if found.errors and not args.skip_bad:
        print(f"{len(found.errors)} errors; nothing was written (--skip-bad writes the rest)", file=sys.stderr)
        return 1
    if not found.records:
        raise ValueError(f"{args.source} gave no video; nothing was written")
    records = found.records
    if args.format == "verdicts":
        records = [replace(r, video=os.path.relpath(r.video, args.output.absolute().parent)) for r in records]
    elif args.video_root or args.base or args.format == "grouped":
        records = rebase(records, args.base or args.source, args.output, args.video_root)
    print(write_annotations(args.output, records))
    print(f"{len(records)} videos, {sum(r.truth.status == 'abnormal' for r in records)} abnormal")
    return 0


def _label_studio(args: argparse.Namespace, base: list[Record]) -> Imported:
    from reward_model.data.formats.common import FormatError, Imported
    from reward_model.data.formats.documents import parse_json, read_documents
    from reward_model.data.formats.label_studio import from_label_studio
    from reward_model.data.validation import Problem

    if args.frame_rate is not None and not 0 < args.frame_rate < 1000:
        raise ValueError(f"--frame-rate {args.frame_rate:g} must be frames per second, such as 24")
    documents, problems = read_documents(args.source, ".json")
    tasks: list[Any] = []
    for name, data in documents.items():
        try:
            found = parse_json(data)
            if not isinstance(found, list):
                raise FormatError("it must hold a JSON list of tasks; export the project as JSON")
            tasks += found
        except FormatError as error:
            problems.append(Problem(0, "", f"{name}: {error}"))
    _some(documents if tasks else (), problems)
    read = from_label_studio(
        tasks,
        base=base,
        annotator=args.annotator,
        skip_open=args.skip_open,
        frame_rate=args.frame_rate,
        type_map=_type_map(args),
    )
    return Imported(read.records, [*problems, *read.problems])


def _cvat(args: argparse.Namespace, base: list[Record]) -> Imported:
    from reward_model.data.annotations import video_path
    from reward_model.data.formats.common import Imported, stored_size, varying_rate
    from reward_model.data.formats.cvat import from_cvat
    from reward_model.data.formats.documents import read_documents
    from reward_model.data.validation import Problem

    if not base:
        raise ValueError("--format cvat needs --base, the annotation file the tasks were made from")
    documents, problems = read_documents(args.source, ".xml")
    _some(documents, problems)

    def place(record: Record) -> Path:
        return video_path(record, args.base, args.video_root)

    read = from_cvat(documents, base, type_map=_type_map(args), stored_size=lambda record: stored_size(place(record)))
    places = [(record, place(record)) for record in read.records]
    varying = {r.truth.video_id: reason for r, place in places if (reason := varying_rate(place))}
    problems += [Problem(0, name, reason) for name, reason in varying.items()]
    return Imported([r for r in read.records if r.truth.video_id not in varying], [*problems, *read.problems])


def _grouped(args: argparse.Namespace, base: list[Record]) -> Imported:
    from reward_model.data.formats.grouped import read_grouped

    return read_grouped(args.source)


def _verdicts(args: argparse.Namespace, base: list[Record]) -> Imported:
    from reward_model.data.formats.verdicts import read_verdicts

    return read_verdicts(args.source, video_root=args.video_root)


def _vif_cot(args: argparse.Namespace, base: list[Record]) -> Imported:
    from reward_model.data.formats.vif_cot import TYPE_MAPS, read_vif_cot

    _need(args, "video_root", "video_pattern")
    name = args.type_map or "paper"
    types = name if name in TYPE_MAPS else _type_map(args)
    assert types is not None
    return read_vif_cot(args.source, video_root=args.video_root, video_pattern=args.video_pattern, type_map=types)


def _deeptrace(args: argparse.Namespace, base: list[Record]) -> Imported:
    from reward_model.data.formats.deeptrace import TO_END, read_deeptrace

    _need(args, "type_map", "last_frame", "first_index")
    types = _type_map(args)
    assert types is not None
    return read_deeptrace(
        args.source,
        type_map=types,
        last_frame=TO_END if args.last_frame == "end" else args.last_frame,
        first_index=args.first_index,
        box_on=args.box_on,
        group_field=args.group_field,
    )


def _table(args: argparse.Namespace, base: list[Record]) -> Imported:
    from reward_model.data.formats.tabular import TableLayout, read_table

    _need(args, "video_root")
    pairs = [word.partition("=") for word in args.column]
    if any(not (role and name) for role, _, name in pairs):
        raise ValueError("--column must read like start=onset_s")
    layout = TableLayout(
        columns={role: name for role, _, name in pairs},
        time=args.time,
        first_index=args.first_index or 0,
        box_unit=args.box_unit,
        box_layout=args.box_layout,
        type_map=_type_map(args),
    )
    return read_table(args.source, layout, video_root=args.video_root)


READERS = {
    "label-studio": _label_studio,
    "cvat": _cvat,
    "grouped": _grouped,
    "verdicts": _verdicts,
    "vif-cot": _vif_cot,
    "deeptrace": _deeptrace,
    "table": _table,
}


def _some(documents: Collection[str], problems: Sequence[Problem]) -> None:
    if problems and not documents:
        raise ValueError("\n".join(p.message for p in problems))


def _need(args: argparse.Namespace, *names: str) -> None:
    for name in names:
        if getattr(args, name) is None:
            raise ValueError(f"--format {args.format} needs --{name.replace('_', '-')}; it cannot be inferred")


def _type_map(args: argparse.Namespace) -> Mapping[str, Any] | None:
    if args.type_map is None:
        return None
    from reward_model.data.formats.documents import read_json

    table = read_json(args.type_map)
    if not isinstance(table, dict) or not all(v is None or isinstance(v, str) for v in table.values()):
        raise ValueError(f"{args.type_map} must hold a JSON object: type name to one of the five types, or null")
    return table


def add_export(parser: argparse.ArgumentParser) -> None:
    """Options of ``export``."""
    parser.add_argument("annotations", type=Path, metavar="JSONL", help="annotation file, one video per line")
    parser.add_argument("--format", choices=TOOLS, required=True)
    parser.add_argument(
        "--output", type=Path, required=True, metavar="DIR", help="a folder for the tasks and the tool's configuration"
    )
    parser.add_argument("--video-prefix", default="", help="label-studio: such as /data/local-files/?d=")
    parser.add_argument("--as-annotations", action="store_true", help="label-studio: finished, not pre-annotated")
    parser.add_argument(
        "--sample-fps", type=float, metavar="FPS", help="grouped: count the frames of a sequence sampled at this rate"
    )


def run_export(args: argparse.Namespace) -> int:
    """Writes the tasks and the configuration they need."""
    from reward_model.data.annotations import read_annotations, rebase, video_path
    from reward_model.data.formats import cvat, label_studio
    from reward_model.data.formats.common import stored_size, varying_rate
    from reward_model.data.formats.grouped import to_grouped
    from reward_model.files import write_text

    records = read_annotations(args.annotations, check_videos=False)
    if args.format == "label-studio":
        tasks = label_studio.to_label_studio(
            records, video_prefix=args.video_prefix, as_annotations=args.as_annotations
        )
        print(write_text(args.output / "tasks.json", json.dumps(tasks, indent=1, ensure_ascii=False) + "\n"))
        print(write_text(args.output / "labeling_config.xml", label_studio.labeling_config()))
        return 0
    if args.format == "grouped":
        place = args.output / "grouped.jsonl"
        moved = rebase(records, args.annotations, place)
        rows = [json.dumps(to_grouped(r, sample_fps=args.sample_fps), ensure_ascii=False) for r in moved]
        print(write_text(place, "".join(f"{row}\n" for row in rows)))
        return 0
    names = _file_names(records)
    for name, record in zip(names, records, strict=True):
        place = video_path(record, args.annotations)
        width, height = stored_size(place) or (record.truth.width, record.truth.height)
        seen = replace(record, truth=replace(record.truth, width=width, height=height))
        write_text(args.output / f"{name}.xml", cvat.to_cvat(seen))
        reason = varying_rate(place)
        if reason:
            print(printable(f"warning: {record.truth.video_id}: {reason}"), file=sys.stderr)
    print(f"{args.output}: {len(records)} tasks")
    print(write_text(args.output / "labels.json", cvat.labels_config()))
    return 0


def _file_names(records: list[Record]) -> list[str]:
    """A file name for each video id; what file systems do not take becomes "_", and numbers keep names apart."""
    names: list[str] = []
    taken: set[str] = set()
    for record in records:
        plain = "".join(c if c.isalnum() or c in "-_." else "_" for c in record.truth.video_id)[:100].lstrip(".")
        name, number = plain or "video", 2
        while name.lower() in taken:
            name, number = f"{plain}-{number}", number + 1
        taken.add(name.lower())
        names.append(name)
    return names
