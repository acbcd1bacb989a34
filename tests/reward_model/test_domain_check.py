"""What a checkpoint says of a video it was not trained on, and how that reaches the verdict."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from reward_model.backends.local import LocalBackend
from reward_model.config import JudgeConfig, judge_json, load_judge_config
from reward_model.conversation import Completion
from reward_model.domain import DOMAIN_FILE, Familiarity, Signs, TrainedOn, fit_domain
from reward_model.domain_check import readouts_disagree
from reward_model.judge import TwoTurnJudge
from reward_model.schema import Turn, Verdict, VerdictScore
from reward_model.video.writing import write_mp4, write_video

STATED = TrainedOn(seconds=(2.1, 6.1), fps=(16, 16), side=(48, 64), aspect=(0.75, 1.34))


@pytest.mark.parametrize(
    ("num_frames", "fps", "size", "said"),
    [
        (97, 16.0, (48, 64), []),
        (161, 16.0, (48, 64), ["10.1 s; trained on 2.1 to 6.1 s"]),
        (20, 16.0, None, ["1.25 s; trained on 2.1 to 6.1 s"]),
        (60, 15.984, (48, 64), []),  # a file that rounds its rate
        (60, 24.0, (48, 64), ["24 frames per second; trained on 16 frames per second"]),
        (60, 16.0, (480, 640), ["sides of 480 and 640 pixels; trained on 48 to 64 pixels"]),
        (60, 16.0, (64, 36), ["sides of 64 and 36 pixels; trained on 48 to 64 pixels",
                              "width over height 0.562; trained on 0.75 to 1.34"]),
        (60, 16.0, (1200, 1600), ["sides of 1200 and 1600 pixels; trained on 48 to 64 pixels"]),  # not 1.2e+03
        (172_800, 16.0, None, ["10800 s; trained on 2.1 to 6.1 s"]),
        (0, 0.0, None, []),
    ],
)  # fmt: skip
def test_a_video_is_compared_with_what_is_stated(num_frames, fps, size, said):
    assert STATED.objections(num_frames, fps, size) == said
    assert TrainedOn().objections(num_frames, fps, size) == []


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ({"seconds": [6, 2]}, r"seconds=\[6, 2\] must be two numbers above 0"),
        ({"fps": 16}, "fps=16 must be two numbers"),
        ({"side": [0, 4]}, "side="),
        ({"length": [1, 2]}, "unknown length; known: seconds, fps, side, aspect, footage"),
        ({"footage": 3}, "footage=3 must be a text"),
    ],
)
def test_a_statement_that_makes_no_sense_names_its_file(data, says, tmp_path):
    (tmp_path / "judge.json").write_text(json.dumps({"trained_on": data}))
    with pytest.raises(ValueError, match=rf"judge.json: trained_on: .*{says}"):
        load_judge_config(tmp_path)


def test_a_statement_travels_in_judge_json(tmp_path):
    (tmp_path / "judge.json").write_text(judge_json(JudgeConfig(trained_on=STATED)))
    assert load_judge_config(tmp_path).trained_on == STATED
    assert "trained_on" not in json.loads(judge_json(JudgeConfig()))


def scores(turn, after, before):
    return replace(turn, score=after and VerdictScore(after, 0.0), direct_score=before and VerdictScore(before, 0.0))


def test_readouts_disagree_where_one_leans_against_the_turn_that_decides():
    scan, zoom = Turn(1, (0,), 4.0, "", "abnormal"), Turn(2, (0,), 8.0, "", "normal")
    assert readouts_disagree([]) is None and readouts_disagree([scan]) is None
    assert readouts_disagree([scores(scan, -2.0, None)]) is False
    assert readouts_disagree([scores(scan, -2.0, 1.0)]) is True
    # What turn one leaned to does not count once turn two has decided, unless a chunk ends with it.
    assert readouts_disagree([scores(scan, -2.0, 1.0), scores(zoom, 3.0, 1.0)]) is False
    assert readouts_disagree([scores(scan, -2.0, 1.0), scores(replace(scan, status="normal"), 1.0, 2.0)]) is True


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory, judge_folder):
    """A tiny judge that states and knows what it was trained on: 33 frames of noise, 48 x 48."""
    folder = shutil.copytree(judge_folder, tmp_path_factory.mktemp("judge"), dirs_exist_ok=True)
    settings = {"prompts": "compact", "frame_size": 48, "max_scan_tokens": 4, "readouts": ["direct"]}
    (folder / "judge.json").write_text(json.dumps({**settings, "trained_on": {"seconds": [2, 3]}}))
    backend = LocalBackend(folder, device="cpu")
    prompts = TwoTurnJudge(backend, backend.config).prompts
    rng = np.random.default_rng(0)
    signs = backend.observe([prompts.scan(noise(rng)[::8]) for _ in range(80)])
    fit_domain(signs[:50], signs[50:]).save(folder)
    return folder


def noise(rng, num_frames=33, level=127):
    return rng.integers(0, level, (num_frames, 48, 48, 3)).astype(np.uint8)


def judge_of(folder, **settings):
    backend = LocalBackend(folder, device="cpu")
    return TwoTurnJudge(backend, backend.config, reasoning=False, **settings)


def test_a_verdict_says_whether_its_video_is_familiar(checkpoint):
    rng = np.random.default_rng(1)
    judge = judge_of(checkpoint)
    judge.backend._look = None  # the prefill that read the verdict is enough
    dark = np.repeat(noise(rng, 33, 12)[:, :, :1], 48, axis=2)
    usual, strange, long = judge.judge([noise(rng), dark, noise(rng, 97)], fps=16)
    assert usual.familiarity is not None and strange.familiarity.farthest == 1.0
    assert usual.out_of_domain is usual.familiarity.out_of_domain
    assert strange.out_of_domain is True and strange.domain_reason == strange.familiarity.reason != ""
    assert long.out_of_domain is True and long.domain_reason.startswith("6.06 s; trained on 2 to 3 s")
    for verdict in (usual, strange, long):
        assert Verdict.from_dict(json.loads(json.dumps(verdict.to_dict()))) == verdict
        old = {k: v for k, v in verdict.to_dict().items() if k in set(Verdict(None, None).to_dict()) - NEW}
        old["turns"] = [
            {k: v for k, v in t.items() if k not in ("familiarity", "unlike_training")} for t in old["turns"]
        ]
        assert Verdict.from_dict(old).out_of_domain is None


@pytest.mark.slow
def test_a_file_that_was_enlarged_for_pages_is_as_familiar_as_its_video(checkpoint, tmp_path):
    settings = json.loads((checkpoint / "judge.json").read_text())
    stated = {**settings, "trained_on": {"seconds": [2, 3], "side": [32, 64]}}
    folder = shutil.copytree(checkpoint, tmp_path / "judge")
    (folder / "judge.json").write_text(json.dumps(stated))
    frames = noise(np.random.default_rng(1))
    write_mp4(tmp_path / "page.mp4", frames, 16)
    write_video(tmp_path / "large.mp4", frames.repeat(2, 1).repeat(2, 2), 16)
    shown, large = judge_of(folder).judge([tmp_path / "page.mp4", tmp_path / "large.mp4"])
    assert "sides" not in shown.domain_reason
    assert large.domain_reason.startswith("sides of 96 pixels; trained on 32 to 64 pixels")


NEW = {"out_of_domain", "domain_reason", "familiarity", "readouts_disagree"}


def test_a_judge_without_either_says_that_it_cannot_tell_once(checkpoint, tmp_path, caplog):
    class Server:
        name = "server"

        def generate(self, conversations, sampling):
            return [Completion('{"COT": "", "status": "normal", "anomalies": []}') for _ in conversations]

        def score(self, conversations, prefixes):
            return [VerdictScore(-0.1, -3.0) for _ in conversations]

        def describe(self):
            return {}

    caplog.set_level("INFO")
    judge = TwoTurnJudge(Server(), JudgeConfig())
    verdicts = judge.judge([np.zeros((9, 16, 16, 3), np.uint8)] * 20, fps=16)
    assert {v.out_of_domain for v in verdicts} == {None} and {v.readouts_disagree for v in verdicts} == {False}
    assert sum("cannot tell" in r.getMessage() for r in caplog.records) == 1


def test_statistics_of_another_checkpoint_never_keep_a_judge_from_judging(checkpoint, caplog):
    judge = judge_of(checkpoint)
    rng = np.random.default_rng(2)
    wide = [Signs(rng.normal(size=9).astype(np.float32), rng.normal(size=5).astype(np.float32)) for _ in range(90)]
    judge.backend.domain = fit_domain(wide[:60], wide[60:])
    (verdict,) = judge.judge([noise(rng)], fps=16)
    assert verdict.status and verdict.familiarity is None and verdict.out_of_domain is None
    assert "belongs to another checkpoint" in caplog.text


def test_a_damaged_file_is_warned_of_when_the_judge_loads(checkpoint, tmp_path, caplog):
    import shutil

    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / DOMAIN_FILE).write_bytes(b"no tensors")
    assert LocalBackend(folder, device="cpu").domain is None
    assert "cannot be read" in caplog.text and "cac-align data domain" in caplog.text


def test_any_part_of_a_long_video_counts():
    from reward_model.domain_check import domain_fields

    near, far = Familiarity(0.3, 0.2, False), Familiarity(0.1, 1.0, True, "its length is new")
    scans = [Turn(1, (k,), 4.0, "", "normal", familiarity=f) for k, f in enumerate((near, far, near))]
    assert domain_fields(scans) | {"readouts_disagree": None} == {
        "out_of_domain": True, "domain_reason": "its length is new", "familiarity": far, "readouts_disagree": None,
    }  # fmt: skip
    assert domain_fields(scans[::2])["out_of_domain"] is False
    # A part that could not be looked at leaves open what it would have said.
    assert domain_fields([scans[0], replace(scans[2], familiarity=None)])["out_of_domain"] is None
