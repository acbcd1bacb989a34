"""VBench's own result files, ``*_eval_results.json``, read back."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cac_align.metrics.dimensions import DIMENSIONS


@dataclass(frozen=True)
class VBenchResult:
    """One dimension of a result file.

    Attributes:
        total: the package's number, in [0, 1] (ratings may leave it).
        videos: path -> score, brought to the scale of the total: the file has imaging quality times 100, and true or
            false for dynamic degree.
    """

    total: float
    videos: dict[str, float]


def read_results(path: str | os.PathLike[str]) -> dict[str, VBenchResult]:
    """The results of a file by dimension.

    Raises:
        ValueError: if the file is missing or of another kind.

    Example:
        >>> read_results("results_eval_results.json")["dynamic_degree"].total                    # doctest: +SKIP
        0.4861
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no VBench result at {str(path)!r}; the package writes <name>_eval_results.json")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict) or not data:
        raise ValueError(f"{path} must map dimensions to [total, videos], got {type(data).__name__}")
    return {dimension: _read(dimension, found, path) for dimension, found in data.items()}


def _read(dimension: str, entry: Any, path: Path) -> VBenchResult:
    known = DIMENSIONS.get(dimension)
    scale = known.per_video_scale if known else 1.0
    try:
        total, videos = entry
        scores = {str(v["video_path"]): float(v["video_results"]) / scale for v in _list(videos)}
        return VBenchResult(float(total), scores)
    except (TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path}: {dimension!r} must be [total, [{{'video_path', 'video_results'}}, ...]] ({error!r}); is this "
            "the _full_info.json?"
        ) from None


def _list(videos: object) -> Sequence[Any]:
    if not isinstance(videos, list):
        raise TypeError(f"videos are {type(videos).__name__}")
    return videos
