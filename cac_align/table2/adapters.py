"""Adapters that were trained elsewhere (rows of kind ``lora``), looked for and held against the model beforehand."""

from __future__ import annotations

from collections.abc import Iterator

from cac_align.flow_grpo.needs import Need, frozen_file
from cac_align.table2.settings import TableSettings


def adapter_needs(settings: TableSettings) -> list[Need]:
    """The adapters of all rows of kind ``lora``. Only looked for, not read."""
    return [
        Need("missing" if frozen_file(source) is None else "found", f"{called}: LoRA {source}")
        for called, source in _named(settings)
    ]


def check_adapters(settings: TableSettings) -> None:
    """Raises ValueError if an adapter of a row is not there, or is one of another model; before anything is drawn. Of
    the model only its layout is read.
    """
    from cac_align.flow_grpo.learner.frozen import check_adapter
    from cac_align.flow_grpo.plan import meta_transformer

    named = list(_named(settings))
    transformer = meta_transformer(settings.video.model) if named else None
    for called, source in named:
        if transformer is not None:
            check_adapter(source, transformer, f"{called}: loras entry {source!r}")


def _named(settings: TableSettings) -> Iterator[tuple[str, str]]:
    for row in settings.table_rows:
        for seed, source in zip(settings.train_seeds, row.loras, strict=False):
            yield f"row {row.name!r}, seed {seed}", source
