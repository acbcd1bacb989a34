"""Best-of-n for less: all candidates with few denoising steps, judged; only the best in full, from the same seeds.

A preview begins from the same noise as the full video and takes larger steps along the same path, so that it shows the
same scene less exactly (CachedSearch, arXiv 2607.23159: explore with a cheap sampler, draw only the winners exactly).
How well it predicts which candidates a judge objects to depends on the model: ``benchmarks/previews.py`` measures it.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.pipelines import Pipeline
from cac_align.rewards.base import Evaluation, objections, order
from cac_align.selection.costs import Cost, as_count, pick, seconds_of, total_forwards
from cac_align.selection.run_folder import BestOfNOutput

if TYPE_CHECKING:
    from cac_align.selection.run import DrawnCandidate, Run

#: Folder of the previews in that of a run.
PART = "previews"


def check_previews(pipe: Pipeline, n: int, preview_steps: int, keep: int, pipe_kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for previews that cannot be, or would not be cheaper."""
    for name, value in (("preview_steps", preview_steps), ("keep", keep)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be an integer of at least 1")
    if keep >= n:
        raise ValueError(f"keep={keep} must be below n={n}: with all kept, previews only cost; leave out preview_steps")
    parameters = inspect.signature(pipe.__call__).parameters
    parameter = parameters.get("num_inference_steps")
    if parameter is None and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise ValueError(f"preview_steps={preview_steps}: {type(pipe).__name__} takes no num_inference_steps")
    full = pipe_kwargs.get("num_inference_steps", getattr(parameter, "default", None))
    if isinstance(full, int) and preview_steps >= full:
        raise ValueError(f"preview_steps={preview_steps} must be below the {full} denoising steps of a full video")


def choose_by_previews(
    run: Run, prompt: str, folder: Path | None, preview_steps: int, *, keep: int, judge_all: bool
) -> BestOfNOutput:
    """The outcome of one prompt. Candidates that were left out are shown, and ranked last, by their previews."""
    few = run.draw(prompt, folder, part=PART, changes={"num_inference_steps": preview_steps})
    previews = run.choose(prompt, few)
    kept = sorted(previews.ranking[:keep])
    full = run.draw(prompt, folder, None if judge_all else kept)
    answer, seconds = run.judge(prompt, [drawn.frames for drawn in full.values()])
    places = {k: place for place, k in enumerate(full)}
    ranked = order(answer.scores, objections(answer.verdicts), run.rank_by)
    numbers = list(full)
    best = next(numbers[place] for place in ranked if numbers[place] in kept)

    def merged(of_full: Sequence[Any], of_previews: Sequence[Any]) -> list[Any]:
        return [of_full[places[k]] if k in places else of_previews[k] for k in range(run.n)]

    told = {"preview_steps": preview_steps, "keep": keep, "judge_all": judge_all}
    return replace(
        previews,
        candidates=merged([drawn.frames for drawn in full.values()], previews.candidates),
        scores=merged(answer.scores, previews.scores),
        verdicts=merged(answer.verdicts, previews.verdicts),
        reasons=merged(answer.reasons, previews.reasons),
        parts={name: merged(values, previews.parts.get(name, [None] * run.n)) for name, values in answer.parts.items()},
        best=best,
        previews=previews,
        kept=kept,
        settings={**previews.settings, **told},
        costs=_costs(run, few, full, previews, answer, seconds, best, judge_all=judge_all),
    )


def _costs(
    run: Run,
    few: Mapping[int, DrawnCandidate],
    full: Mapping[int, DrawnCandidate],
    previews: BestOfNOutput,
    answer: Evaluation,
    seconds: Sequence[float],
    best: int,
    *,
    judge_all: bool,
) -> dict[str, Any]:
    """Costs of both stages. The random pick is one of all candidates in full where they were judged; otherwise only
    previews are known of all.
    """
    spent: list[list[Cost | None]] = [[drawn.cost for drawn in stage.values()] for stage in (few, full)]
    first, second = (total_forwards(costs) for costs in spent)
    per_video = None if second is None else second / len(full)
    judged = previews.costs["seconds"]["judge"]
    costs: dict[str, Any] = {
        "forwards": {
            "previews": first,
            "candidates": second,
            "total": None if first is None or second is None else first + second,
            "all_in_full": None if per_video is None else as_count(per_video * run.n),
        },
        "judge_calls": len(few) + len(full),
        "seconds": {
            "preview": seconds_of([cost.seconds for cost in spent[0] if cost is not None]),
            "candidate": seconds_of([cost.seconds for cost in spent[1] if cost is not None]),
            "judge": seconds_of([*seconds, *[judged["mean"]] * judged["videos"]]),
        },
        "random_pick": {**previews.costs["random_pick"], "of": "previews"},
    }
    if judge_all:
        objected = objections(answer.verdicts)
        top = order(answer.scores, objected, run.rank_by)[0]
        chosen, possible = answer.scores[best], answer.scores[top]
        costs["random_pick"] = {**pick(answer.scores, objected), "of": "candidates"}
        costs["oracle"] = {"candidate": top, "score": possible, "abnormal": objected[top]}
        costs["selector_regret"] = None if chosen is None or possible is None else round(possible - chosen, 6)
    return costs
