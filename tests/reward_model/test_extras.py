"""A package that is not installed is named with the line that installs it, wherever it is imported."""

import ast
import re
import sys
from pathlib import Path

import pytest

from reward_model.extras import PIP

ROOT = Path(__file__).resolve().parents[2]
#: Modules that are only imported, or functions only called, after another place has asked for the package.
BEHIND = {
    "reward_model/training/sft/trainer.py": "parse_stage needs trl, datasets and tensorboard",
    "reward_model/minis/rows.py": "parse_stage",
    "reward_model/minis/stage_rows.py": "parse_stage",
    "reward_model/minis/false_alarms.py": "parse_stage",
    "reward_model/minis/referee.py": "parse_stage",
    "reward_model/training/sft/data.py": "parse_stage",
    "reward_model/training/referee.py": "parse_stage",
    "reward_model/training/sft/config.py": "parse_stage",
    "reward_model/training/grpo/prepare.py": "runs under DeepSpeed only",
    "reward_model/training/grpo/policy_weights.py": "runs under DeepSpeed only",
    "reward_model/engine/video_summary.py": "takes a TensorBoard writer",
    "reward_model/training/grpo/vllm_sampler.py": "vllm_sampler() says what is missing",
    "reward_model/minis/stages.py": "parse_stage() says what is missing",
    "reward_model/backends/chat_server.py": "a client is opened first",
    "cac_align/minis/training_loop.py": "recipes/build_minis.py, whose program names the line",
    "cac_align/minis/unified_data.py": "the same",
    "cac_align/metrics/encoders.py": "_vit() comes first",
    "cac_align/table2/curves.py": "the figure is made first",
    "cac_align/table2/pace.py": "draw_twice() asks first",
    "cac_align/rating/app.py": "cac-align rate asks first",
    "cac_align/rating/security.py": "cac-align rate asks first",
    "cac_align/rating/server.py": "cac-align rate asks first",
    "cac_align/serving/app.py": "cac-align serve asks first",
    "cac_align/serving/listening.py": "cac-align serve asks first",
    "cac_align/flow_grpo/learner/quantised.py": "quantise_base() asks first",
}


#: A line that may import an optional package: parsing every file takes seconds.
MAY_IMPORT = re.compile(rf"^\s*(?:from|import)\s.*\b(?:{'|'.join(PIP)})", re.MULTILINE)


def optional_imports(path: Path):
    """Line and top-level name of each import of an optional package that no try and no need() stands before."""
    text = path.read_text(encoding="utf-8")
    if not MAY_IMPORT.search(text):
        return
    tree = ast.parse(text)
    parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
    for node in parents:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            top = "tensorboard" if "tensorboard" in name else name.partition(".")[0]
            if top in PIP and not guarded(node, parents):
                yield node.lineno, top


def guarded(node, parents):
    while (node := parents.get(node)) is not None:
        if isinstance(node, ast.Try | ast.If):
            return True
        if isinstance(node, ast.FunctionDef):
            calls = [c.func.id for c in ast.walk(node) if isinstance(c, ast.Call) and isinstance(c.func, ast.Name)]
            return "need" in calls
    return False


def test_every_import_of_an_optional_package_says_how_to_get_it():
    files = sorted(p for package in ("cac_align", "reward_model") for p in (ROOT / package).rglob("*.py"))
    bare = [
        f"{path.relative_to(ROOT)}:{line} imports {top}"
        for path in files
        for line, top in optional_imports(path)
        if path.relative_to(ROOT).as_posix() not in BEHIND
    ]
    assert not bare, "use reward_model.extras.need"
    assert all((ROOT / name).is_file() for name in BEHIND)


def test_the_walk_sees_a_bare_import(tmp_path):
    path = tmp_path / "a.py"
    path.write_text("def f():\n    from torch.utils.tensorboard import SummaryWriter\n    import trl.trainer\n")
    assert list(optional_imports(path)) == [(2, "tensorboard"), (3, "trl")]


def test_a_view_without_datasets_names_the_extra(monkeypatch):
    from reward_model.data.views import StageViews

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ImportError, match=r"package datasets: pip install 'cac-align\[train\]'"):
        StageViews.rows(None, "stage1")


def test_a_flow_grpo_run_without_tensorboard_stops_before_it_loads_anything(monkeypatch):
    from cac_align.flow_grpo.config import FlowGRPOConfig
    from cac_align.flow_grpo.trainer import FlowGRPOTrainer

    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r'report_to=tensorboard needs TensorBoard: pip install "cac-align\[train\]"'):
        FlowGRPOTrainer(FlowGRPOConfig(model="nowhere"))
