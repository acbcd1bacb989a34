"""best_of_n on tiny real pipelines: independence of candidates, one encoding, resuming, and every refusal."""

import json
import shutil
from hashlib import sha256

import numpy as np
import pytest
from PIL import Image

from cac_align import BestOfNOutput, best_of_n
from cac_align.rewards.base import RewardError
from cac_align.selection.candidates import RESERVED, candidate_seed, encode_once, generate
from cac_align.selection.run_folder import ResumeError, describe_pipeline, plain
from reward_model.schema import Verdict
from tests.campaigns import slow_but

PROMPT = "a red ball moves right"
WAN = {"height": 16, "width": 16, "num_frames": 5, "num_inference_steps": 1, "guidance_scale": 3.0}
QUIET = {"progress_bar": False}


def brightness(videos, prompts=None, *, fps, **kwargs):
    return [float(v.mean()) / 255 for v in videos]


def constant(videos, prompts=None, *, fps, **kwargs):
    return [0.5] * len(videos)


def largest_difference(a, b):
    return max(int(np.abs(x.astype(int) - y).max()) for x, y in zip(a, b, strict=True))


class Counting:
    """The pipeline itself, counting its calls and failing on a chosen one."""

    def __init__(self, pipe, fail_at=None):
        self.pipe, self.calls, self.fail_at = pipe, 0, fail_at

    def __getattr__(self, name):
        return getattr(self.pipe, name)

    def __call__(self, prompt=None, **kwargs):
        if self.calls == self.fail_at:
            raise RuntimeError("the machine went away")
        self.calls += 1
        return self.pipe(prompt=prompt, **kwargs)


@pytest.fixture(scope="module")
def five(wan_pipe):
    return best_of_n(wan_pipe, PROMPT, reward=brightness, n=5, **WAN, **QUIET)


def test_output(five):
    assert isinstance(five, BestOfNOutput)
    assert five.best == int(np.argmax(five.scores))
    assert five.frames.shape == (5, 16, 16, 3)
    assert five.frames.dtype == np.uint8
    assert five.ranking[0] == five.best
    assert five.seeds == [candidate_seed(0, k) for k in range(5)]
    assert len({c.tobytes() for c in five.candidates}) == 5
    assert brightness(five.candidates, fps=16) == five.scores


def test_candidates_do_not_depend_on_n(five, wan_pipe):
    three = best_of_n(wan_pipe, PROMPT, reward=brightness, n=3, **WAN, **QUIET)
    assert largest_difference(three.candidates, five.candidates[:3]) == 0


@pytest.mark.parametrize("batch_size", slow_but([2, 5], 2))
def test_candidates_do_not_depend_on_the_batch(five, wan_pipe, batch_size):
    batched = best_of_n(wan_pipe, PROMPT, reward=brightness, n=5, batch_size=batch_size, **WAN, **QUIET)
    # Measured on CPU, fp32: 0 of 255 levels for this pipeline. One level allows for another BLAS.
    assert largest_difference(batched.candidates, five.candidates) <= 1


def test_a_seed_alone_reproduces_its_candidate(five, wan_pipe):
    assert largest_difference(generate(wan_pipe, PROMPT, [five.seeds[3]], WAN), five.candidates[3:4]) == 0


def test_neighbouring_seeds_share_no_candidate():
    seeds = [candidate_seed(s, k) for s in range(50) for k in range(50)]
    assert len(set(seeds)) == len(seeds)


def pipeline_case(request, name):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    extra = {
        "wan_pipe": {**WAN, "negative_prompt": "dog"},
        "wan_i2v_pipe": {**WAN, "image": image},
        "ltx_pipe": {**WAN, "height": 32, "width": 32, "num_frames": 9},
    }
    return request.getfixturevalue(name), extra[name]


