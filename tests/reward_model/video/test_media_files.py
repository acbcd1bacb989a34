"""Files as people have them: read as a player shows them, or refused with their name, the rule and a remedy."""

from __future__ import annotations

import gc
import os
import shutil
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reward_model.video import container
from reward_model.video.clip import FileFrames, Video, VideoError, load_video, sample_indices
from reward_model.video.container import open_container, use_threads
from reward_model.video.reading import probe, read_facts
from tests.reward_model.video.clips import number, numbered, write


def shown(path: Path) -> tuple[np.ndarray, float]:
    """What the loader gives, after making sure that the header agrees with it."""
    video, header = load_video(path), probe(path)
    frames = np.asarray(video.frames)
    assert (header.num_frames, header.height, header.width) == frames.shape[:3] and header.fps == video.fps
    return frames, video.fps


@pytest.mark.parametrize(
    ("turn", "size", "white"),
    [
        ({"degrees": 0}, (32, 48), "upper left"),
        ({"degrees": 90}, (48, 32), "lower left"),  # counter-clockwise
        ({"degrees": 180}, (32, 48), "lower right"),
        ({"degrees": 270}, (48, 32), "upper right"),
        ({"degrees": 0, "hflip": True}, (32, 48), "upper right"),
        ({"degrees": 0, "vflip": True}, (32, 48), "lower left"),
        ({"degrees": 90, "hflip": True}, (48, 32), "lower right"),
    ],
)
def test_pictures_stand_upright(tmp_path, turn, size, white):
    frames, _ = shown(write(tmp_path / "a.mp4", numbered(4), turn=turn))
    assert frames.shape[1:3] == size
    rows, columns = (slice(0, 8) if word in ("upper", "left") else slice(-8, None) for word in white.split())
    assert frames[:, rows, columns].min() > 240
    assert (frames.mean((0, 3)) > 240).mean() == pytest.approx(0.25, abs=0.03)


def test_a_varying_rate_is_read_by_the_time_stamps(tmp_path):
    """30 frames a second for two seconds, then 6: a flash at 2.5 s is at 2.5 s, and a scan at 4 fps has no gaps."""
    times = [*range(60), *range(60, 120, 5)]
    dark = np.zeros((len(times), 32, 48, 3), np.uint8)
    dark[63] = 255  # shown from 2.5 s on
    path = write(tmp_path / "vfr.mp4", dark, 30, times=times, time_base=Fraction(1, 30), max_b_frames=0)
    frames, fps = shown(path)
    lit = np.flatnonzero(frames.mean((1, 2, 3)) > 200)
    assert fps == pytest.approx(30) and (lit[0] / fps, len(lit)) == (pytest.approx(2.5), 5)
    assert len(frames) == 116 and len(sample_indices(len(frames), fps, 4)) == 16


def test_a_start_that_is_not_zero_and_stamps_in_milliseconds_change_nothing(tmp_path):
    times = [5000 + round(k * 62.5) for k in range(20)]
    path = write(tmp_path / "late.mkv", numbered(20), 16, times=times, time_base=Fraction(1, 1000), max_b_frames=0)
    frames, fps = shown(path)
    assert number(frames) == list(range(20)) and fps == pytest.approx(16, rel=0.01)


def test_a_rate_that_nobody_believes_gives_way_to_the_time_stamps(tmp_path):
    path = tmp_path / "fast.mp4"
    write(path, numbered(20), 1000, times=range(0, 20 * 62, 62), time_base=Fraction(1, 1000), max_b_frames=0)
    assert shown(path)[1] == pytest.approx(1000 / 62, rel=0.01)
    write(path, numbered(20), 1000, max_b_frames=0)
    with pytest.raises(VideoError, match=r"states 1000 frames per second; expected .* at most 500.*ffmpeg -i"):
        load_video(path)
    assert load_video(path, fps=16).fps == 16 and probe(path).fps is None


def test_the_video_is_chosen_among_the_streams(tmp_path):
    still = np.full((64, 96, 3), 90, np.uint8)
    for name in ("a.mp4", "a.mkv"):
        frames, fps = shown(write(tmp_path / name, numbered(20), before=still))
        assert frames.shape == (20, 32, 48, 3) and fps == pytest.approx(16) and number(frames)[5] == 5


