"""The command line: output, exit codes, and one clear line for a user's mistake."""

import json
import subprocess
import sys

import pytest

from cac_align.cli import main
from cac_align.report.media import write_mp4
from reward_model.world import make_video


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "clip.mp4"
    write_mp4(path, make_video(3, "squash")[0], 16)
    return path


def run(capsys, *argv):
    code = main([str(a) for a in argv])
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    return code, captured.out, captured.err


def test_score(capsys, clip, judge_folder):
    code, out, err = run(capsys, "score", clip, "--model", judge_folder, "--prompt", "a red ball")
    assert code == 0
    score, status, path = out.split()[:3]
    assert 0 <= float(score) <= 1
    assert status in ("normal", "abnormal")
    assert path == str(clip)
    assert "error" not in err


def test_score_names_the_broken_file_and_scores_the_other(capsys, clip, judge_folder, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"nothing")
    overlays = tmp_path / "overlays"
    code, out, err = run(
        capsys,
        "score", broken, tmp_path / "absent.mp4", clip,
        "--model", judge_folder, "--json", "--overlay", overlays, "--no-reasoning",
    )  # fmt: skip
    assert code == 1
    records = json.loads(out)
    assert [r["score"] is None for r in records] == [True, True, False]
    problems = [line for line in err.splitlines() if line.startswith("cac-align:")]
    assert len(problems) == 2
    assert "broken.mp4" in problems[0]
    assert "no video file" in problems[1]
    assert [p.name for p in overlays.iterdir()] == ["clip.mp4"] and str(overlays / "clip.mp4") in err.splitlines()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["score", "CLIP", "--fps", "0", "--model", "JUDGE"], "fps=0.0 must be"),
        (["score", "CLIP", "--fps", "nan", "--model", "JUDGE"], "fps=nan must be"),
        (["score", "CLIP", "--prompt", "a", "--prompt", "b", "--model", "JUDGE"], "2 prompts for 1 videos"),
        (["score", "CLIP", "--model", "TMP"], "config.json"),
        (["score", "CLIP", "--no-reasoning", "--readout", "paper", "--model", "JUDGE"], "readout='direct'"),
        (["report", "TMP"], "holds no result.json"),
        (["doctor", "--videos", "1", "--model", "JUDGE"], "--videos=1"),
        (["best-of-n", "--pipe", "TMP", "--prompt", "a", "--model", "JUDGE"], "model_index.json"),
    ],
)
def test_mistakes_exit_2_with_one_line(capsys, clip, judge_folder, tmp_path, argv, words):
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"CLIP": clip, "JUDGE": judge_folder, "TMP": empty}
    code, _, err = run(capsys, *(places.get(a, a) for a in argv))
    assert code == 2
    message = [line for line in err.splitlines() if line.startswith("cac-align: error:")]
    assert len(message) == 1
    assert words in message[0]


def test_every_problem_of_a_file_has_a_line(capsys, clip, tmp_path):
    bad = tmp_path / "annotations.jsonl"
    bad.write_text("{}\n[]\n")
    code, _, err = run(capsys, "rate", clip.parent, "--review", bad)
    assert code == 2 and err.startswith("cac-align: error:")
    assert {line.split(":")[0].strip() for line in err.splitlines()[1:]} == {"line 1", "line 2"}


@pytest.mark.parametrize("argv", [[], ["judge"], ["score"], ["score", "a.mp4", "--readout", "loud"]])
def test_wrong_usage_exits_2(capsys, argv):
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    assert "usage: cac-align" in capsys.readouterr().err


def test_help_and_version_need_no_torch():
    code = (
        "import sys\nfrom cac_align.cli import main\n"
        "try: main(['--version'])\nexcept SystemExit as e: assert e.code == 0\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("cac-align 0.")


def test_warnings_of_the_program_are_one_line_without_code():
    """Run as a program: in process the way warnings look is the caller's."""
    code = (
        "import sys, warnings\nfrom cac_align.cli import main\nsys.argv = ['cac-align', 'report', 'nowhere']\n"
        "code = main()\nwarnings.warn('the judge is small')\nsys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.splitlines()[-1] == "cac-align: warning: the judge is small"


def test_best_of_n_and_report(capsys, judge_folder, wan_pipe, tmp_path):
    wan_pipe.save_pretrained(tmp_path / "pipe")
    out = tmp_path / "out"
    argv = ["best-of-n", "--pipe", tmp_path / "pipe", "--prompt", "a red ball", "--n", "2", "--steps", "1"]
    argv += ["--height", "16", "--width", "16", "--num-frames", "9", "--device", "cpu"]
    argv += ["--output", out, "--model", judge_folder]
    code, text, _ = run(capsys, *argv)
    assert code == 0
    lines = text.splitlines()
    assert lines[-1] == str(out / "report.html")
    assert [line[:2] for line in lines[-3:-1]] == ["1.", "2."]
    named = {line.split()[2] for line in lines[-3:-1]}
    assert named == {path.stem for path in (out / "candidates").glob("*.mp4")} == {"00", "01"}
    page = (out / "report.html").read_text()
    (out / "report.html").unlink()
    assert run(capsys, "report", out)[0] == 0
    assert len((out / "report.html").read_text()) == pytest.approx(len(page), rel=0.1)
    code, _, err = run(capsys, *argv, "--seed", "3")
    assert code == 2
    assert "seed was 0, now 3" in err


def test_doctor(capsys, judge_folder):
    code, out, _ = run(capsys, "doctor", "--model", judge_folder, "--videos", "2")
    assert code == 0
    for words in (
        "torch",
        "judge.json",
        "normal = ",
        "trap: 'abnormal' ends in",
        "self-test",
        "saturation",
        "log_odds",
    ):
        assert words in out
