"""CaCReward over the real judge with a tiny random Qwen3-VL."""

import pickle
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import av
import numpy as np
import pytest

from cac_align import CaCReward, UnifiedReward
from cac_align.rewards import cac
from cac_align.rewards.base import Reward, RewardError
from reward_model.backends.base import BackendError
from reward_model.conversation import Completion
from reward_model.schema import Verdict, VerdictScore
from reward_model.world import make_video
from tests.campaigns import slow_but


class Scripted:
    """A backend that answers what it is told to; ``None`` stands for a server that is down."""

    name = "scripted"

    def __init__(self, *answers):
        self.answers = list(answers)

    def generate(self, conversations, sampling):
        found = [self.answers.pop(0) for _ in conversations]
        return [Completion(a) if a is not None else Completion("", error="server is down") for a in found]

    def score(self, conversations, prefixes):
        return [VerdictScore(-0.1, -2.4) for _ in conversations]

    def describe(self):
        return {"model": "scripted"}


@pytest.fixture(scope="module")
def videos():
    return [make_video(3, "squash", num_frames=33)[0], make_video(4, num_frames=33)[0]]


@pytest.fixture(scope="module")
def reward(judge_folder):
    return CaCReward(judge_folder, device="cpu")


def test_scores_are_probabilities_and_calls_repeat(reward, videos):
    scores = reward(videos, ["a red ball", "a blue ball"], fps=16)
    assert all(0 <= s <= 1 for s in scores)
    assert reward(videos, ["a red ball", "a blue ball"], fps=16) == scores
    assert isinstance(reward, Reward)


def test_verdicts_agree_with_scores(reward, videos):
    verdicts = reward.judge_batch(videos, fps=16)
    assert [v.score for v in verdicts] == reward(videos, fps=16)
    one = reward.judge(videos[1], "a blue ball", fps=16)
    assert isinstance(one, Verdict)
    assert one.readout == "paper", "what a checkpoint that names no readouts was trained for"
    assert one.provenance["prompts"].startswith("compact")
    assert one.turns[0].frame_indices == tuple(range(0, 33, 4))
    assert Verdict.from_dict(one.to_dict()).score == one.score


def test_options_reach_the_judge(judge_folder, videos):
    reward = CaCReward(judge_folder, device="cpu", readout="log_odds", reasoning=False, scan_fps=2, num_turns=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this checkpoint was never trained for it
        verdict = reward.judge(videos[0], fps=16)
    assert (verdict.readout, len(verdict.turns), len(verdict.turns[0].frame_indices)) == ("log_odds", 1, 5)
    assert verdict.turns[0].num_tokens == 0


@pytest.mark.slow
def test_a_judge_that_looks_itself_is_a_reward_as_any_other(judge_folder, videos, tmp_path):
    options = {"policy": "active", "readout": "direct", "max_operators": 2, "max_view_frames": 6}
    reward = CaCReward(judge_folder, device="cpu", **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        verdicts = reward.judge_batch(videos, fps=16)
        scores = reward(videos, fps=16)
        assert [v.score for v in verdicts] == scores and None not in scores
    assert verdicts[0].turns[0].frame_indices == tuple(range(0, 33, 8))
    assert {k: verdicts[0].provenance[k] for k in options} == options
    copy = CaCReward(reward.save_pretrained(tmp_path / "copy"), device="cpu")
    assert copy.judge_model.config.policy == "active", "the checkpoint says how it is asked"


def test_pickled_copy_has_settings_without_weights_or_key(reward, videos, judge_folder):
    expected = reward(videos, fps=16)
    data = pickle.dumps(reward)
    assert len(data) < 5000
    copy = pickle.loads(data)
    assert copy._opened is None
    assert copy(videos, fps=16) == expected
    secret = CaCReward("m", backend="openai", base_url="http://localhost:1/v1", api_key="sk-very-secret")
    assert b"sk-very-secret" not in pickle.dumps(secret)
    assert "secret" not in repr(secret)


@pytest.mark.parametrize("reward", [CaCReward, UnifiedReward])
@pytest.mark.parametrize("by_options", [False, True])
def test_no_frame_and_no_attribute_holds_the_key(reward, by_options):
    """Debuggers and error reporters print the locals of every frame, and what hangs on them."""
    key = "sk-very-secret-key"
    given = {"backend_options": {"api_key": key}} if by_options else {"api_key": key}
    built = reward("m", backend="openai", base_url="http://localhost:1/v1", **given)
    assert key not in repr(vars(built)) + repr(vars(built._source)) + repr(built)
    assert key.encode() not in pickle.dumps(built)
    assert built._source.open().server._key.reveal() == key
    with pytest.raises(ValueError, match="belong to backend='openai'") as caught:
        reward("m", backend="replay", **given)
    frames = [f for f in caught.traceback if "cac_align/rewards" in str(f.path)]
    seen = [item for f in frames for item in f.frame.f_locals.items() if item[0] != "backend_options"]
    shown = [repr(vars(value) if name == "self" else value) for name, value in seen]
    assert frames and not any(key in text for text in shown)


@pytest.mark.parametrize("name", ["vllm", "vLLM", "sglang", "llama.cpp", "ollama"])
def test_a_server_named_as_the_backend_is_told_which_it_is(name):
    with pytest.raises(ValueError, match=r"backend='openai', base_url='http://host:8000/v1'"):
        CaCReward("m", backend=name)


def test_unreadable_video_is_none_or_raises(reward, judge_folder, videos, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    scores = reward([videos[0], broken, videos[1][:1]], fps=16)
    assert scores[0] is not None
    assert scores[1:] == [None, None]
    strict = CaCReward(judge_folder, device="cpu", on_error="raise")
    with pytest.raises(RewardError, match=r"video 1: .*broken\.mp4"):
        strict([videos[0], broken], fps=16)


def test_a_judge_that_fails_on_one_video_scores_the_other(videos):
    normal = '{"COT": "fine", "status": "normal"}'
    scores = CaCReward(backend=Scripted(None, normal))(videos, fps=16)
    assert scores[0] is None
    assert scores[1] == pytest.approx(1 / (1 + np.exp(-2.3)))


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), "fast", None])
def test_bad_fps(reward, videos, fps):
    with pytest.raises(ValueError, match="fps"):
        reward(videos, fps=fps)