@pytest.mark.parametrize(
    "name",
    [
        "a sign: open-0.mp4", "clip:1.mp4", "http:x.mp4", "-i.mp4", "100%.mp4", "shot%03d.mp4", "one\ntwo.mp4",
        "日本 видео.mp4", "'\"$(x)`.mp4", "concat:a|b.mp4", "?*[a].mp4",
    ],
)  # fmt: skip
def test_no_name_is_an_address_an_option_or_a_pattern(tmp_path, monkeypatch, name):
    write(tmp_path / "plain.mp4", numbered(4))
    monkeypatch.chdir(tmp_path)
    Path("plain.mp4").rename(name)
    assert shown(Path(name))[0].shape[0] == 4 and load_video(name).num_frames == 4


def test_a_folder_named_like_an_address_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Path("http:") / "127.0.0.1:9"
    place.mkdir(parents=True)
    write(place / "x.mp4", numbered(4))
    assert load_video("http:/127.0.0.1:9/x.mp4").num_frames == 4


def test_a_name_that_is_not_utf8_can_be_read(tmp_path):
    name = os.fsdecode(os.fsencode(str(tmp_path)) + b"/caf\xe9.mp4")
    shutil.copy(write(tmp_path / "a.mp4", numbered(4)), name)
    assert load_video(name).num_frames == 4


def test_a_playlist_is_not_a_video(tmp_path):
    write(tmp_path / "part.ts", numbered(20))
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\npart.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "cat.mp4").write_text("ffconcat version 1.0\nfile part.ts\n")
    for name in ("list.mp4", "cat.mp4"):
        with pytest.raises(VideoError, match=name):
            load_video(tmp_path / name)


@pytest.mark.parametrize("suffix", ["webp", "png", "gif"])
def test_animated_pictures_are_videos(tmp_path, suffix):
    frames = numbered(12)
    pictures = [Image.fromarray(f) for f in frames]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"a.{suffix}"
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=60, loop=0, **options)
    found, fps = shown(path)
    assert fps == pytest.approx(1000 / 60, rel=0.04)
    assert np.abs(found.astype(int) - frames).max() <= (3 if suffix == "gif" else 0)
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(VideoError, match=f"a.{suffix}.*(breaks off|cannot decode)"):
        load_video(path)


@pytest.mark.parametrize("suffix", ["webp", "png", "jpg", "gif", "bmp"])
def test_a_still_picture_is_called_one(tmp_path, suffix):
    Image.fromarray(numbered(1)[0]).save(tmp_path / f"a.{suffix}")
    with pytest.raises(VideoError, match=r"is a still picture.*at least 2"):
        load_video(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("name", "codec", "container", "stated"),
    [
        ("a.mp4", "libx264", {"movflags": "+faststart"}, "80 frames"),
        ("a.mkv", "libx264", {}, "5.0. seconds"),
        pytest.param("a.webm", "libvpx", {}, "5.0. seconds", marks=pytest.mark.slow),
        ("a.avi", "mpeg4", {}, "80 frames"),
        ("a.flv", "flv1", {}, "5.0. seconds"),
    ],
)
def test_a_file_that_breaks_off_says_what_it_states_and_what_it_holds(tmp_path, name, codec, container, stated):
    noise = np.random.default_rng(0).integers(0, 256, (80, 32, 48, 3), dtype=np.uint8)
    path = write(tmp_path / name, noise, codec=codec, container=container, gop_size=8)
    assert shown(path)[0].shape[0] == 80
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for reader in (load_video, probe):
        with pytest.raises(VideoError, match=rf"{name}' breaks off: it states {stated} and holds [\d.]+ .*ffmpeg -i"):
            reader(path)


