"""Repairs within best-of-n: which candidates are tried, what a folder keeps of them, and what is told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.pipelines import Pipeline
from cac_align.rewards.base import objections, reward_name
from cac_align.selection import run_folder
from cac_align.selection.candidates import candidate_seed
from cac_align.selection.costs import Cost, metered, seconds_of, total_forwards
from cac_align.selection.repair import MARGIN, MARGIN_S, Repair, accept, check_repairable, redraw_cells, repair_cells
from cac_align.selection.run_folder import BestOfNOutput

if TYPE_CHECKING:
    from cac_align.selection.run import Run

#: Folder of the repaired videos in that of a run.
PART = "repairs"
#: Share of the denoising steps that are done again.
STRENGTH = 0.8


def check_repair(pipe: Pipeline, repair: int, pipe_kwargs: Mapping[str, Any]) -> None:
    """Raises ValueError for repairs that cannot be."""
    if isinstance(repair, bool) or not isinstance(repair, int) or repair < 0:
        raise ValueError(f"repair={repair!r} must be an integer of at least 0, the candidates to try")
    if pipe_kwargs.get("image") is not None:
        raise ValueError(f"repair={repair} redraws videos of a text alone; leave out image=, or repair=")
    check_repairable(pipe)


def repair_outcome(run: Run, output: BestOfNOutput, folder: Path | None, most: int) -> BestOfNOutput:
    """The outcome after up to ``most`` candidates were repaired, best first, until one is judged normal; as it was
    where the chosen one is already.
    """
    repairs: dict[int, Repair] = {}
    objected = objections(output.verdicts)
    drawn = output.ranking if output.kept is None else [k for k in output.ranking if k in output.kept]
    for k in drawn if objected[output.best] else ():
        if len(repairs) == most:
            break
        if not objected[k]:
            continue
        tried = _try(run, output, k, folder)
        if tried is None:
            continue
        repairs[k] = tried
        if tried.accepted and tried.verdict is not None and tried.verdict.status == "normal":
            break
    return _with_repairs(run, output, repairs) if repairs else output


def _try(run: Run, output: BestOfNOutput, k: int, folder: Path | None) -> Repair | None:
    """One repair, drawn or read back from the folder; None if the verdict names nothing to repair."""
    video, verdict = output.candidates[k], output.verdicts[k]
    assert verdict is not None
    try:
        cells = repair_cells(run.pipe, verdict, video.shape, fps=run.fps)
    except ValueError:
        return None
    seed = candidate_seed(output.seeds[k], 0)
    told = {"cells": hashlib.sha256(np.packbits(cells).tobytes()).hexdigest()[:16], "strength": STRENGTH, "seed": seed}
    made_by = {**run.made_by(output.prompt)[k], "repair": told}
    place = None if folder is None else folder / PART
    stored = None if place is None else run_folder.load(place, k, made_by)
    if place is not None and stored is not None:
        after, round_trip = stored[: len(video)], stored[len(video) :]
        cost = run_folder.load_cost(place, k) or Cost(None, 0.0)
    else:
        with metered(run.pipe) as meter:
            after, round_trip = redraw_cells(
                run.pipe, video, cells, prompt=output.prompt, seed=seed, strength=STRENGTH, **run.pipe_kwargs
            )
            cost = meter.cost(1)
        if place is not None:
            run_folder.store(place, k, np.concatenate([after, round_trip]), made_by, cost)
    return accept(
        run.reward, output.prompt, video, after, round_trip, cells,
        score=output.scores[k], fps=run.fps, cost=cost, seed=seed,
    )  # fmt: skip


def _with_repairs(run: Run, output: BestOfNOutput, repairs: dict[int, Repair]) -> BestOfNOutput:
    taken = {k: repair for k, repair in repairs.items() if repair.accepted}

    def changed(values: list[Any], new: Mapping[int, Any]) -> list[Any]:
        return [new.get(k, value) for k, value in enumerate(values)]

    redrawn = total_forwards([repair.cost for repair in repairs.values()])
    before = output.costs["forwards"]
    total = None if redrawn is None or before["total"] is None else before["total"] + redrawn
    costs = {
        **output.costs,
        "forwards": {**before, "repairs": redrawn, "total": total},
        "judge_calls": output.costs["judge_calls"] + len(repairs),
        "seconds": {**output.costs["seconds"], "repair": seconds_of([r.cost.seconds for r in repairs.values()])},
    }
    repaired = replace(
        output,
        candidates=changed(output.candidates, {k: r.after for k, r in taken.items()}),
        scores=changed(output.scores, {k: r.score_after for k, r in taken.items()}),
        verdicts=changed(output.verdicts, {k: r.verdict for k, r in taken.items()}),
        # Parts of a composite are those of the video before; the new ones are not told apart by a single call.
        parts={name: changed(values, dict.fromkeys(taken)) for name, values in output.parts.items()},
        repairs=repairs,
        costs=costs,
        settings={
            **output.settings,
            "repair": len(repairs),
            "repair_strength": STRENGTH,
            "repair_margin_s": MARGIN_S,
            "repair_margin": MARGIN,
            "reward": reward_name(run.reward),
        },
    )
    return replace(repaired, best=repaired.ranking[0])