@pytest.mark.parametrize("name", slow_but(["wan_pipe", "wan_i2v_pipe", "ltx_pipe"], "ltx_pipe"))
def test_encoding_once_changes_nothing(request, name):
    pipe, kwargs = pipeline_case(request, name)
    seeds = [candidate_seed(1, k) for k in range(3)]
    plain_videos = [generate(pipe, PROMPT, [s], kwargs)[0] for s in seeds]
    encoded = []
    handle = pipe.text_encoder.register_forward_hook(lambda *_: encoded.append(1))
    with encode_once(pipe):
        once = [generate(pipe, PROMPT, [s], kwargs)[0] for s in seeds]
        batched = generate(pipe, PROMPT, seeds, kwargs)
    handle.remove()
    assert largest_difference(once, plain_videos) == 0
    # Measured on CPU: 0 levels for Wan, 1 level in 4 of 100,000 values for LTX.
    assert largest_difference(batched, plain_videos) <= 1
    assert len(encoded) == 2, "prompt and negative prompt, once each"
    assert "encode_prompt" not in vars(pipe)


@pytest.mark.parametrize("name", slow_but(["wan_i2v_pipe", "ltx_pipe"], "ltx_pipe"))
def test_other_pipelines(request, name):
    pipe, kwargs = pipeline_case(request, name)
    out = best_of_n(pipe, PROMPT, reward=brightness, n=3, batch_size=2, fps=24, **kwargs, **QUIET)
    assert out.frames.shape[0] == kwargs["num_frames"]
    assert out.fps == 24


def test_two_prompts_are_encoded_apart(wan_pipe):
    prompts = [PROMPT, "a dog catches a blue square"]
    # Strong guidance: random weights hardly heed the text, and less than a grey level would be rounded away.
    options = {**WAN, "guidance_scale": 200.0}
    outs = best_of_n(wan_pipe, prompts, reward=brightness, n=2, **options, **QUIET)
    assert [o.prompt for o in outs] == prompts
    assert outs[0].seeds == outs[1].seeds
    alone = best_of_n(wan_pipe, prompts[1], reward=brightness, n=2, **options, **QUIET)
    assert largest_difference(outs[1].candidates, alone.candidates) == 0
    assert largest_difference(outs[0].candidates, outs[1].candidates) > 0


def test_ties_go_to_the_first(wan_pipe):
    assert best_of_n(wan_pipe, PROMPT, reward=constant, n=3, **WAN, **QUIET).best == 0


def test_a_candidate_without_score_never_wins(wan_pipe):
    def shy(videos, prompts=None, *, fps, **kwargs):
        return [None, 0.1, None]

    out = best_of_n(wan_pipe, PROMPT, reward=shy, n=3, **WAN, **QUIET)
    assert (out.best, out.ranking) == (1, [1, 0, 2])
    assert out.reasons == ["reward 'shy' returned None", None, "reward 'shy' returned None"]


def test_all_none_lists_the_reasons(wan_pipe):
    class Blind:
        name = "blind"

        def judge_batch(self, videos, prompts=None, *, fps):
            return [Verdict(None, None, error=f"server said {500 + k}") for k in range(len(videos))]

        def __call__(self, videos, prompts=None, *, fps, **kwargs):
            raise AssertionError("videos must not be judged twice")

    with pytest.raises(RewardError, match=r"'blind' could judge none of the 2.*0: server said 500.*1: server said 501"):
        best_of_n(wan_pipe, PROMPT, reward=Blind(), n=2, **WAN, **QUIET)


def test_a_judge_is_asked_once_and_its_verdicts_are_kept(wan_pipe):
    class Judge:
        calls = 0

        def judge_batch(self, videos, prompts=None, *, fps):
            Judge.calls += 1
            assert prompts == [PROMPT] * 3
            return [Verdict("normal", 0.2 * k, num_frames=5, fps=fps) for k in range(3)]

        def __call__(self, videos, prompts=None, *, fps, **kwargs):
            raise AssertionError("not needed")

    out = best_of_n(wan_pipe, PROMPT, reward=[Judge(), constant], n=3, **WAN, **QUIET)
    assert Judge.calls == 1
    assert [v.score for v in out.verdicts] == [0.0, 0.2, 0.4]
    assert out.scores == pytest.approx([0.25, 0.35, 0.45])
    assert set(out.parts) == {"Judge", "constant"}