def test_what_an_edit_list_hides_is_not_there(tmp_path):
    """Two seconds, of which the list shows the last: as ``ffmpeg -ss 1 -c copy`` writes it."""
    path = write(tmp_path / "a.mp4", numbered(20), 10, max_b_frames=0, gop_size=20)
    data = path.read_bytes()
    place = data.index(b"elst")
    version, count = data[place + 4], struct.unpack(">I", data[place + 8 : place + 12])[0]
    assert (version, count) == (0, 1)
    media = struct.unpack(">I", data[data.index(b"mdhd") + 16 : data.index(b"mdhd") + 20])[0]
    movie = struct.unpack(">I", data[data.index(b"mvhd") + 16 : data.index(b"mvhd") + 20])[0]
    edit = struct.pack(">II", movie, media)  # one second, from the first second on
    path.write_bytes(data[: place + 12] + edit + data[place + 20 :])
    frames, fps = shown(path)
    assert number(frames) == list(range(10, 20)) and fps == pytest.approx(10)


def test_frames_before_the_first_key_frame_are_not_counted(tmp_path):
    path = write(tmp_path / "a.ts", numbered(20), max_b_frames=0, gop_size=8)
    data = path.read_bytes()
    cut = tmp_path / "cut.ts"
    for packets in range(4, 40):
        cut.write_bytes(data[: 188 * 3] + data[188 * packets :])  # tables, then the middle of a group of pictures
        if shown(cut)[0].shape[0] < 20:
            break
    assert number(shown(cut)[0])[0] == 8 and len(shown(cut)[0]) == 12


# --- no more than is looked at ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "codec", "settings"),
    [
        ("a.mp4", "libx264", {"gop_size": 6, "max_b_frames": 2}),
        pytest.param("a.mkv", "libx264", {"gop_size": 6, "max_b_frames": 2}, marks=pytest.mark.slow),
        ("a.ts", "libx264", {"gop_size": 6}),
        pytest.param("a.avi", "mpeg4", {"gop_size": 6, "max_b_frames": 2}, marks=pytest.mark.slow),
        pytest.param("a.webm", "libvpx", {"gop_size": 6}, marks=pytest.mark.slow),
        pytest.param("a.mov", "mjpeg", {"pix_fmt": "yuvj420p"}, marks=pytest.mark.slow),
        ("turned.mp4", "libx264", {"turn": {"degrees": 90}}),
    ],
)
def test_frames_of_a_large_file_are_those_of_a_small_one(tmp_path, monkeypatch, name, codec, settings):
    path = write(tmp_path / name, numbered(40), codec=codec, **settings)
    whole = load_video(path)
    assert isinstance(whole.frames, np.ndarray)
    monkeypatch.setattr("reward_model.video.reading.KEEP_BYTES", 0)
    monkeypatch.setattr("reward_model.video.clip.NEAR", 2)
    large = load_video(path)
    assert isinstance(large.frames, FileFrames) and large.frames.shape == whole.frames.shape
    rng = np.random.default_rng(0)
    for count in (1, 2, 5, 9):
        picked = rng.integers(0, 40, count).tolist()
        assert np.array_equal(large.take(picked), whole.frames[picked])
    size = large.take([3, 30], (8, 8))
    assert np.array_equal(size, Video(whole.frames, 16).take([3, 30], (8, 8))) and size.shape == (2, 8, 8, 3)
    frames = large.frames
    assert np.array_equal(frames[-3], whole.frames[-3]) and np.array_equal(frames[4:9, 2:4], whole.frames[4:9, 2:4])
    assert np.array_equal(np.stack(list(frames)), whole.frames) and np.array_equal(frames[..., 0], whole.frames[..., 0])
    assert np.array_equal(load_video(large, fps=8).frames.mean((1, 2, 3)), whole.frames.mean((1, 2, 3)))
    with pytest.raises(IndexError):
        large.take([40])


