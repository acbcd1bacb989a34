"""The columns of the paper's Table 2, by VBench's metrics with small random weights in the layout of its cache."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cac_align.metrics import VBenchMetric
from cac_align.table2.output import write_table_files
from tests.cac_align.metrics import vbench_standins
from tests.cac_align.table2 import tables

COLUMNS = ["dynamic_degree", "subject_consistency", "imaging_quality"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_papers_columns_come_from_vbenchs_metrics(tmp_path):
    flow = tables.write_inputs(tmp_path)
    flow.write_text(flow.read_text().replace("height: 16\nwidth: 16\n", "height: 128\nwidth: 128\n"))
    cache = vbench_standins.write_weights(tmp_path / "vbench", width=64, depth=2, musiq_depth=1)
    changes = {"columns": COLUMNS, "motion": "dynamic_degree", "vbench_cache": str(cache), "eval_seeds": [0], "n": 2}
    job = tables.make_job(tmp_path, tmp_path / "out", **changes)
    for training in job.trainings.values():
        tables.train_here(training)
    job.work(["train", "draw", "score"])
    write_table_files(job)
    made = json.loads((tmp_path / "out" / "table2.json").read_text())["values"]
    assert {"base", "bon-bright", "grpo-bright"} <= made.keys()
    videos = [job.draws.load(job.sources["base"], item, 0) for item in job.draws.items]
    for column in COLUMNS:
        values = VBenchMetric(column, cache_dir=cache, device="cpu")(videos, fps=job.draws.config.fps)
        assert np.ravel(made["base"][column]).tolist() == pytest.approx(values, abs=1e-6)
        assert np.isfinite(np.ravel(made["grpo-bright"][column])).all()
    text = (tmp_path / "out" / "table2.md").read_text()
    assert all(name in text for name in ("Dynamic Degree", "Subject Consistency", "Imaging Quality"))
