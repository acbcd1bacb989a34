"""The file of pairs: read back as it was written, and refused where it cannot be trained on."""

import json

import numpy as np
import pytest

from cac_align.preference.config import PreferenceConfig
from cac_align.preference.pair_term import pair_weights
from cac_align.preference.trainer import pairs_of
from cac_align.preference.training_pairs import read_training_pairs, run_findings
from reward_model.schema import AnomalyType, Box, FrameRange
from reward_model.video.writing import write_video
from tests.cac_align.flow_grpo.runs import PROMPTS
from tests.cac_align.preference.pairs import settings, video, write


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    return write(tmp_path_factory.mktemp("pairs"))


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def changed(listed, tmp_path, **changes):
    """The same pairs, the second of which has other values; None leaves a column out."""
    rows = rows_of(listed)
    for row in rows:
        row |= {side: str((listed.parent / row[side]).resolve()) for side in ("chosen", "rejected")}
    rows[1] = {name: value for name, value in (rows[1] | changes).items() if value is not None}
    (tmp_path / "changed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "changed.jsonl"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_what_was_written_is_read_back(tmp_path, suffix):
    pairs = read_training_pairs(str(write(tmp_path, name=f"pairs{suffix}")))
    assert [pair.prompt for pair in pairs] == PROMPTS[:3]
    assert [pair.chosen.name for pair in pairs] == [f"chosen-{k}.mp4" for k in range(3)]
    assert [pair.rejected.name for pair in pairs] == [f"rejected-{k}.mp4" for k in range(3)]
    for pair in pairs:
        [found] = pair.findings[1]
        assert pair.findings[0] == () and pair.num_frames == (5, 5)
        assert (found.type, found.frames, found.boxes) == (
            AnomalyType.OBJECT,
            FrameRange(1, 4),
            {2: (Box(0, 0, 500, 1000),)},
        )


def test_winners_are_read_once_from_either_format(listed, tmp_path):
    rows = rows_of(listed)
    twice = [*rows, rows[0] | {"rejected": rows[1]["rejected"]}]
    (listed.parent / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in twice))
    from_pairs = read_training_pairs(str(listed.parent / "twice.jsonl"), winners=True)
    alone = read_training_pairs(str(write(tmp_path, form="winners")), winners=True)
    names = [f"chosen-{k}.mp4" for k in range(3)]
    assert [p.chosen.name for p in from_pairs] == [p.chosen.name for p in alone] == names
    assert all(p.rejected is None for p in (*from_pairs, *alone))


def test_cells_that_differ_are_weighed_by_the_frames_of_the_run(tmp_path):
    """At half the rate, frames 1 to 4 are 0 to 2 of the run."""
    listed = write(tmp_path)
    config = settings(tmp_path, listed, localised=True, localised_floor=0.0)
    for weights in pair_weights(read_training_pairs(str(listed)), config, 8):
        assert weights.tolist() == [[[0, 0], [0, 0]], [[4, 0], [4, 0]]]
    half = settings(tmp_path, listed, num_frames=1, fps=8.0)
    for path in (tmp_path / "videos").iterdir():
        write_video(path, video(True, frames=9), 16)
    longer = settings(tmp_path, listed, num_frames=5, fps=8.0)
    pair = read_training_pairs(str(listed))[0]
    assert run_findings(pair, half) == ([], [])
    [found] = run_findings(pair, longer)[1]
    assert found.frames == FrameRange(1, 2) and found.boxes == {1: (Box(0, 0, 500, 1000),)}


def test_localisation_without_a_finding_is_refused(listed, tmp_path):
    path = changed(listed, tmp_path)
    rows = [row | {"rejected_anomalies": [], "rejected_boxes": []} for row in rows_of(path)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"localised=True finds nothing in pairs=.*set localised: false"):
        pair_weights(read_training_pairs(str(path)), settings(tmp_path, path, localised=True), 8)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"chosen": None}, r"row 2: chosen=None must be a text; write pairs with cac-align pairs --format preference"),
        ({"rejected": None}, r"row 2: rejected=None must be a text"),
        ({"prompt": " "}, r"row 2: prompt=' ' must be a text"),
        ({"chosen": "gone.mp4"}, r"row 2: there is no video '.*gone.mp4' \(chosen\); fix the path"),
        ({"rejected_anomalies": [{"type": "Nothing", "first_frame": 0, "last_frame": 1}]}, "row 2: what was found in"),
        ({"rejected_num_frames": 9}, "was judged with 9 frames and has 5; make the pairs again"),
    ],
)
def test_a_row_that_is_not_a_pair_is_named(listed, tmp_path, changes, said):
    path = changed(listed, tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"pairs='.*changed.jsonl': .*{said}"):
        pairs_of(settings(tmp_path, path))