def test_one_video_instead_of_a_list(reward, videos):
    for single in (videos[0], "clip.mp4"):
        with pytest.raises(ValueError, match=r"pass \[video\]"):
            reward(single, fps=16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"backend": "vllm"}, "backend='vllm' must be one of local, openai, replay"),
        ({"on_error": "ignore"}, "on_error='ignore'"),
        ({"readout": "loud"}, "readout='loud'"),
        ({"temprature": 1}, "temprature"),
        ({"base_url": "http://x"}, "belong to backend='openai'"),
        ({"readout": "paper", "reasoning": False}, "readout='direct'"),
    ],
)
def test_bad_options_fail_before_any_model_loads(options, words):
    with pytest.raises(ValueError, match=words):
        CaCReward("nowhere", **options)


def test_model_folder_without_processor(judge_folder, tmp_path, videos):
    (tmp_path / "config.json").write_bytes((judge_folder / "config.json").read_bytes())
    with pytest.raises(BackendError, match="no processor"):
        CaCReward(tmp_path, device="cpu")(videos, fps=16)


def test_default_model(monkeypatch, judge_folder, tmp_path):
    monkeypatch.setenv(cac.MODEL_VARIABLE, str(judge_folder))
    assert CaCReward().model == str(judge_folder)
    monkeypatch.delenv(cac.MODEL_VARIABLE)
    monkeypatch.setattr(cac, "mini_judge_folder", lambda: None)
    with pytest.raises(ValueError, match=r"no judge available: pass model=.*CAC_REWARD_MODEL"):
        CaCReward()
    with pytest.raises(ValueError, match="needs a model"):
        CaCReward(backend="openai")


def test_mini_judge_announces_itself_once(monkeypatch, judge_folder):
    monkeypatch.delenv(cac.MODEL_VARIABLE, raising=False)
    monkeypatch.setattr(cac, "mini_judge_folder", lambda: judge_folder)
    cac._announce_mini.cache_clear()
    with pytest.warns(UserWarning, match="demo-scale"):
        _ = CaCReward(device="cpu").judge_model
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _ = CaCReward(device="cpu").judge_model


READOUTS = [
    ('{"readouts": ["log_odds", "direct", "paper"]}', {}, "log_odds"),
    ('{"readouts": ["paper", "direct"]}', {}, "paper"),
    ('{"readouts": ["paper", "log_odds"]}', {"reasoning": False}, "log_odds"),
    ("{}", {}, "paper"),
    ("{}", {"reasoning": False}, "direct"),
    ("{}", {"readouts": ["direct"]}, "direct"),
    ('{"readouts": ["log_odds"]}', {"readout": "paper"}, "paper"),
]


