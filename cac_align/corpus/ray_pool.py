"""A corpus judged by the machines of a Ray cluster: Ray Data over the blocks, a pool of actors with one judge each.

Ray starts an actor anew whose machine has died, gives its blocks to another, and holds back what the actors cannot
take yet; rows come to the process that was started and are written down there, as those of any other run.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cac_align.corpus.judging import Asked, judge_clips
from cac_align.corpus.parts import Entry, Mark
from cac_align.corpus.sources import CorpusVideo
from reward_model.extras import need

if TYPE_CHECKING:
    from cac_align.rewards.cac import CaCReward

#: Most pieces that Ray keeps account of; rows come back piece by piece.
_PIECES = 10_000
#: Variables that a row may depend on, which actors on other machines would not have. A key is not among them: each
#: machine has its own ``$OPENAI_API_KEY``.
_PASSED_ON = ("OMP_NUM_THREADS", "TOKENIZERS_PARALLELISM", "HF_HUB_OFFLINE")


class JudgeActor:
    """A judge in a process of Ray.

    Args:
        reward: its settings; the model is loaded in the actor.
        model, answers, workers: as of :func:`cac_align.corpus.judging.judge_clips`.
    """

    def __init__(self, reward: CaCReward, model: str, answers: bool, workers: int) -> None:
        self.reward, self.model, self.answers, self.workers = reward, model, answers, workers
        reward.make_ready()

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Judges blocks, JSON texts in the column ``block``, and returns one text of entries."""
        blocks = [[Asked(key, CorpusVideo(**clip)) for key, clip in json.loads(text)] for text in batch["block"]]
        made = judge_clips(self.reward, blocks, self.model, answers=self.answers, workers=self.workers)
        return {"entries": [json.dumps([e for together in made for e in together])]}


def judge_with_ray(
    reward: CaCReward,
    blocks: Sequence[Sequence[Asked]],
    model: str,
    *,
    answers: bool = False,
    workers: int = 2,
    actors: int | None = None,
    address: str | None = None,
) -> Iterator[list[Entry]]:
    """The rows of all videos, in whatever order they come.

    Args:
        reward: settings of the judge; it is not loaded in this process.
        blocks: of clips whose paths every machine can open.
        model, answers, workers: as of :func:`cac_align.corpus.judging.judge_clips`.
        actors: judges; None: one for each GPU of the cluster, or one for every two of its CPUs.
        address: of a running cluster; None: ``$RAY_ADDRESS``, else Ray is started on this machine.

    Raises:
        ImportError: if Ray is not installed.
        ValueError: if the cluster has fewer resources than the actors need.
    """
    ray = need("ray", "--engine ray")
    need("ray.data", "--engine ray")
    if not ray.is_initialized():
        passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        ray.init(address=address, runtime_env={"env_vars": passed}, log_to_driver=False, logging_level=logging.ERROR)
    count, gpus = _actors(ray.cluster_resources(), actors, reward.backend == "local")
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    texts = [json.dumps([(a.key, _sent(a.clip)) for a in block]) for block in blocks]
    data = ray.data.from_items([{"block": text} for text in texts], override_num_blocks=min(len(texts), _PIECES))
    judged = data.map_batches(
        JudgeActor,
        fn_constructor_kwargs={"reward": reward, "model": model, "answers": answers, "workers": workers},
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count),
        num_cpus=1,
        num_gpus=gpus,
    )
    for row in judged.iter_rows():
        yield [
            Entry(key, None if mark is None else Mark(*mark), found) for key, mark, found in json.loads(row["entries"])
        ]


def _actors(resources: Mapping[str, float], wanted: int | None, local: bool) -> tuple[int, int]:
    """The number of actors, and of GPUs for each.

    Args:
        resources: of the cluster.
        wanted: actors; None: as many as fit.
        local: the judge runs in the actor.
    """
    gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
    each = 1 if local and gpus else 0
    count = wanted or (gpus if each else max(1, cpus // 2))
    if (each and count > gpus) or count >= cpus:
        needed = f"{count} GPUs, {count} CPUs" if each else f"{count} CPUs"
        raise ValueError(
            f"--actors {count} need {needed} and one more to read, and the cluster has {gpus} GPUs "
            f"and {cpus} CPUs; give fewer, or start Ray with more logical CPUs (ray start --num-cpus)"
        )
    return count, each


def _sent(clip: CorpusVideo) -> dict[str, Any]:
    """All that an actor has to know of a video; it works in another folder."""
    return {"video": str(Path(clip.video).absolute()), "prompt": clip.prompt, "fps": clip.fps}
