"""The wheel as people install it: nothing but the two packages at the top, and everything a first hour needs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from reward_model.video.writing import write_mp4
from reward_model.world import make_video

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "UV_OFFLINE")}
    build = [sys.executable, "-m", "uv", "build", "--wheel", "-o", str(out), str(ROOT)]
    done = subprocess.run(build, capture_output=True, text=True, env=environment, timeout=600, check=False)
    if done.returncode and ("hatchling" in done.stderr or "No module named uv" in done.stderr):
        pytest.skip("hatchling, which builds the wheel, cannot be had here")
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder with the wheel's files alone, which goes first on the path; the other packages are the environment's."""
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(installed, folder, *argv):
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment.pop("CAC_REWARD_MODEL", None)
    command = [sys.executable, "-m", "cac_align", *map(str, argv)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=900, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done


def test_the_wheel_holds_two_packages_and_says_what_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        metadata = next(archive.read(n).decode() for n in names if n.endswith("METADATA"))
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"cac_align", "reward_model"}
    assert "Project-URL: " in metadata and "Provides-Extra: train" in metadata
    assert not [n for n in names if "__pycache__" in n or n.startswith("tests")]


def test_a_video_is_scored_from_an_empty_folder(installed, tmp_path):
    write_mp4(tmp_path / "clip.mp4", make_video(900_000, None, setting="single", size=32)[0], 16)
    done = run(installed, tmp_path, "score", "clip.mp4")
    assert done.returncode == 0 and done.stdout.split()[1:] == ["normal", "clip.mp4"]
    assert done.stderr.count("\n") == 1 and "demo-scale" in done.stderr, "one warning and no noise of others"


def test_best_of_n_draws_from_the_shipped_generator(installed, tmp_path):
    argv = ["best-of-n", "--pipe", "assets/wan-mini", "--prompt", "a blue square moves left on a gray background"]
    size = ["--height", 32, "--width", 32, "--num-frames", 9, "--n", 1, "--steps", 1]
    done = run(installed, tmp_path, *argv, *size)
    assert done.returncode == 0 and (tmp_path / done.stdout.splitlines()[-1]).is_file()


@pytest.mark.parametrize(
    ("recipe", "preset", "said"),
    [
        ("stage1", "full", "LoRA r=32"),
        ("stage3", "mini", "parameters"),
        ("flow-grpo", "mini", "Flow-GRPO of"),
        ("flow-grpo", "wan21_1p3b_80gb", "Flow-GRPO of"),
    ],
)
def test_trainings_plan_from_their_presets(installed, tmp_path, recipe, preset, said):
    done = run(installed, tmp_path, "train", recipe, "--config", preset, "--dry-run")
    assert done.returncode == 0 and said in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_defaults_of_classes_are_found_too(installed, tmp_path):
    code = (
        "from cac_align import FlowGRPOConfig, UnifiedReward\nfrom cac_align.prompts import read_prompts\n"
        "print(len(read_prompts(FlowGRPOConfig().prompts)), UnifiedReward().model)"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    count, model = done.stdout.split()
    assert count == "240" and Path(model).is_relative_to(installed)