def test_resume_draws_only_what_is_missing(wan_pipe, five, tmp_path):
    broken = Counting(wan_pipe, fail_at=3)
    with pytest.raises(RuntimeError, match="went away"):
        best_of_n(broken, PROMPT, reward=brightness, n=5, output_dir=tmp_path, **WAN, **QUIET)
    assert len(list((tmp_path / "candidates").glob("*.npz"))) == 3
    again = Counting(wan_pipe)
    out = best_of_n(again, PROMPT, reward=brightness, n=5, output_dir=tmp_path, **WAN, **QUIET)
    assert (broken.calls, again.calls) == (3, 2)
    assert largest_difference(out.candidates, five.candidates) == 0
    assert out.scores == five.scores
    assert not [f for f in tmp_path.rglob(".*") if f.is_file()], "no temporary file stays behind"
    assert json.loads((tmp_path / "result.json").read_text())["best"] == out.best


@pytest.mark.slow
def test_resume_in_another_batch_size_and_with_more_candidates(wan_pipe, five, tmp_path):
    best_of_n(Counting(wan_pipe), PROMPT, reward=brightness, n=2, output_dir=tmp_path, **WAN, **QUIET)
    counting = Counting(wan_pipe)
    out = best_of_n(counting, PROMPT, reward=brightness, n=5, batch_size=3, output_dir=tmp_path, **WAN, **QUIET)
    assert counting.calls == 1
    assert largest_difference(out.candidates, five.candidates) <= 1


def test_several_prompts_resume_in_their_own_folders(wan_pipe, tmp_path):
    prompts = [PROMPT, "a dog"]
    best_of_n(wan_pipe, prompts, reward=brightness, n=1, output_dir=tmp_path, **WAN, **QUIET)
    assert sorted(p.parent.name for p in tmp_path.glob("*/report.html")) == ["prompt-00", "prompt-01"]


@pytest.fixture(scope="module")
def one_drawn(wan_pipe, tmp_path_factory):
    """The folder of a finished run with one candidate."""
    folder = tmp_path_factory.mktemp("one")
    best_of_n(wan_pipe, PROMPT, reward=brightness, n=1, output_dir=folder, **WAN, **QUIET)
    return folder


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seed": 1}, "seed was 0, now 1"),
        ({"num_inference_steps": 2}, "arguments.num_inference_steps was 1, now 2"),
        ({"prompt": "a dog"}, 'prompt was "a red ball moves right", now "a dog"'),
        ({"guidance_scale": 1.0}, "arguments.guidance_scale was 3.0, now 1.0"),
    ],
)
def test_resume_refuses_other_settings(wan_pipe, one_drawn, change, words):
    call = {"prompt": PROMPT, "reward": brightness, "n": 1, "output_dir": one_drawn, **WAN, **QUIET}
    with pytest.raises(ResumeError, match=words) as caught:
        best_of_n(wan_pipe, **{**call, **change})
    assert "Use another output_dir" in str(caught.value)


