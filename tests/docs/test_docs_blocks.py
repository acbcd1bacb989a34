"""Code in the documents is true: what can run is run as printed, the rest is held to options and names that exist."""

import ast
import importlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import run_page
from commands import check, commands
from documents import DOCS, PAGES, ROOT, RUN, blocks, name

#: Files a page must leave behind, for pages whose commands promise some.
LEFT_BEHIND = {
    "README.md": ["outputs/triangle/report.html", "outputs/overlay/01.mp4"],
    "docs/quick_start.md": ["outputs/demo/report.html"],
    "docs/how_to/best_of_n.md": ["outputs/square/report.html", "outputs/second/best.mp4"],
    "docs/how_to/align_a_generator.md": ["outputs/flow-grpo-try/lora/pytorch_lora_weights.safetensors"],
    "docs/how_to/evaluate.md": ["outputs/evaluation/tables.tex", "outputs/vbench-demo/tables.md"],
    "docs/how_to/serve_the_judge.md": ["exchanges.jsonl"],
}
#: Pages whose blocks take seconds; the others load models, draw videos or train.
FAST = ("docs/method.md",)
BLOCKS = [block for page in PAGES for block in blocks(page)]


def runs(page: Path) -> bool:
    return any(b.language in RUN and b.reason is None for b in blocks(page))


def test_the_pages_have_blocks_and_those_left_out_say_why():
    assert len(BLOCKS) > 40 and {b.language for b in BLOCKS} >= {"python", "bash", "json", "yaml"}
    assert all(len(b.reason.split()) > 2 for b in BLOCKS if b.reason is not None)
    assert sum(b.reason is None for b in BLOCKS if b.language == "python") > 8


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=str)
def test_commands_exist_with_their_options_and_settings(block, monkeypatch):
    monkeypatch.chdir(ROOT)
    found = commands(block.code)
    assert found
    for words in found:
        try:
            check(words)
        except ValueError as error:
            pytest.fail(f"{block}: {' '.join(words)}: {error}")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("cac-align score a.mp4 --overlays b", "--overlays"),
        ("python recipes/flow_grpo.py --set max_step=1", "max_steps"),
        ("python recipes/evaluate_reward.py --benches main", "--benches"),
        ("accelerate launch --config_file recipes/configs/accelerate/dpp.yaml recipes/flow_grpo.py", "dpp.yaml"),
        ("make dokumentation", "dokumentation"),
        ("python recipes/no_such.py", "no_such.py"),
        ("cac-allign score a.mp4", "cac-allign"),
    ],
)
def test_a_wrong_command_is_found_out(line, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=said):
        check(commands(line)[0])


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "python"], ids=str)
def test_imports_resolve_and_keywords_are_known(block):
    tree = ast.parse(block.code, str(block.page))
    imported = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                imported[alias.asname or alias.name] = getattr(importlib.import_module(node.module), alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                importlib.import_module(alias.name)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in imported:
            known = inspect.signature(imported[node.func.id]).parameters
            if not any(p.kind is p.VAR_KEYWORD for p in known.values()):
                assert {k.arg for k in node.keywords if k.arg} <= set(known), f"{block}: {ast.unparse(node)}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in ("json", "yaml")], ids=str)
def test_data_blocks_parse(block):
    yaml = pytest.importorskip("yaml")
    assert json.loads(block.code) if block.language == "json" else yaml.safe_load(block.code)


def test_an_annotation_of_the_documents_is_one_of_ours(tmp_path):
    from reward_model.data import validate_annotations

    lines = [json.loads(b.code) for b in blocks(DOCS / "train_a_judge.md") if b.language == "json"]
    path = tmp_path / "annotations.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert lines and not validate_annotations(path, check_videos=False).errors


def test_rewards_of_the_documents_are_read_as_a_run_reads_them():
    yaml = pytest.importorskip("yaml")
    from cac_align.flow_grpo.judging.reward_specs import read_specs

    found = [yaml.safe_load(b.code) for b in BLOCKS if b.language == "yaml"]
    specs = [spec for settings in found if "rewards" in settings for spec in read_specs(settings["rewards"])]
    assert {"cac", "unified"} <= {s.name for s in specs}


def checkout(folder: Path) -> Path:
    """Makes a folder look like a checkout, without its environment and outputs."""
    for part in ("assets", "recipes", "benchmarks", "docs"):
        (folder / part).symlink_to(ROOT / part)
    return folder


def run(page: Path, folder: Path) -> None:
    """Runs a page in a process of its own, in a folder that looks like a checkout."""
    checkout(folder)
    script = Path(__file__).with_name("run_page.py")
    if name(page) == "docs/quick_start.md":  # its first command is `make demo`, which runs this
        subprocess.run([sys.executable, "recipes/best_of_n.py", "--n", "2"], cwd=folder, check=True, timeout=900)
    quiet = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **quiet}
    done = subprocess.run([sys.executable, script, page], cwd=folder, timeout=1800, env=environment, check=False)
    assert done.returncode == 0, f"a block of {name(page)} failed; its output is above"
    for path in LEFT_BEHIND.get(name(page), []):
        assert (folder / path).is_file(), f"{name(page)} promises {path}"


@pytest.mark.parametrize("page", [p for p in PAGES if name(p) in FAST], ids=name)
def test_short_code_runs_as_printed(page, tmp_path, monkeypatch):
    """In this process, which has loaded what the page needs."""
    assert runs(page)
    monkeypatch.chdir(checkout(tmp_path))
    run_page.main(page)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if runs(p) and name(p) not in FAST], ids=name)
def test_code_runs_as_printed(page, tmp_path):
    run(page, tmp_path)
