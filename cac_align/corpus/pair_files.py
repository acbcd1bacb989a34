"""Preference pairs in the formats that others train on.

``preference``: ``prompt``, ``chosen`` and ``rejected``, the columns of a preference dataset in TRL, with how far each
judge puts them apart and what was found in either video. ``labelled``: ``caption``, ``video_0``, ``video_1``,
``label_0`` and ``label_1``, the columns of Pick-a-Pic and of Diffusion-DPO's trainer (arXiv 2311.12908) with videos in
place of its ``jpg_0`` and ``jpg_1``; which side the better one stands on is drawn. ``winners``: ``video`` and
``prompt``, each chosen video once, for supervised fine-tuning; a list for ``data_regulariser`` of Flow-GRPO as well.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from cac_align.corpus.table_files import rebased, write_table
from cac_align.corpus.verdict_rows import KINDS

PairFormat = Literal["preference", "labelled", "winners"]
PAIR_FORMATS: tuple[str, ...] = get_args(PairFormat)
#: What is told of either video, for losses that look where the two differ.
_FOUND = ("anomalies", "boxes", "num_frames")
#: Columns of ``preference`` beside ``differences``, and their kinds.
PREFERENCE_KINDS: Mapping[str, Any] = {
    **dict.fromkeys(("prompt", "chosen", "rejected"), "text"),
    **{f"{side}_{name}": KINDS[name] for side in ("chosen", "rejected") for name in _FOUND},
}


@dataclass(frozen=True)
class JudgedPair:
    """Two rows of candidates of one prompt; ``differences``: by judge."""

    chosen: Mapping[str, Any]
    rejected: Mapping[str, Any]
    differences: Mapping[str, float]


def write_pairs(path: Path, pairs: Sequence[JudgedPair], form: PairFormat | str, seed: int = 0) -> int:
    """Writes pairs, whole or not at all; returns the number of rows.

    Args:
        path: ends in .parquet, .jsonl or .csv; paths of videos count from its folder.
        pairs: in their order.
        form: one of the three formats.
        seed: draws the sides of ``labelled``.
    """
    if form == "winners":
        return write_table(path, _winners(pairs, path.parent), {"video": "text", "prompt": "text"})
    if form == "labelled":
        texts = dict.fromkeys(("caption", "video_0", "video_1"), "text")
        labels = dict.fromkeys(("label_0", "label_1"), "number")
        return write_table(path, _labelled(pairs, path.parent, seed), {**texts, **labels})
    judges = dict.fromkeys((name for pair in pairs for name in pair.differences), "number")
    kinds = list(PREFERENCE_KINDS.items())
    columns = {**dict(kinds[:3]), "differences": judges, **dict(kinds[3:])}
    return write_table(path, _preferences(pairs, path.parent), columns)


def _place(row: Mapping[str, Any], folder: Path) -> str:
    return rebased(row["video"], Path(), folder)


def _preferences(pairs: Iterable[JudgedPair], folder: Path) -> Iterable[dict[str, Any]]:
    for pair in pairs:
        sides = {"chosen": pair.chosen, "rejected": pair.rejected}
        yield {
            "prompt": pair.chosen["prompt"],
            **{side: _place(row, folder) for side, row in sides.items()},
            "differences": {name: round(value, 6) for name, value in pair.differences.items()},
            **{f"{side}_{name}": _found(row, name) for side, row in sides.items() for name in _FOUND},
        }


def _found(row: Mapping[str, Any], name: str) -> Any:
    return row.get(name) if name == "num_frames" else list(row.get(name) or ())


def _labelled(pairs: Iterable[JudgedPair], folder: Path, seed: int) -> Iterable[dict[str, Any]]:
    for number, pair in enumerate(pairs):
        # Without this, a model could learn the side instead of the video.
        first = random.Random(f"{seed} side {number}").random() < 0.5
        left, right = (pair.chosen, pair.rejected) if first else (pair.rejected, pair.chosen)
        yield {
            "caption": pair.chosen["prompt"],
            "video_0": _place(left, folder),
            "video_1": _place(right, folder),
            "label_0": float(first),
            "label_1": float(not first),
        }


def _winners(pairs: Iterable[JudgedPair], folder: Path) -> Iterable[dict[str, Any]]:
    for video, prompt in dict.fromkeys((_place(p.chosen, folder), p.chosen["prompt"]) for p in pairs):
        yield {"video": video, "prompt": prompt}