def test_resume_refuses_other_weights_and_broken_files(wan_pipe, one_drawn, tmp_path):
    import torch

    shutil.copytree(one_drawn, tmp_path, dirs_exist_ok=True)
    call = {"prompt": PROMPT, "reward": brightness, "n": 1, "output_dir": tmp_path, **WAN, **QUIET}
    weight = wan_pipe.transformer.proj_out.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.mul_(1.5)
    with pytest.raises(ResumeError, match=r"pipeline\.components\.transformer was"):
        best_of_n(wan_pipe, **call)
    with torch.no_grad():
        weight.copy_(kept)
    (tmp_path / "candidates" / "00.npz").write_bytes(b"half a file")
    with pytest.raises(ResumeError, match="Delete the file"):
        best_of_n(wan_pipe, **call)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt": ""}, "prompt '' must be a text"),
        ({"prompt": "  \n"}, "must be a text"),
        ({"prompt": []}, "empty list"),
        ({"prompt": ["a", ""]}, "prompt '' must be"),
        ({"prompt": None}, "prompt None must be"),
        ({"n": 0}, "n=0 must be an integer of at least 1"),
        ({"n": 2.5}, "n=2.5 must be"),
        ({"n": True}, "n=True must be"),
        ({"batch_size": 0}, "batch_size=0 must be"),
        ({"seed": -1}, "seed=-1 must be"),
        ({"seed": "a"}, "seed='a' must be"),
        ({"fps": 0}, "fps=0 must be"),
        ({"fps": -16}, "fps=-16 must be"),
        ({"fps": float("nan")}, "fps=nan must be"),
        ({"fps": None}, "fps is required"),
        ({"reward": None}, "NoneType"),
        ({"reward": []}, "at least one reward"),
        *(({name: 1}, f"{name}= cannot be passed to best_of_n: ") for name in RESERVED if name != "prompt"),
    ],
)
def test_bad_arguments(wan_pipe, change, words):
    call = {"prompt": PROMPT, "reward": brightness, "n": 1, **WAN, **QUIET, **change}
    with pytest.raises(ValueError, match=words):
        best_of_n(wan_pipe, **call)


def test_plain_tells_pictures_apart_and_ignores_addresses():
    a, b = Image.new("RGB", (2, 2), "red"), Image.new("RGB", (2, 2), "blue")
    assert plain(a) != plain(b)
    assert plain({"image": a, "f": brightness}) == plain({"image": a.copy(), "f": brightness})


# --- order ------------------------------------------------------------------------------------------------------------


class Judge:
    """A judge whose verdict and score contradict each other: the highest score is of a video it calls abnormal."""

    name = "judge"

    def judge_batch(self, videos, prompts=None, *, fps):
        said = [("normal", 0.2), ("abnormal", 0.99), ("normal", 0.4), ("abnormal", 0.5)]
        return [
            Verdict(status, score, num_frames=len(v), fps=fps) for v, (status, score) in zip(videos, said, strict=False)
        ]

    def __call__(self, videos, prompts=None, *, fps, **kwargs):
        return [v.score for v in self.judge_batch(videos, prompts, fps=fps)]


def test_an_abnormal_verdict_never_beats_a_normal_one_unless_asked(wan_pipe, tmp_path):
    out = best_of_n(wan_pipe, PROMPT, reward=Judge(), n=4, output_dir=tmp_path, **WAN, **QUIET)
    assert (out.best, out.ranking) == (2, [2, 0, 1, 3])
    saved = json.loads((tmp_path / "result.json").read_text())
    assert (saved["best"], saved["ranking"], saved["settings"]["rank_by"]) == (2, [2, 0, 1, 3], "verdict")
    by_score = best_of_n(wan_pipe, PROMPT, reward=Judge(), n=4, output_dir=tmp_path, rank_by="score", **WAN, **QUIET)
    assert (by_score.best, by_score.ranking) == (1, [1, 3, 2, 0])
    with_other = best_of_n(wan_pipe, PROMPT, reward=[Judge(), constant], n=4, output_dir=tmp_path, **WAN, **QUIET)
    assert with_other.best == 2, "a composite goes by its judge's verdict, too"
    with pytest.raises(ValueError, match="rank_by='loud' must be 'verdict'"):
        best_of_n(wan_pipe, PROMPT, reward=Judge(), n=1, rank_by="loud", **WAN, **QUIET)


def test_all_abnormal_still_has_a_best():
    from cac_align.rewards.base import order

    assert order([0.1, 0.3, None], [True, True, None]) == [1, 0, 2]
    assert order([0.3, 0.1], [None, True]) == order([0.3, 0.1]) == [0, 1]


# --- cheap checks first, nothing lost --------------------------------------------------------------------------------