@pytest.mark.parametrize(
    ("judge_json", "options", "readout"), slow_but(READOUTS, READOUTS[0], READOUTS[2], READOUTS[6])
)
def test_the_best_readout_a_checkpoint_was_trained_for(judge_folder, tmp_path, judge_json, options, readout):
    folder = shutil.copytree(judge_folder, tmp_path / "judge")
    (folder / "judge.json").write_text(judge_json)
    cac._announce_untrained.cache_clear()
    reward = CaCReward(folder, device="cpu", **options)
    explicit = "readout" in options
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert reward.judge_model.config.readout == readout
    assert any("was never trained into judge" in str(w.message) for w in caught) == explicit
    assert f"readout={readout!r}" in repr(reward)


def test_the_shipped_judge_is_read_where_it_was_trained():
    folder = cac.mini_judge_folder()
    from reward_model.config import load_judge_config

    assert CaCReward()._readout(load_judge_config(folder)) == "log_odds"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda r, v: r(["no/such.mp4"]), r"video 0: no video file at 'no/such.mp4' \(looked in "),
        (lambda r, v: r([v, Path("no.mp4")], fps=16), "video 1: no video file"),
        (lambda r, v: r.judge("no.mp4"), "no video file"),
        (lambda r, v: r.judge(["a.mp4", "b.mp4"]), "use .judge_batch"),
        (lambda r, v: r(["https://example.com/a.mp4"]), "is an address; download"),
        (lambda r, v: r(["."]), "is a folder; pass the files in it"),
        (lambda r, v: r([v.astype(np.float32) / 127 - 1], fps=16), r"video 0: float frames span \[-0.9"),
        (lambda r, v: r([v.astype(np.float32)], fps=16), "expected \\[0, 1\\]"),
        (lambda r, v: r([v.astype(np.int64)], fps=16), "dtype int64; expected uint8"),
        (lambda r, v: r([v[..., 0]], fps=16), "frames have shape"),
        (lambda r, v: r([None], fps=16), "cannot read a video from NoneType"),
        (lambda r, v: r(5, fps=16), "must be a list of videos, got int"),
        (lambda r, v: r({"a": v}, fps=16), "must be a list of videos, got dict"),
        (lambda r, v: r([v], {"prompt": "x"}, fps=16), "got dict"),
        (lambda r, v: r([v], [{"prompt": "x"}], fps=16), "video 0 must be a text or None, got dict; pass its 'prompt'"),
        (lambda r, v: r([v], ["a", "b"], fps=16), "2 prompts for 1 videos"),
        (lambda r, v: r([v], fps="16fps"), "fps='16fps' is not a number"),
        (lambda r, v: r([v], fps=[16, 16]), "2 fps for 1 videos"),
        (lambda r, v: r([v]), "fps is required"),
    ],
)
def test_a_callers_mistake_raises_before_the_model_loads(call, words, videos):
    reward = CaCReward("nowhere")  # a model that is not there: loading it would raise something else
    with pytest.raises(ValueError, match=words):
        call(reward, videos[0])


def test_torch_batches_are_lists_of_videos(reward, videos):
    import torch

    batch = torch.from_numpy(np.stack([v[:9] for v in videos]))
    expected = reward([v[:9] for v in videos], fps=16)
    assert reward(batch.permute(0, 4, 1, 2, 3), fps=16) == expected, "(B, C, T, H, W)"
    assert reward(batch.permute(0, 1, 4, 2, 3), fps=16) == expected, "(B, T, C, H, W)"
    assert reward(batch.numpy(), fps=16) == expected


def test_what_cannot_be_judged_is_none_and_its_reason_is_logged_once(reward, videos, tmp_path, caplog):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"not a video")
    nan = np.full((4, 8, 8, 3), np.nan, np.float32)
    assert reward([broken, videos[0][:5], nan], fps=16)[::2] == [None, None]
    said = [r.getMessage() for r in caplog.records if "could not judge" in r.getMessage()]
    assert len(said) == 1 and "2 of 3 videos" in said[0] and "broken.mp4" in said[0] and "NaN" in said[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"readuot": "paper"}, "knows no readuot \\(did you mean readout\\?\\)"),
        ({"dtype": "bf-16"}, "dtype='bf-16' is not a precision"),
        ({"dtype": "bf16", "torch_dtype": "fp16"}, "two names of one setting"),
        ({"backend": "vllm"}, "backend='openai', base_url="),
        ({"backend": "openai", "device_map": "auto"}, "device_map: these belong to backend='local'"),
        ({"backend_options": {"load_in_4bit": True}}, "load_in_4bit; known: revision"),
        ({"frame_size": 20000}, "frame_size=20000"),
        ({"num_turns": 3}, "num_turns=3"),
    ],
)
def test_options_as_people_write_them(options, words):
    with pytest.raises(ValueError, match=words):
        CaCReward("nowhere", **options)