def test_only_what_is_looked_at_is_decoded_to_pictures(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", numbered(40), gop_size=10, max_b_frames=0)
    monkeypatch.setattr("reward_model.video.reading.KEEP_BYTES", 0)
    made = []
    upright = container.check_size
    monkeypatch.setattr("reward_model.video.reading.check_size", lambda *a: made.append(a) or upright(*a))
    video = load_video(path)
    assert video.num_frames == 40 and number(video.take([0, 10, 20])) == [0, 10, 0] and len(made) == 3


def test_more_memory_than_is_allowed_is_refused_before_it_is_taken(tmp_path, monkeypatch):
    path = write(tmp_path / "a.mp4", numbered(40))
    monkeypatch.setenv(container.LIMIT_VARIABLE, str(20 * 32 * 48 * 3 / 2**30))
    with pytest.raises(VideoError, match=r"40 frames of 48x32 .*GiB; expected at most.*ffmpeg -i.*CAC_VIDEO_GIB"):
        load_video(path)
    monkeypatch.setattr("reward_model.video.reading.KEEP_BYTES", 0)
    assert load_video(path).take(range(0, 40, 2)).shape[0] == 20
    monkeypatch.setenv(container.LIMIT_VARIABLE, "much")
    with pytest.raises(VideoError, match="is not a number of GiB"):
        load_video(path).take([0])


def test_a_bomb_of_a_few_kilobytes_is_refused(tmp_path):
    side = 16_000
    data = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
    for k in range(50):
        data += b"\x21\xf9\x04\x04" + struct.pack("<H", 5) + b"\0\0"
        data += b"\x2c" + struct.pack("<HHHHB", k, 0, 1, 1, 0) + bytes([2, 2, 0x44, 1, 0])
    (tmp_path / "bomb.gif").write_bytes(data + b";")
    with pytest.raises(VideoError, match=r"bomb.gif"):
        load_video(tmp_path / "bomb.gif")


def test_running_out_of_memory_names_the_file(tmp_path, monkeypatch):
    def full(*_):
        raise MemoryError

    path = write(tmp_path / "a.mp4", numbered(4))
    monkeypatch.setattr("reward_model.video.container.np.empty", full)
    with pytest.raises(VideoError, match=r"memory ran out while .*a.mp4"):
        load_video(path)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads the way Linux shows them")
@pytest.mark.parametrize("turn", [None, {"degrees": 90}])
def test_a_video_that_was_read_leaves_no_threads_behind(tmp_path, turn):
    """Converters of frames that refer to themselves, and their threads, would wait for the garbage collector."""
    path = write(tmp_path / "a.mp4", numbered(12), turn=turn)
    load_video(path)
    gc.collect()
    gc.disable()
    try:
        before = len(list(Path("/proc/self/task").iterdir()))
        for _ in range(4):
            load_video(path)
        assert len(list(Path("/proc/self/task").iterdir())) <= before
    finally:
        gc.enable()


def test_large_pictures_are_decoded_by_few_threads(tmp_path):
    """Each thread holds pictures of its own: sixteen of them, of 8192 x 8192, gigabytes."""
    for side, counts in ((480, (0,)), (4096, range(1, 6))):  # 0: FFmpeg decides
        path = write(
            tmp_path / f"{side}.avi", np.zeros((1, side, side, 3), np.uint8), codec="mjpeg", pix_fmt="yuvj420p"
        )
        with open_container(path) as container:
            context = container.streams.video[0].codec_context
            use_threads(context)
            assert context.thread_count in counts


# --- what is not a video file -----------------------------------------------------------------------------------------


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "dead.mp4").symlink_to(tmp_path / "nothing.mp4")
    for name, reason in (("pipe.mp4", "a pipe"), ("folder.mp4", "a folder"), ("loop.mp4", "links"), ("dead.mp4", "")):
        with pytest.raises(VideoError, match=f"no video file at .*{name}.*{reason}"):
            load_video(tmp_path / name)
    with pytest.raises(VideoError, match="no video file"):
        load_video("a\0b.mp4")
    with pytest.raises(VideoError, match="no video file"):
        load_video("x" * 5000)


def test_an_unknown_codec_is_a_fault_of_the_file(tmp_path):
    path = write(tmp_path / "a.avi", numbered(4), codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"QQQQ"))
    for reader in (load_video, probe):
        with pytest.raises(VideoError, match=r"a.avi.*codec.*ffmpeg -i"):
            reader(path)


def test_a_size_that_changes_midway_is_named(tmp_path):
    small, large = (write(tmp_path / f"{n}.ts", numbered(6, n, 48), max_b_frames=0) for n in (32, 64))
    both = tmp_path / "both.ts"
    both.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(VideoError, match=r"both.ts"):
        load_video(both)