def needs_prompts_only(videos, prompts=None):
    return [0.5] * len(videos)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"reward": needs_prompts_only}, r"cannot be called as reward\(videos, prompts, fps=\.\.\.\).*'fps'"),
        ({"reward": Judge}, r"Judge is a class; pass an instance: Judge\(\.\.\.\)"),
        ({"reward": "cac"}, r"pass CaCReward\(\)"),
        ({"reward": [constant, "motion"]}, "not its name 'motion'"),
        ({"num_frame": 17}, "takes no 'num_frame'; did you mean num_frames"),
        ({"out_dir": "x"}, "WanPipeline takes no 'out_dir'; did you mean output_dir"),
    ],
)
def test_what_cannot_work_is_found_before_anything_is_drawn(wan_pipe, change, words):
    drawn = []
    handle = wan_pipe.transformer.register_forward_pre_hook(lambda *_: drawn.append(1))
    with pytest.raises(ValueError, match=words):
        best_of_n(wan_pipe, PROMPT, **{"reward": brightness, "n": 1, **WAN, **QUIET, **change})
    handle.remove()
    assert not drawn


def test_a_pipeline_that_is_a_name():
    with pytest.raises(ValueError, match=r"got str; load it: DiffusionPipeline\.from_pretrained\('assets/wan-mini'\)"):
        best_of_n("assets/wan-mini", PROMPT, reward=constant)


def test_a_judge_that_cannot_load_is_found_before_anything_is_drawn(wan_pipe, judge_folder, tmp_path):
    import shutil

    from cac_align import CaCReward, CompositeReward

    drawn = []
    handle = wan_pipe.transformer.register_forward_pre_hook(lambda *_: drawn.append(1))
    absent = CaCReward(tmp_path / "nosuch")
    for reward in (absent, [constant, absent], CompositeReward({"a": absent})):
        with pytest.raises(ValueError, match="there is no folder"):
            best_of_n(wan_pipe, PROMPT, reward=reward, n=2, **WAN, **QUIET)
    broken = shutil.copytree(judge_folder, tmp_path / "broken")
    (broken / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="cannot load the processor"):
        best_of_n(wan_pipe, PROMPT, reward=CaCReward(broken, device="cpu"), n=2, **WAN, **QUIET)
    handle.remove()
    assert not drawn


@pytest.mark.parametrize("several", slow_but([False, True]))
def test_drawn_candidates_survive_a_reward_that_fails(wan_pipe, five, several, caplog):
    calls = []

    def fails(videos, prompts=None, *, fps, **kwargs):
        calls.append(1)
        if len(calls) == (2 if several else 1):
            raise RuntimeError("the judge's server is gone")
        return [0.5] * len(videos)

    prompt = [PROMPT, "a dog"] if several else PROMPT
    with pytest.raises(RuntimeError, match="server is gone") as caught:
        best_of_n(Counting(wan_pipe), prompt, reward=fails, n=2, **WAN, **QUIET)
    folder = caught.value.candidates
    assert any(str(folder) in note for note in caught.value.__notes__)
    assert any(str(folder) in r.getMessage() for r in caplog.records)
    counting = Counting(wan_pipe)
    out = best_of_n(counting, prompt, reward=brightness, n=2, output_dir=folder, **WAN, **QUIET)
    first = out[0] if several else out
    assert counting.calls == 0, "nothing is drawn again"
    assert largest_difference(first.candidates, five.candidates[:2]) == 0
    shutil.rmtree(folder)


def test_candidates_survive_a_pipeline_that_fails_and_an_interrupt(wan_pipe):
    for error in (RuntimeError, KeyboardInterrupt):

        class Stops(Counting):
            def __call__(self, prompt=None, error=error, **kwargs):
                if self.calls == 1:
                    raise error("stop")
                return super().__call__(prompt, **kwargs)

        with pytest.raises(error) as caught:
            best_of_n(Stops(wan_pipe), PROMPT, reward=brightness, n=3, **WAN, **QUIET)
        assert [p.name for p in (caught.value.candidates / "candidates").iterdir()] == ["00.npz"]
        shutil.rmtree(caught.value.candidates)


