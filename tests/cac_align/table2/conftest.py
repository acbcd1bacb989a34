"""A tiny table, made once: all its videos drawn, its training done in this process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cac_align.table2 import tables


@pytest.fixture(scope="session")
def table_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pipeline, prompts and settings of tiny tables."""
    folder = tmp_path_factory.mktemp("table-inputs")
    tables.write_inputs(folder)
    return folder


@pytest.fixture(scope="session")
def made_table(table_inputs: Path, tmp_path_factory: pytest.TempPathFactory):
    """A finished table, and how often each reward was asked about a video."""
    folder = tmp_path_factory.mktemp("table")
    with pytest.MonkeyPatch.context() as patch:
        job = tables.make_job(table_inputs, folder / "out")
        for training in job.trainings.values():
            tables.train_here(training)
        patch.setenv("TABLE_TEST_COUNT", str(folder / "count"))
        job.work(["train", "draw", "score"])
    return job, (folder / "count").read_text().split()
