"""The videos of a table, each drawn once: candidates of the base model and of every LoRA.

There are as many as some row chooses from, for every prompt and evaluation seed. Candidate k starts from the same
latents whoever draws it, in however many steps.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cac_align.flow_grpo.config import FlowGRPOConfig
from cac_align.flow_grpo.maths.sampling import derive_seed
from cac_align.flow_grpo.needs import check_model, frozen_file
from cac_align.selection import run_folder
from cac_align.selection.candidates import candidate_seed, encode_once, generate_costed
from cac_align.selection.costs import total_forwards
from cac_align.table2.drawing import Drawing
from cac_align.table2.rows import TableRow
from cac_align.table2.settings import TableSettings
from cac_align.table2.training import Training
from reward_model.backends.source import located
from reward_model.digests import json_digest, model_fingerprint

if TYPE_CHECKING:
    from cac_align.pipelines import Pipeline


@dataclass(frozen=True)
class Source:
    """Source of videos: the base model, or a LoRA of it, drawn in one way.

    Attributes:
        name: ``base``, or ``<row>/seed-<k>``, with the drawing behind it where it is not the table's; a folder.
        count: candidates of each item.
        training: training of a LoRA.
        adapter: LoRA that was trained elsewhere.
        seed: training seed; None: the base model.
        drawing: steps and guidance; None: the table's.
    """

    name: str
    count: int
    training: Training | None = None
    adapter: Path | None = None
    seed: int | None = None
    drawing: Drawing | None = None

    @property
    def lora(self) -> Path | None:
        """Folder or file of the LoRA."""
        return self.adapter if self.training is None else self.training.lora

    @property
    def run(self) -> Path | None:
        """Folder of the training's run, where the LoRA lies as recipes leave it; None: the base model."""
        if self.training is not None:
            return self.training.folder
        return self.adapter and (self.adapter if self.adapter.is_dir() else self.adapter.parent).parent

    @property
    def weights(self) -> Path | None:
        """File of the LoRA.

        Raises:
            ValueError: if it is not there.
        """
        from cac_align.flow_grpo.learner.lora_files import find_lora

        return None if self.lora is None else find_lora(self.lora)

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

    def groups(self, source: Source) -> list[list[SeededPrompt]]:
        """The items by what is drawn and scored together: of one prompt, with ``batch_size`` videos or fewer, or a
        single item that has more.
        """
        size = max(1, self.settings.batch_size // source.count)
        prompts = [list(same) for _, same in groupby(self.items, key=lambda item: item.index)]
        return [same[k : k + size] for same in prompts for k in range(0, len(same), size)]

    def draw(self, source: Source, items: Sequence[SeededPrompt], pipe: Pipeline) -> None:
        """Draws the candidates of a group's items that are missing, each stored as soon as its batch is drawn."""
        wanted = [(item, k, self.made_by(source, item, k)) for item in items for k in range(source.count)]
        missing = [entry for entry in wanted if run_folder.load(self.place(source, entry[0]), *entry[1:]) is None]
        seeds = [made_by["candidate_seed"] for _, _, made_by in missing]
        with encode_once(pipe):
            drawn = generate_costed(pipe, items[0].prompt, seeds, self.arguments_of(source), self.settings.batch_size)
            for (item, k, made_by), (frames, cost) in zip(missing, drawn, strict=True):
                run_folder.store(self.place(source, item), k, frames, made_by, cost)

    def forwards(self, source: Source, count: int) -> float | None:
        """Forward passes that the first candidates of an item took, as counted while the first item was drawn; None
        where they were not, as in folders of earlier versions.
        """
        place = self.place(source, self.items[0])
        there = all(run_folder.frames_path(place, k).is_file() for k in range(count))
        return total_forwards([run_folder.load_cost(place, k) for k in range(count)]) if there else None

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
        frozen = {} if self.frozen is None else {"frozen_adapter": self.frozen}
        return {
            "model": self.model,
            **frozen,
            "lora": self.adapter_digest(source),
            "arguments": json.loads(json.dumps(self.arguments_of(source))),
            "pipeline": {k: getattr(self.config, k) for k in ("mixed_precision", "flow_shift", "vae_tiling")},
            "prompt": item.prompt,
            "seed": item.seed,
            "candidate": index,
            "candidate_seed": candidate_seed(item.seed, index),
        }

    def adapter_digest(self, source: Source) -> str | None:
        """Digest of the LoRA of a source; None of the base model."""
        weights = source.weights
        return None if weights is None else _digest(weights)

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
        """Digest and strength of the adapter that all rows lie on, or of those of two experts; None without one.

        Raises:
            ValueError: if it is not there.
        """
        if not self.config.frozen_adapters:
            return None
        digests = []
        for name, source in self.config.frozen_adapters.items():
            file = frozen_file(source)
            if file is None:
                raise ValueError(f"{name}={source!r}: there is no LoRA; fix the path")
            digests.append(_digest(file))
        return [*digests, self.config.frozen_adapter_weight]

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """Of a pipeline call: those of the training's evaluations, with the pipeline's own deterministic sampler."""
        config, drawing = self.config, self.settings.drawing
        return {
            "height": config.height,
            "width": config.width,
            "num_frames": config.num_frames,
            "num_inference_steps": drawing.steps,
            "guidance_scale": drawing.guidance,
            "negative_prompt": config.negative_prompt,
            "max_sequence_length": config.max_sequence_length,
        }

    def arguments_of(self, source: Source) -> dict[str, Any]:
        """Arguments of a pipeline call for a source: :attr:`arguments` with its own steps and guidance."""
        own = source.drawing
        changes = {} if own is None else {"num_inference_steps": own.steps, "guidance_scale": own.guidance}
        return {**self.arguments, **changes}


@contextmanager
def source_pipeline(config: FlowGRPOConfig, source: Source, device: str | None) -> Iterator[Any]:
    """The pipeline of a source on its device, for the block.

    Raises:
        ValueError: if it cannot be loaded.
    """
    from cac_align.flow_grpo.learner.lora_files import load_lora
    from cac_align.flow_grpo.loading import drawing_pipeline

    with drawing_pipeline(config, device) as pipe:
        if source.lora is not None:
            load_lora(pipe, source.lora)
        yield pipe


def sources(settings: TableSettings, made: Mapping[tuple[str, int], Training]) -> list[Source]:
    """The base model and every LoRA, each with as many candidates as some row chooses from and once for each way it is
    drawn; the base first, then the first training seed of every row.

    Args:
        settings: settings of the table.
        made: trainings by row and seed.
    """
    found: dict[str, Source] = {}
    for row in settings.table_rows:
        for source in sources_of(settings, row, made):
            before = found.get(source.name)
            if before is None or before.count < source.count:
                found[source.name] = source
    seeds = list(settings.train_seeds)
    return sorted(found.values(), key=lambda s: -1 if s.seed is None else seeds.index(s.seed))


def sources_of(settings: TableSettings, row: TableRow, made: Mapping[tuple[str, int], Training]) -> list[Source]:
    """The sources of a row's videos: one for each training seed, or one alone where nothing is trained. Arguments are
    those of :func:`sources`.
    """
    own, adapted, count = settings.drawing_of(row), settings.adapted(row), settings.candidates(row)
    drawing = None if own == settings.drawing else own
    end = "" if drawing is None else f"_{drawing.slug}"
    if adapted is None:
        return [Source(f"base{end}", count, drawing=drawing)]
    found = []
    for k, seed in enumerate(settings.train_seeds):
        training = made.get((adapted.slug, seed))
        adapter = Path(located(adapted.loras[k])) if adapted.loras else None
        found.append(Source(f"{adapted.slug}/seed-{seed}{end}", count, training, adapter, seed, drawing))
    return found


def _digest(path: Path) -> str:
    """16 hex digits of a file, read once as long as it does not change."""
    from cac_align.metrics.weights import weights_digest

    return weights_digest(path)[:16]
