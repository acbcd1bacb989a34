"""Adapters that were trained elsewhere (rows of kind ``lora``), looked for and held against the model beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from cac_align.corpus.table_files import read_table_rows
from cac_align.flow_grpo.needs import Need, frozen_file
from cac_align.prompts import Prompt, check_unseen, read_prompts
from cac_align.table2.settings import TableSettings
from reward_model.backends.source import located
from reward_model.engine.settings import read_yaml


def adapter_needs(settings: TableSettings) -> list[Need]:
    """The adapters of all rows of kind ``lora``. Only looked for, not read."""
    return [
        Need("missing" if frozen_file(source) is None else "found", f"{called}: LoRA {source}")
        for called, source in _named(settings)
    ]


def check_adapters(settings: TableSettings) -> None:
    """Raises ValueError if an adapter of a row is not there, is one of another model, or was trained on evaluation
    prompts; before anything is drawn. Of the model only its layout is read.
    """
    from cac_align.flow_grpo.learner.frozen import check_adapter
    from cac_align.flow_grpo.plan import meta_transformer

    named = list(_named(settings))
    transformer = meta_transformer(settings.video.model) if named else None
    evaluated = list(map(Prompt, settings.prompts)) if named else []
    for called, source in named:
        if transformer is not None:
            check_adapter(source, transformer, f"{called}: loras entry {source!r}")
        check_unseen(_trained_on(source, called), evaluated, called)


def _trained_on(source: str, called: str) -> list[Prompt]:
    """The prompts of an adapter's training, by the settings beside it, if there are any; warns of what cannot be read
    any more.
    """
    weights = frozen_file(source)
    if weights is None or not (weights.parent / "settings.yaml").is_file():
        return []
    try:
        said = read_yaml(weights.parent / "settings.yaml")
        if isinstance(said.get("pairs"), str):
            rows = read_table_rows(Path(located(said["pairs"])))
            return [Prompt(row["prompt"]) for row in rows if isinstance(row.get("prompt"), str)]
        if isinstance(said.get("prompts"), str):
            return read_prompts(said["prompts"])
    except ValueError as error:
        warnings.warn(f"{called}: whether it was trained on evaluation prompts is not known: {error}", stacklevel=2)
    return []


def _named(settings: TableSettings) -> Iterator[tuple[str, str]]:
    for row in settings.table_rows:
        for seed, source in zip(settings.train_seeds, row.loras, strict=False):
            yield f"row {row.name!r}, seed {seed}", source
