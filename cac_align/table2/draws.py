"""The videos of a table, each drawn once: N candidates of the base model for every prompt and evaluation seed, and one
video of every LoRA, which starts from the latents of candidate 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.needs import check_model, frozen_file
from cac_align.selection import run_folder
from cac_align.selection.candidates import candidate_seed, encode_once, generate
from cac_align.table2.settings import TableSettings
from cac_align.table2.training import WEIGHTS, Training
from reward_model.digests import json_digest, model_fingerprint

if TYPE_CHECKING:
    from cac_align.pipelines import Pipeline


@dataclass(frozen=True)
class Source:
    """Source of videos: the base model, or a LoRA of it.

    Attributes:
        name: ``base``, or ``<row>/seed-<k>``; a folder.
        count: candidates of each item.
        training: training of a LoRA.
    """

    name: str
    count: int
    training: Training | None = None

    def ready(self) -> bool:
        """True if videos can be drawn from it."""
        return self.training is None or self.training.done()


@dataclass(frozen=True)
class SeededPrompt:
    """A prompt and an evaluation seed. ``seed`` is that of :func:`cac_align.best_of_n`, whose candidates these are."""

    index: int
    eval_seed: int
    prompt: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.index:04d}-{self.eval_seed}"


class Draws:
    """The videos of a table on disk.

    Args:
        settings: settings of the table.

    Raises:
        ValueError: prompts or settings do not fit.
    """

    def __init__(self, settings: TableSettings) -> None:
        self.settings, self.config = settings, settings.video
        self.folder = Path(settings.output_dir) / "videos"
        self.items = [
            SeededPrompt(k, s, prompt, derive_seed(settings.seed, prompt, s) % 2**32)
            for k, prompt in enumerate(settings.prompts)
            for s in settings.eval_seeds
        ]

    def place(self, source: Source, item: SeededPrompt) -> Path:
        """The folder of an item's candidates."""
        return self.folder / source.name / item.name

    def done(self, source: Source, item: SeededPrompt) -> bool:
        """True if all its videos exist."""
        place = self.place(source, item)
        return all(run_folder.frames_path(place, k).is_file() for k in range(source.count))

    def draw(self, source: Source, item: SeededPrompt, pipe: Pipeline) -> None:
        """Draws the candidates that are missing, one at a time, each stored at once."""
        place = self.place(source, item)
        with encode_once(pipe):
            for k in range(source.count):
                made_by = self.made_by(source, item, k)
                if run_folder.load(place, k, made_by) is None:
                    [frames] = generate(pipe, item.prompt, [made_by["candidate_seed"]], self.arguments)
                    run_folder.store(place, k, frames, made_by)

    def load(self, source: Source, item: SeededPrompt, index: int) -> np.ndarray:
        """The frames of a candidate, (T, H, W, 3) uint8.

        Raises:
            ResumeError: if it is damaged or was drawn with other settings.
            ValueError: if it is not there.
        """
        place = self.place(source, item)
        frames = run_folder.load(place, index, self.made_by(source, item, index))
        if frames is None:
            raise ValueError(f"no video at {run_folder.frames_path(place, index)}; run with --parts draw")
        return frames

    def made_by(self, source: Source, item: SeededPrompt, index: int) -> dict[str, Any]:
        """Everything a candidate depends on."""
        lora = None if source.training is None else _digest(source.training.lora / WEIGHTS)
        frozen = {} if self.frozen is None else {"frozen_adapter": self.frozen}
        return {
            "model": self.model,
            **frozen,
            "lora": lora,
            "arguments": json.loads(json.dumps(self.arguments)),
            "pipeline": {k: getattr(self.config, k) for k in ("mixed_precision", "flow_shift", "vae_tiling")},
            "prompt": item.prompt,
            "seed": item.seed,
            "candidate": index,
            "candidate_seed": candidate_seed(item.seed, index),
        }

    def identity(self, source: Source, item: SeededPrompt) -> str:
        """A digest of all candidates of an item: scores of other videos do not count."""
        return json_digest([[self.made_by(source, item, k) for k in range(source.count)]])[:16]

    @cached_property
    def model(self) -> str:
        """Digest of the pipeline's files, or the name of the hub."""
        check_model(self.config.model, "model")
        return model_fingerprint(self.config.model)[:16] if Path(self.config.model).is_dir() else self.config.model

    @cached_property
    def frozen(self) -> list[Any] | None:
        """Digest and strength of the adapter that all rows lie on; None without one.

        Raises:
            ValueError: if it is not there.
        """
        source = self.config.frozen_adapter
        if source is None:
            return None
        file = frozen_file(source)
        if file is None:
            raise ValueError(f"frozen_adapter={source!r}: there is no LoRA; fix the path")
        return [_digest(file), self.config.frozen_adapter_weight]

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Of a pipeline call: those of the training's evaluations, with the pipeline's own deterministic sampler."""
        config = self.config
        steps = self.settings.num_inference_steps or config.eval_num_inference_steps or config.num_inference_steps
        return {
            "height": config.height,
            "width": config.width,
            "num_frames": config.num_frames,
            "num_inference_steps": steps,
            "guidance_scale": config.guidance_scale,
            "negative_prompt": config.negative_prompt,
            "max_sequence_length": config.max_sequence_length,
        }


@contextmanager
def source_pipeline(config: FlowGRPOConfig, source: Source, device: str | None) -> Iterator[Any]:
    """The pipeline of a source on its device, for the block.

    Raises:
        ValueError: if it cannot be loaded.
    """
    from cac_align.flow_grpo.learner.lora_files import load_lora
    from cac_align.flow_grpo.loading import drawing_pipeline

    with drawing_pipeline(config, device) as pipe:
        if source.training is not None:
            load_lora(pipe, source.training.lora)
        yield pipe


def sources(settings: TableSettings, made: Mapping[tuple[str, int], Training]) -> list[Source]:
    """The base model, with as many candidates as some row chooses from, and every LoRA.

    Args:
        settings: settings of the table.
        made: trainings by row and seed.
    """
    chooses = any(row.kind == "best_of_n" for row in settings.table_rows)
    loras = [Source(f"{t.row.slug}/seed-{t.seed}", 1, t) for t in made.values()]
    return [Source("base", settings.n if chooses else 1), *loras]


def _digest(path: Path) -> str:
    """16 hex digits of a file, read once as long as it does not change."""
    from cac_align.metrics.weights import weights_digest

    return weights_digest(path)[:16]