def animation(suffix: str, count: int, side: int) -> bytes:
    """An animated file whose pictures after the first change one pixel each; those of WebP have no content."""
    if suffix == "gif":
        data = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
        for k in range(count):
            data += b"\x21\xf9\x04\x04" + struct.pack("<H", 5) + b"\0\0"
            data += b"\x2c" + struct.pack("<HHHHB", k, 0, 1, 1, 0) + bytes([2, 2, 0x44, 1, 0])
        return data + b";"
    if suffix == "webp":
        size = (side - 1).to_bytes(3, "little")
        chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + size + size
        frame = bytes(12) + (50).to_bytes(3, "little") + b"\0"
        chunks += count * (b"ANMF" + struct.pack("<I", len(frame)) + frame)
        return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    row = zlib.compress(bytes((1 + side) * side), 1)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    data += chunk(b"acTL", struct.pack(">II", count, 0))
    data += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, side, side, 0, 0, 5, 100, 0, 0)) + chunk(b"IDAT", row)
    for k in range(1, count):
        data += chunk(b"fcTL", struct.pack(">IIIIIHHBB", 2 * k - 1, 1, 1, k, 0, 5, 100, 0, 0))
        data += chunk(b"fdAT", struct.pack(">I", 2 * k) + zlib.compress(bytes(2)))
    return data + chunk(b"IEND", b"")


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animated_files_have_a_limit_on_all_pixels_together(tmp_path, suffix):
    path = tmp_path / f"long.{suffix}"
    side = 2048
    most = container.MAX_ANIMATED_PIXELS // side**2
    path.write_bytes(animation(suffix, most + 1, side))
    words = (
        rf"long\.{suffix}' animates {most + 1} pictures of 2048x2048, 4,299,161,600 pixels; expected at most 4,294,967"
    )
    for read in (probe, load_video):
        with pytest.raises(VideoError, match=words + ".*Shrink or shorten it"):
            read(path)
    path.write_bytes(animation(suffix, most, side))
    assert probe(path).num_frames == most


@pytest.mark.parametrize(
    ("aspect", "turn", "size"),
    [
        (Fraction(16, 11), None, (32, 70)),
        (Fraction(2), None, (32, 96)),
        (Fraction(1, 2), None, (32, 24)),
        (Fraction(3, 2), {"degrees": 90}, (72, 32)),
        (Fraction(3, 2), {"degrees": 180}, (32, 72)),
    ],
)
def test_pixels_that_are_not_square_are_shown_as_players_show_them(tmp_path, monkeypatch, aspect, turn, size):
    path = write(tmp_path / "a.mp4", numbered(6), turn=turn, sample_aspect_ratio=aspect)
    frames, _ = shown(path)
    assert frames.shape[1:3] == size
    assert (frames.mean((0, 3)) > 240).mean() == pytest.approx(0.25, abs=0.06)  # a quarter is white, however wide
    assert probe(path).stored_size == ((32, 48) if turn == {"degrees": 90} else (48, 32))
    monkeypatch.setattr("reward_model.video.reading.KEEP_BYTES", 0)
    again = load_video(path)
    assert isinstance(again.frames, FileFrames) and np.array_equal(again.take(range(6)), frames)


@pytest.mark.parametrize("aspect", [Fraction(0), Fraction(1), Fraction(1280, 1281), Fraction(100), Fraction(1, 100)])
def test_square_and_unbelievable_pixels_leave_every_byte_as_it_was(tmp_path, aspect):
    plain, _ = shown(write(tmp_path / "plain.mp4", numbered(6)))
    path = write(tmp_path / "a.mp4", numbered(6), sample_aspect_ratio=aspect)
    assert np.array_equal(shown(path)[0], plain) and read_facts(path).as_stored
    assert probe(path).stored_size is None


def test_a_size_that_changes_midway_is_named_where_pixels_are_not_square(tmp_path):
    halves = [
        write(tmp_path / f"{side}.ts", numbered(4, side, side), sample_aspect_ratio=Fraction(2)).read_bytes()
        for side in (32, 48)
    ]
    (tmp_path / "both.ts").write_bytes(b"".join(halves))
    with pytest.raises(VideoError, match=r"changes its picture size midway, from 64x32 to 96x48"):
        np.asarray(load_video(tmp_path / "both.ts").frames)
