"""A baseline's row in the tables: the stronger of two ways of asking, and none that is one-sided (C.2, 4.1)."""

from __future__ import annotations

from collections.abc import Mapping

from reward_model.evaluation.running.result import EvaluationResult

#: The row of a model asked the judge's own question, once.
COMMON = "common"
#: A judge whose recall of either class is below this on the main bench leans to the other class. The paper leaves such
#: models out of the hard bench and names no number: this one parts its Table 1 as the text does (Gemini-2.5-Pro, 0.244,
#: is out; VR-Thinker, 0.382, is in).
LEAST_RECALL = 0.3


def stronger_of_both(
    judges: Mapping[str, EvaluationResult], official: tuple[str, ...]
) -> dict[str, tuple[str, EvaluationResult]]:
    """For each model that was asked in both ways, the row with the higher accuracy.

    Args:
        judges: results of one bench by row, ``"MODEL, common"`` for the judge's own question and ``"MODEL, KIND"`` for
            the model's own protocol.
        official: the kinds that are a protocol of the model's own.

    Returns:
        By model, the kind of the stronger row and its result; of equals the model's own protocol.
    """
    chosen: dict[str, tuple[str, EvaluationResult]] = {}
    for row in judges:
        model, _, kind = row.rpartition(", ")
        if kind != COMMON or not model:
            continue
        ways = {k: judges[name] for k in (*official, COMMON) if (name := f"{model}, {k}") in judges}
        scored = {k: a for k, found in ways.items() if (a := found.value("status accuracy")) is not None}
        if len(scored) > 1:
            best = max(scored, key=lambda k: scored[k])
            chosen[model] = (best, ways[best])
    return chosen


def is_biased(recall_abnormal: float, recall_normal: float, least: float = LEAST_RECALL) -> bool:
    """True if a judge defaults to one answer: one of its recalls on a balanced bench is below ``least``.

    Example:
        >>> is_biased(0.982, 0.018), is_biased(0.538, 0.582)
        (True, False)
    """
    return min(recall_abnormal, recall_normal) < least


def balanced(
    judges: Mapping[str, EvaluationResult], main: Mapping[str, EvaluationResult], least: float = LEAST_RECALL
) -> tuple[dict[str, EvaluationResult], list[str]]:
    """The judges that a bench of abnormal videos alone may rank, and the names of those left out.

    Args:
        judges: results on that bench.
        main: results on a bench with both classes; a judge that is not among them is kept.
        least: as in :func:`is_biased`.
    """
    kept: dict[str, EvaluationResult] = {}
    left_out: list[str] = []
    for name, result in judges.items():
        measured = main.get(name)
        recalls = (measured.value("recall, abnormal"), measured.value("recall, normal")) if measured else (None, None)
        if recalls[0] is not None and recalls[1] is not None and is_biased(recalls[0], recalls[1], least):
            left_out.append(name)
        else:
            kept[name] = result
    return kept, left_out