def test_a_unified_checkpoint_is_no_judge():
    from reward_model.backends.source import shipped_folder

    with pytest.raises(ValueError, match=r"Use UnifiedReward\(\.\.\.\)"):
        CaCReward("CodeGoat24/UnifiedReward-2.0-qwen3vl-8b")
    folder = shipped_folder("unified-mini")
    if folder is not None:
        with pytest.raises(ValueError, match=r"holds unified\.json.*UnifiedReward"):
            CaCReward(folder).check_ready()


def test_torch_names_reach_the_model(judge_folder):
    import torch

    assert CaCReward(judge_folder, device="cpu", torch_dtype=torch.bfloat16)._source.options["dtype"] == "bfloat16"
    reward = CaCReward(judge_folder, device="cpu", device_map={"": "cpu"}, dtype="bf16")
    assert reward.judge_model.backend.model.dtype is torch.bfloat16


def test_a_judge_is_saved_whole_and_loads_again(reward, videos, tmp_path):
    folder = CaCReward.from_pretrained(reward.model, device="cpu", scan_fps=2.0).save_pretrained(tmp_path / "copy")
    again = CaCReward(folder, device="cpu")
    assert again.judge_model.config.scan_fps == 2 and again.judge_model.config.prompts == "compact"
    assert again([videos[0]], fps=16) == CaCReward(reward.model, device="cpu", scan_fps=2)([videos[0]], fps=16)
    with pytest.raises(ValueError, match="no weights here to save"):
        CaCReward(backend=Scripted()).save_pretrained(tmp_path / "other")


def test_a_judge_is_pushed_as_it_is_saved(reward, monkeypatch):
    import huggingface_hub

    sent = {}

    class Repository(str):
        repo_id = "me/judge"

    monkeypatch.setattr(
        huggingface_hub.HfApi, "create_repo", lambda self, repo_id, **_: Repository(f"https://hub/{repo_id}")
    )
    monkeypatch.setattr(
        huggingface_hub.HfApi,
        "upload_folder",
        lambda self, *, repo_id, folder_path, **_: sent.update(
            {repo_id: sorted(p.name for p in folder_path.iterdir())}
        ),
    )
    assert reward.push_to_hub("me/judge") == "https://hub/me/judge"
    assert {"config.json", "judge.json", "model.safetensors", "tokenizer.json"} <= set(sent["me/judge"])


def test_the_demo_warning_points_at_the_callers_line(monkeypatch, judge_folder, videos):
    monkeypatch.setattr(cac, "mini_judge_folder", lambda: judge_folder)
    cac._announce_mini.cache_clear()
    with pytest.warns(UserWarning, match=r'CaCReward\("Qwen/Qwen3-VL-8B-Instruct"\)') as caught:
        CaCReward(judge_folder, device="cpu")(videos[:1], fps=16)
    assert caught[0].filename == __file__


@pytest.mark.slow
def test_a_minute_of_1080p_is_judged_in_two_gibibytes(tmp_path):
    """Its frames are 10 GiB: only those that the judge looks at are decoded to pictures, and one after the other."""
    path = tmp_path / "minute.mp4"
    still = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "qp": "40"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for k in range(1800):
            still[:40] = k % 250
            container.mux(stream.encode(av.VideoFrame.from_ndarray(still, format="rgb24")))
        container.mux(stream.encode())
    program = (
        "import sys; from cac_align import CaCReward; print(CaCReward().judge(sys.argv[1], 'noise').score); "
        "print([1024 * int(row.split()[1]) for row in open('/proc/self/status') if row.startswith('VmHWM')][0])"
    )
    out = subprocess.run([sys.executable, "-c", program, str(path)], check=True, capture_output=True, text=True).stdout
    score, peak = out.split()
    print(f"peak {int(peak) / 2**20:.0f} MiB")
    assert 0 <= float(score) <= 1 and int(peak) < 2 * 2**30