def test_a_video_is_not_better_than_itself(listed, tmp_path):
    row = rows_of(changed(listed, tmp_path))[1]
    with pytest.raises(ValueError, match="row 2: chosen and rejected are one video"):
        pairs_of(settings(tmp_path, changed(listed, tmp_path, rejected=row["chosen"])))


def test_a_file_without_pairs_is_refused(listed, tmp_path):
    with pytest.raises(ValueError, match=r"no file at that path; make one: cac-align pairs FOLDER_OF_BEST_OF_N"):
        pairs_of(settings(tmp_path, tmp_path / "gone.jsonl"))
    with pytest.raises(ValueError, match=r"not a table \(.parquet, .jsonl, .csv\)"):
        pairs_of(settings(tmp_path, tmp_path))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ValueError, match="the file holds no pair; make one"):
        pairs_of(settings(tmp_path, tmp_path / "empty.jsonl"))
    for form in ("labelled", "winners"):
        path = write(tmp_path, name=f"{form}.jsonl", form=form)
        with pytest.raises(ValueError, match=f"the file has the format '{form}'; write pairs with"):
            pairs_of(settings(tmp_path, path))
    with pytest.raises(ValueError, match=r"eval_pairs=.*: 6 videos are trained on as well"):
        pairs_of(settings(tmp_path, listed, eval_pairs=str(listed)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"num_frames": 9}, "lasts 0.31 s, shorter than the 9 frames at 16 fps of the run; set num_frames"),
        ({"fps": 24.0}, "has 16 frames a second, fewer than the 24 of the run"),
        ({"num_frames": 1}, "lasts 0.31 s, longer than the 1 frames at 16 fps of the run, and was judged as a whole"),
        ({"width": 32}, "has 16x16 pixels, which 16x32 would cut off, and was judged as a whole; set height and"),
    ],
)
def test_videos_of_another_form_are_refused(listed, tmp_path, changes, said):
    with pytest.raises(ValueError, match=rf"pairs=.*: .*{said}.*; and 5 more"):
        pairs_of(settings(tmp_path, listed, **changes))


def test_winners_may_be_longer_and_videos_larger(listed, tmp_path):
    assert len(pairs_of(settings(tmp_path, listed, objective="sft", num_frames=1))[0]) == 3
    for side in ("chosen", "rejected"):
        write_video(tmp_path / f"{side}.mp4", np.repeat(np.repeat(video(True), 4, 1), 4, 2), 16)
    row = {"prompt": "a ball", "chosen": "chosen.mp4", "rejected": "rejected.mp4"}
    (tmp_path / "large.jsonl").write_text(json.dumps(row))
    assert len(pairs_of(settings(tmp_path, tmp_path / "large.jsonl"))[0]) == 1


def test_a_file_that_is_not_a_video_is_named(listed, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r"broken\.mp4"):
        pairs_of(settings(tmp_path, changed(listed, tmp_path, chosen=str(tmp_path / "broken.mp4"))))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": "ppo"}, "objective='ppo' must be one of 'dpo', 'sft'"),
        ({"beta": 0}, "beta=0.0 must be a finite number above 0"),
        ({"objective": "sft", "beta": 5}, "beta=5.0 does not fit objective 'sft'"),
        ({"objective": "sft", "localised": True}, "localised=True does not fit objective 'sft'"),
        ({"localised_floor": 0.5}, "localised_floor=0.5 does not fit localised False"),
        ({"height": 20}, "5 frames of 20x16 do not fit Wan"),
        ({"btea": 5}, "unknown setting 'btea'.*beta"),
        ({"rewards": ["cac"]}, "unknown setting 'rewards'"),
    ],
)
def test_settings_that_cannot_work_are_refused(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        settings(tmp_path, tmp_path, **changes)


def test_names_of_trl_are_understood():
    config = PreferenceConfig.from_dict({"model_name_or_path": "m", "bf16": True, "per_device_train_batch_size": 3})
    assert (config.model, config.mixed_precision, config.train_batch_size) == ("m", "bf16", 3)