def test_an_offloaded_pipeline_draws_before_the_judge_loads(wan_pipe, monkeypatch):
    """The GPU is too small for both at once, which is why the pipeline offloads."""
    order = []

    class Loads:
        def make_ready(self):
            order.append("loaded")

        def __call__(self, videos, prompts=None, *, fps, **kwargs):
            order.append("judged")
            return [0.5] * len(videos)

    best_of_n(wan_pipe, PROMPT, reward=Loads(), n=1, **WAN, **QUIET)
    monkeypatch.setattr(wan_pipe, "_all_hooks", ["a hook"], raising=False)
    best_of_n(wan_pipe, PROMPT, reward=Loads(), n=1, **WAN, **QUIET)
    assert order == ["loaded", "judged", "judged"]


@pytest.mark.slow
def test_the_record_says_that_a_judge_is_for_demonstration(wan_pipe, judge_folder, monkeypatch):
    from cac_align import CaCReward
    from cac_align.rewards import cac

    monkeypatch.setattr(cac, "mini_judge_folder", lambda: judge_folder)
    reward = [CaCReward(judge_folder, device="cpu"), constant]
    cac._announce_mini.cache_clear()  # said once per process
    with pytest.warns(UserWarning, match="demo-scale"):
        out = best_of_n(wan_pipe, PROMPT, reward=reward, n=1, **WAN, **QUIET)
    assert "is a demonstration" in out.settings["note"]
    assert "note" not in best_of_n(wan_pipe, PROMPT, reward=constant, n=1, **WAN, **QUIET).settings


# --- pictures in, pictures out, and what a pipeline is ---------------------------------------------------------------


@pytest.mark.slow
def test_photos_are_turned_upright(wan_i2v_pipe):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))
    turned = image.transpose(Image.Transpose.ROTATE_90)
    exif = turned.getexif()
    exif[274] = 6  # shown after a quarter turn clockwise
    turned.info["exif"] = exif.tobytes()
    straight = best_of_n(wan_i2v_pipe, PROMPT, reward=constant, n=1, image=image, **WAN, **QUIET)
    photo = best_of_n(wan_i2v_pipe, PROMPT, reward=constant, n=1, image=turned, **WAN, **QUIET)
    assert largest_difference(straight.candidates, photo.candidates) == 0


def test_a_first_frame_of_another_shape_is_said(wan_i2v_pipe):
    with pytest.warns(
        UserWarning, match=r"16x32, the video 16x16: another aspect ratio.*stretched 2\.0 times.*height="
    ):
        best_of_n(wan_i2v_pipe, PROMPT, reward=constant, n=1, image=Image.new("RGB", (16, 32)), **WAN, **QUIET)


def test_the_size_that_fits_a_first_frame(wan_i2v_pipe):
    from cac_align.selection.candidates import fitting_size

    height, width = fitting_size(wan_i2v_pipe, Image.new("RGB", (480, 832)))
    assert (height, width) == (832, 480)
    height, width = fitting_size(wan_i2v_pipe, Image.new("RGB", (1000, 1000)))
    assert height == width and height % 16 == 0 and abs(height * width / (480 * 832) - 1) < 0.06


def test_frames_are_written_right_by_diffusers(five, monkeypatch):
    """``export_to_video`` multiplies arrays by 255 and leaves PIL images as they are."""
    import PIL.Image

    frames = five.frames
    assert isinstance(frames[0], PIL.Image.Image)
    written = [np.array(f) for f in frames]  # what it does with a list that begins with a PIL image
    assert np.array_equal(np.stack(written), five.candidates[five.best])
    for same in (frames[:], frames[1:3], frames[..., 0], frames / 255, frames[[0, 1]], np.asarray(frames)):
        assert type(same) is np.ndarray
    assert all(type(f) is np.ndarray for f in frames)
    assert (
        float(frames.mean()) == float(np.asarray(frames).mean())
        and frames[0, 0, 0, 0] == np.asarray(frames)[0, 0, 0, 0]
    )


