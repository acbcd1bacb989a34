"""The command line: output, exit codes, and one clear line for a user's mistake."""

import copy
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from cac_align.cli import main
from reward_model.video.writing import write_mp4
from reward_model.world import make_video
from tests.campaigns import slow_but


@pytest.fixture(scope="module")
def encoded(tmp_path_factory):
    """The bytes of one video with an anomaly and of three short ones; each test gets files of its own."""
    path = tmp_path_factory.mktemp("encoded") / "clip.mp4"
    shown = [
        make_video(3, "squash", size=32, num_frames=33)[0],
        *(make_video(40 + k, None, size=32)[0][:17] for k in range(3)),
    ]
    return [(write_mp4(path, frames, 16), path.read_bytes())[1] for frames in shown]


@pytest.fixture
def clip(tmp_path, encoded):
    path = tmp_path / "clip.mp4"
    path.write_bytes(encoded[0])
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
    assert len(problems) == 3
    assert "1 of 3 files are missing" in problems[0], "said before the model loads"
    assert "broken.mp4" in problems[1]
    assert "no video file" in problems[2]
    assert [p.name for p in overlays.iterdir()] == ["clip.mp4"] and str(overlays / "clip.mp4") in err.splitlines()


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["score", "CLIP", "--fps", "0", "--model", "JUDGE"], "--fps 0.0 must be"),
        (["score", "CLIP", "--fps", "nan", "--model", "JUDGE"], "--fps nan must be"),
        (["score", "CLIP", "--prompt", "a", "--prompt", "b", "--model", "JUDGE"], "2 prompts for 1 videos"),
        (["score", "CLIP", "--model", "TMP"], "config.json"),
        (["score", "CLIP", "--no-reasoning", "--readout", "paper", "--model", "JUDGE"], "--readout "),
        (["report", "TMP"], "holds no result.json"),
        (["score", "TMP/nosuch.mp4"], "no video file at"),
        (["score", "TMP"], "holds no video"),
        (["score", "CLIP", "--model", "./nosuch"], "./nosuch"),
        (["score", "CLIP", "--judge-batch-size", "0"], "--judge-batch-size 0"),
        (["score", "CLIP", "--dtype", "bf17"], "--dtype 'bf17' is not a precision"),
        (["best-of-n", "--pipe", "TMP", "--prompt", "a", "--judge-device", "gpu"], "--judge-device 'gpu' is not"),
        (["score", "CLIP", "--scan-fps", "0"], "--scan-fps 0 must be above 0"),
        (["best-of-n", "--pipe", "./nosuch", "--prompt", "a"], "--pipe './nosuch'"),
        (["best-of-n", "--pipe", "TMP", "--prompt", "a", "--n", "0"], "--n 0 must be at least 1"),
        (["best-of-n", "--pipe", "TMP", "--prompt", " "], "--prompt is empty"),
        (["best-of-n", "--pipe", "TMP", "--prompt", "a", "--image", "no.png"], "--image 'no.png'"),
        (["best-of-n", "--pipe", "TMP", "--prompt", "a", "--lora", "./nosuch"], "--lora './nosuch'"),
        (["score", "CLIP", "--output", "/dev/full"], "is not a regular file"),
        (["score", "CLIP", "--output", "DIR"], "is a folder; name a file"),
        (["score", "CLIP", "--overlay", "CLIP"], "--overlay"),
        (["best-of-n", "--pipe", "TMP", "--prompt", "a", "--output", "INSIDE"], "which is a file; name a folder"),
        (["data", "corrupt", "DIR", "--output", "CLIP"], "is a file; name a folder"),
        (["vbench", "score", "DIR", "--output", "CLIP"], "is a file; name a folder"),
        (["data", "split", "CLIP", "--output", "s.txt"], "must end in .jsonl"),
        (["data", "corrupt", "nofolder", "--output", "TMP"], "no file or folder at 'nofolder'"),
        (["vbench", "score", "DIR", "--output", "TMP", "--cache-dir", "TMP"], "3 weight files are missing"),
        (["doctor", "--videos", "1", "--model", "JUDGE"], "--videos=1"),
        (["best-of-n", "--pipe", "TMP", "--prompt", "a", "--model", "JUDGE"], "model_index.json"),
    ],
)
def test_mistakes_exit_2_with_one_line(capsys, clip, judge_folder, tmp_path, monkeypatch, argv, words):
    empty = tmp_path / "empty"
    empty.mkdir()
    places = {"CLIP": clip, "JUDGE": judge_folder, "TMP": empty, "DIR": clip.parent, "INSIDE": clip / "x" / "y"}
    monkeypatch.delenv("CAC_REWARD_MODEL", raising=False)
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


@pytest.mark.slow
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
    assert "seed was 0, now 3" in err and "another --output" in err and "output_dir" not in err


@pytest.mark.slow
def test_a_second_prompt_gets_a_second_folder(capsys, judge_folder, wan_pipe, tmp_path, monkeypatch):
    wan_pipe.save_pretrained(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    argv = ["best-of-n", "--pipe", "pipe", "--n", "1", "--steps", "1", "--height", "16", "--width", "16"]
    argv += ["--num-frames", "9", "--device", "cpu", "--model", judge_folder]
    pages = [run(capsys, *argv, "--prompt", p)[1].splitlines()[-1] for p in ("a red ball", "a dog", "a red ball")]
    assert pages[0] == pages[2] != pages[1]
    assert all((tmp_path / page).is_file() for page in pages) and "a-red-ball" in pages[0]


def test_a_file_of_prompts_is_a_folder_for_each(capsys, judge_folder, wan_pipe, tmp_path):
    wan_pipe.save_pretrained(tmp_path / "pipe")
    (tmp_path / "prompts.txt").write_text("a red ball\na dog\n")
    argv = ["best-of-n", "--pipe", tmp_path / "pipe", "--n", "1", "--steps", "1", "--height", "16", "--width", "16"]
    argv += ["--num-frames", "9", "--device", "cpu", "--model", judge_folder]
    code, text, _ = run(capsys, *argv, "--prompts", tmp_path / "prompts.txt", "--output", tmp_path / "all")
    folders = sorted((tmp_path / "all").iterdir())
    assert code == 0 and [f.name[:6] for f in folders] == ["a-dog-", "a-red-"]
    assert text.splitlines()[-1] == f"2 prompts, 0 not judged in full: {tmp_path / 'all'}"
    assert [str(f / "report.html") in text for f in folders] == [True, True]
    assert run(capsys, *argv, "--prompt", "a dog", "--output", tmp_path / "dog")[0] == 0
    alone, among = (np.load(f / "candidates" / "00.npz")["frames"] for f in (tmp_path / "dog", folders[0]))
    assert np.array_equal(alone, among)
    code, _, err = run(
        capsys, *argv, "--prompts", tmp_path / "prompts.txt", "--output", tmp_path / "all", "--seed", "3"
    )
    assert code == 2 and "seed was 0, now 3" in err


def test_a_prompt_that_cannot_be_judged_is_told_and_the_others_go_on(
    capsys, judge_folder, wan_pipe, tmp_path, monkeypatch
):
    from cac_align.rewards.cac import CaCReward

    wan_pipe.save_pretrained(tmp_path / "pipe")
    (tmp_path / "prompts.txt").write_text("a red ball\na dog\n")
    judged = CaCReward.judge_batch

    def blind_to_balls(self, videos, prompts=None, **options):
        verdicts = judged(self, videos, prompts, **options)
        blind = {"status": "unparsed", "score": None, "error": "no ball was seen"}
        return [replace(v, **blind) if "ball" in p else v for v, p in zip(verdicts, prompts, strict=True)]

    monkeypatch.setattr(CaCReward, "judge_batch", blind_to_balls)
    argv = ["best-of-n", "--pipe", tmp_path / "pipe", "--n", "1", "--steps", "1", "--height", "16", "--width", "16"]
    argv += ["--num-frames", "9", "--device", "cpu", "--model", judge_folder, "--output", tmp_path / "all"]
    code, out, err = run(capsys, *argv, "--prompts", tmp_path / "prompts.txt")
    assert code == 1 and "1 of 2, a red ball: " in err and "no ball was seen" in err
    assert out.splitlines()[-1] == f"2 prompts, 1 not judged in full: {tmp_path / 'all'}"
    assert [f.parent.name[:6] for f in (tmp_path / "all").glob("*/report.html")] == ["a-dog-"]
    kept = [f.parents[1].name[:6] for f in (tmp_path / "all").glob("*/candidates/00.npz")]
    assert sorted(kept) == ["a-dog-", "a-red-"], "its video is kept"


def test_first_frames_for_some_prompts_only_are_refused(capsys, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "dog.png")
    rows = [{"prompt": "a dog", "image": "dog.png"}, {"prompt": "a red ball"}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, _, err = run(capsys, "best-of-n", "--pipe", tmp_path, "--prompts", tmp_path / "prompts.jsonl")
    assert code == 2 and "1 of 2 prompts have no image, such as 'a red ball'; name one for each" in err


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
        "the two verdict words hold only 0.00",  # random weights would write anything
    ):
        assert words in out


# --- score while it works ---------------------------------------------------------------------------------------------


@pytest.fixture
def clips(tmp_path, encoded):
    (tmp_path / "clips").mkdir()
    paths = [tmp_path / "clips" / f"{name}.mp4" for name in "abc"]
    for path, data in zip(paths, encoded[1:], strict=True):
        path.write_bytes(data)
    return paths


def test_score_writes_as_it_goes_loses_nothing_and_goes_on(capsys, clips, judge_folder, tmp_path, monkeypatch):
    from reward_model.judge import TwoTurnJudge

    judged = []
    original = TwoTurnJudge.judge

    def stopped_at_the_third(self, videos, prompts=None, *, fps=None):
        judged.extend(videos)
        if len(judged) == 3:
            raise KeyboardInterrupt
        return original(self, videos, prompts, fps=fps)

    monkeypatch.setattr(TwoTurnJudge, "judge", stopped_at_the_third)
    rows = tmp_path / "scores.jsonl"
    argv = ["score", clips[0].parent, "--model", judge_folder, "--no-reasoning", "--judge-batch-size", "1"]
    code, out, err = run(capsys, *argv, "--output", rows)
    assert code == 130 and "resumes" in err and len(out.splitlines()) == 2, "a line as soon as a video is judged"
    assert [json.loads(line)["video"] for line in rows.read_text().splitlines()] == list(map(str, clips[:2]))
    rows.write_bytes(rows.read_bytes() + b'{"video": "half')
    code, out, _ = run(capsys, *argv, "--output", rows)
    assert code == 0 and judged[3:] == [str(clips[2])], "only what was not judged"
    assert [line.split()[2] for line in out.splitlines()] == list(map(str, clips))
    assert len([json.loads(line) for line in rows.read_text().splitlines()]) == 3
    clips[0].write_bytes(clips[1].read_bytes())
    judged.clear()
    judged.append("")
    run(capsys, *argv, "--output", rows)
    assert judged[1:] == [str(clips[0])], "other bytes under the same name are judged anew"


def test_score_refuses_a_file_of_something_else(capsys, clips, judge_folder, tmp_path):
    notes = tmp_path / "notes.txt"
    for text in ("milk\n", "milk"):
        notes.write_text(text)
        code, _, err = run(capsys, "score", clips[0], "--model", judge_folder, "--output", notes)
        assert code == 2 and "line 1: not a line that score wrote" in err and notes.read_text() == text


def test_the_json_list_is_whole_even_when_the_run_is_stopped(capsys, clips, judge_folder, monkeypatch):
    from reward_model.judge import TwoTurnJudge

    calls = iter([None, KeyboardInterrupt])
    original = TwoTurnJudge.judge

    def stop(self, videos, prompts=None, *, fps=None):
        if raised := next(calls):
            raise raised
        return original(self, videos, prompts, fps=fps)

    monkeypatch.setattr(TwoTurnJudge, "judge", stop)
    argv = ["score", *clips, "--model", judge_folder, "--no-reasoning", "--judge-batch-size", "1", "--json"]
    code, out, _ = run(capsys, *argv)
    assert code == 130 and len(json.loads(out)) == 1


def test_no_character_of_a_name_or_an_answer_commands_the_terminal(capsys, clip, judge_folder, tmp_path):
    bad = tmp_path / "a\x1b[2Jb.mp4"
    clip.rename(bad)
    code, out, _ = run(capsys, "score", bad, "--model", judge_folder, "--no-reasoning")
    assert code == 0 and "\x1b" not in out and r"a\x1b[2Jb.mp4" in out
    broken = tmp_path / "c\x1b]0;x\x07.mp4"
    broken.write_bytes(b"x")
    _, _, err = run(capsys, "score", broken, "--model", judge_folder, "--no-reasoning")
    assert "\x1b" not in err and "\x07" not in err
    lines = tmp_path / "annotations.jsonl"
    lines.write_text(json.dumps({"video": "a\x1b[31m.mp4", "video_id": "\x1b[2J"}) + "\n")
    _, out, err = run(capsys, "data", "validate", lines)
    assert "\x1b" not in out + err


def test_data_validate_prints_the_first_problems_only(capsys, tmp_path):
    path = tmp_path / "annotations.jsonl"
    path.write_text("{}\n" * 80)
    code, out, _ = run(capsys, "data", "validate", path)
    assert code == 1 and len(out.splitlines()) == 52 and "--show 0 prints all" in out.splitlines()[-2]


def test_options_of_a_command_may_be_written_with_underscores(capsys, tmp_path):
    code, _, err = run(capsys, "best-of-n", "--pipe", tmp_path, "--prompt", "a", "--num_frames", "1")
    assert code == 2 and "--num-frames 1 must be at least 2" in err
    with pytest.raises(SystemExit):
        main(["score", "a.mp4", "--overlays", "x"])
    assert "did you mean --overlay?" in capsys.readouterr().err


def test_trainings_are_commands_too(capsys):
    with pytest.raises(SystemExit) as done:
        main(["train", "flow-grpo", "--list-settings"])
    assert not done.value.code
    assert "num_inference_steps = " in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        main(["train", "stage3", "--max-step", "3", "--dry-run"])
    assert stopped.value.code == 2 and capsys.readouterr().err.strip().endswith("did you mean max_steps?")


@pytest.mark.slow
def test_a_mistake_in_the_settings_of_a_training_is_refused_before_anything_heavy_loads():
    code = (
        "import sys\nfrom cac_align.cli import main\n"
        "sys.argv = 'cac-align train stage3 --max-step 3 --dry-run'.split()\n"
        "try: main()\nexcept SystemExit as stopped: print(stopped.code, 'torch' in sys.modules)\n"
        "import warnings; warnings.warn('the judge is small')"
    )
    wrong = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert wrong.stdout.split() == ["2", "False"], "refused before anything heavy loads"
    refused, warned = wrong.stderr.splitlines()
    assert refused.endswith("did you mean max_steps?")
    assert warned.endswith("warning: the judge is small"), "a line without code"


@pytest.mark.parametrize("half", slow_but(["bfloat16", "float16"], "bfloat16"))
def test_the_vae_of_wan_stays_in_float32(wan_pipe, tmp_path, half):
    import torch

    from cac_align.commands.best_of_n import load_any_pipeline

    wan_pipe.save_pretrained(tmp_path)
    pipe = load_any_pipeline(str(tmp_path), "cpu", half)
    assert pipe.vae.dtype == torch.float32 and pipe.transformer.dtype == getattr(torch, half)


@pytest.mark.slow
def test_a_lora_is_loaded_into_the_pipeline(wan_pipe, tmp_path):
    import torch
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    from cac_align.commands.best_of_n import load_any_pipeline

    wan_pipe.save_pretrained(tmp_path / "pipe")
    transformer = copy.deepcopy(wan_pipe.transformer)  # the pipeline is that of all tests
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    layers = get_peft_model_state_dict(transformer)
    wan_pipe.save_lora_weights(tmp_path / "lora", transformer_lora_layers=layers)
    pipe = load_any_pipeline(str(tmp_path / "pipe"), "cpu", lora=str(tmp_path / "lora"))
    assert pipe.get_active_adapters()
    tensors = {f"base_model.model.{name}": value for name, value in layers.items()}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 6}))
    pipe = load_any_pipeline(str(tmp_path / "pipe"), "cpu", lora=str(tmp_path))
    loaded = get_peft_model_state_dict(pipe.transformer, adapter_name="default_0")
    assert all(torch.equal(loaded[k], v * 3 if ".lora_B." in k else v) for k, v in layers.items()), "PEFT's strength"
    with pytest.raises(ValueError, match="--lora"):
        load_any_pipeline(str(tmp_path / "pipe"), "cpu", lora=str(tmp_path / "pipe"))