@pytest.mark.slow
def test_another_adapter_strength_is_another_pipeline(wan_pipe, tmp_path):
    import copy

    from diffusers import WanPipeline
    from peft import LoraConfig

    transformer = copy.deepcopy(wan_pipe.transformer)
    parts = {name: part for name, part in wan_pipe.components.items() if name in ("vae", "text_encoder", "tokenizer")}
    pipe = WanPipeline(**parts, scheduler=wan_pipe.scheduler, transformer=transformer)
    pipe.set_progress_bar_config(disable=True)
    assert "[" not in describe_pipeline(pipe)["components"]["transformer"], "as folders of earlier versions have it"
    call = {"prompt": PROMPT, "reward": constant, "n": 1, "output_dir": tmp_path, **WAN, **QUIET}
    transformer.add_adapter(LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), adapter_name="one")
    best_of_n(pipe, **call)
    transformer.set_adapters(["one"], [0.5])
    with pytest.raises(ResumeError, match=r"components\.transformer was .*adapters\[one=4\].*now .*adapters\[one=2\]"):
        best_of_n(pipe, **call)
    transformer.disable_adapters()
    with pytest.raises(ResumeError, match=r"adapters\[off\]"):
        best_of_n(pipe, **call)


def described_by_version_0_2(pipe):
    """The marks as version 0.2 made them: the digest of a config counted the place it was read from."""

    def digest(part):
        config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
        config = {k: v for k, v in config.items() if k not in ("_diffusers_version", "transformers_version")}
        found = sha256(json.dumps(plain(config), sort_keys=True).encode())
        for name, tensor in part.state_dict().items() if hasattr(part, "state_dict") else ():
            values = tensor.detach().reshape(-1)[:: max(1, tensor.numel() // 4)][:4]
            found.update(name.encode() + str(tuple(tensor.shape)).encode() + repr(values.float().tolist()).encode())
        return f"{type(part).__name__} {found.hexdigest()[:12]}"

    parts = {n: digest(p) if hasattr(p, "config") else type(p).__name__ for n, p in pipe.components.items() if p}
    return {"class": "Counting", "model": str(pipe.config["_name_or_path"]), "components": parts}


@pytest.mark.parametrize("version", slow_but(["0.2", "present"]))
def test_a_run_goes_on_after_its_model_folder_has_moved(wan_pipe, tmp_path, monkeypatch, version):
    from diffusers import WanPipeline

    from cac_align.selection import run_folder

    def opened(name):
        pipe = WanPipeline.from_pretrained(tmp_path / name)
        pipe.set_progress_bar_config(disable=True)
        return Counting(pipe)

    wan_pipe.save_pretrained(tmp_path / "here")
    call = {"prompt": PROMPT, "reward": constant, "output_dir": tmp_path / "out", **WAN, **QUIET}
    pipe = opened("here")
    with monkeypatch.context() as patch:
        if version == "0.2":
            patch.setattr(run_folder, "describe_pipeline", lambda *_: described_by_version_0_2(pipe.pipe))
        best_of_n(pipe, n=2, **call)
    first = {path.name: path.read_bytes() for path in (tmp_path / "out" / "candidates").glob("*.npz")}
    there = opened("here")
    best_of_n(there, n=2, **call)
    assert there.calls == 0, "in place"
    (tmp_path / "here").rename(tmp_path / "moved")
    moved = opened("moved")
    best_of_n(moved, n=3, **call)
    assert moved.calls == 1, "only the third is drawn"
    assert {name: (tmp_path / "out" / "candidates" / name).read_bytes() for name in first} == first
    other = opened("moved")
    next(other.pipe.transformer.parameters()).data += 1
    with pytest.raises(ResumeError, match=r"settings: pipeline\.components\.transformer was [^;]*; pipeline\.model"):
        best_of_n(other, n=3, **call)
