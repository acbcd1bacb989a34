"""Hundreds of odd and broken files: each gives frames or a VideoError, soon, and within little memory."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.reward_model.video.clips import numbered, write

ROOT = Path(__file__).parents[3]
#: Address space of the process that reads them all, and what it may really use.
SPACE_BYTES, PEAK_BYTES = 3 * 2**30, 3 * 2**29
#: For one file, read four times, on a busy machine.
SECONDS = 60

#: Name: codec, pixel format, further arguments of ``write``.
KINDS: dict[str, tuple[str, str, dict[str, object]]] = {
    "h264.mp4": ("libx264", "yuv420p", {"gop_size": 6}),
    "front.mp4": ("libx264", "yuv420p", {"container": {"movflags": "+faststart"}}),
    "pieces.mp4": ("libx264", "yuv420p", {"container": {"movflags": "+frag_keyframe+empty_moov"}, "gop_size": 6}),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {"max_b_frames": 2}),
    "mjpeg.mov": ("mjpeg", "yuvj420p", {}),
    "png.mov": ("png", "rgb24", {}),
    "h264.mkv": ("libx264", "yuv420p", {"gop_size": 6}),
    "ffv1.mkv": ("ffv1", "yuv420p", {}),
    "vp8.webm": ("libvpx", "yuv420p", {}),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {}),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"max_b_frames": 2}),
    "huff.avi": ("huffyuv", "rgb24", {}),
    "raw.avi": ("rawvideo", "bgr24", {}),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"fps": 25}),
    "h264.ts": ("libx264", "yuv420p", {"gop_size": 6}),
    "flv1.flv": ("flv1", "yuv420p", {}),
    "wmv2.asf": ("wmv2", "yuv420p", {}),
    "mpeg4.nut": ("mpeg4", "yuv420p", {}),
    "raw.y4m": ("wrapped_avframe", "yuv420p", {}),
    "vp8.ivf": ("libvpx", "yuv420p", {}),
    "bare.h264": ("libx264", "yuv420p", {}),
}


def whole_files(folder: Path) -> list[Path]:
    """One sound file of each kind."""
    noise = np.random.default_rng(0).integers(0, 60, (24, 32, 48, 3), dtype=np.uint8)
    frames = numbered(24) // 2 + noise
    made = []
    for name, (codec, form, more) in KINDS.items():
        made.append(write(folder / name, frames, codec=codec, pix_fmt=form, **{"fps": 16, **more}))  # type: ignore[arg-type]
    pictures = [Image.fromarray(f) for f in frames]
    for name in ("a.gif", "a.png", "a.webp"):
        pictures[0].save(folder / name, save_all=True, append_images=pictures[1:], duration=60, loop=0)
        made.append(folder / name)
    return made


def broken(data: bytes, rng: np.random.Generator) -> Iterator[tuple[str, bytes]]:
    """What happens to files on their way."""
    size = len(data)
    for part in (0.02, 0.3, 0.6, 0.9):
        yield f"cut-{part}", data[: int(size * part)]
    yield "cut-last-byte", data[:-1]
    for name, count, end in (("head", 4, min(400, size)), ("few", 5, size), ("many", size // 50, size)):
        flipped = bytearray(data)
        for place in rng.integers(0, end, count):
            flipped[place] = int(rng.integers(256))
        yield f"flip-{name}", bytes(flipped)
    yield "hole", data[: size // 3] + bytes(size // 4) + data[size // 3 + size // 4 :]
    yield "gap", data[: size // 3] + data[size // 2 :]
    yield "tail", data + rng.bytes(200)


def odd_files(folder: Path) -> Iterator[Path]:
    """Sound or senseless files that no damage explains."""
    for height, width in ((2, 2), (2, 1000), (1000, 2), (34, 46), (16, 4096)):
        yield write(folder / f"{height}x{width}.mp4", numbered(3, height, width))
    for height, width in ((1, 1), (33, 47), (3, 999)):
        yield write(folder / f"{height}x{width}.avi", numbered(3, height, width), codec="rawvideo", pix_fmt="bgr24")
    for rate in (Fraction(1, 100), Fraction(1, 3), Fraction(24000, 1001), 120, 500, 1000, 90000):
        yield write(folder / f"rate-{float(rate):g}.mp4", numbered(6), rate)
        yield write(folder / f"rate-{float(rate):g}.mkv", numbered(6), rate)
    base = Fraction(1, 1000)
    moments = {
        "uneven": np.cumsum(np.random.default_rng(1).integers(1, 400, 24)),
        "burst": [*range(20), 100_000],
        "years": [0, 40, 80, 2**40],
        "before": range(-500, 500, 50),
        "late": range(10**9, 10**9 + 500, 40),
    }
    for name, times in moments.items():
        for suffix in ("mp4", "mkv"):
            stamps = [int(t) for t in times]
            yield write(
                folder / f"{name}.{suffix}", numbered(len(stamps)), 30, times=stamps, time_base=base, max_b_frames=0
            )
    for degrees in (-90, 33, 90, 180):
        yield write(folder / f"turn{degrees}.mov", numbered(4), turn={"degrees": degrees})
    for count in (1, 2):
        for name, codec in (("mp4", "libx264"), ("avi", "mpeg4"), ("webm", "libvpx")):
            yield write(folder / f"{count}.{name}", numbered(count), codec=codec)
    for name, content in contents():
        (folder / name).write_bytes(content)
        yield folder / name
    with (folder / "zeros.mp4").open("wb") as file:  # takes no space on the disk
        file.truncate(3 * 2**30)
    yield folder / "zeros.mp4"


def contents() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(2)
    yield "empty.mp4", b""
    yield "one.mp4", b"\0"
    for suffix in ("mp4", "mkv", "avi", "ts", "gif", "webp", "h264", "y4m"):
        yield f"noise.{suffix}", rng.bytes(50_000)
        yield f"text.{suffix}", b"<!doctype html><html><body>404 Not Found</body></html>\n" * 20
    for name, magic in {
        "mkv": b"\x1aE\xdf\xa3", "gif": b"GIF89a", "webp": b"RIFF\xff\xff\xff\xffWEBPVP8X", "flv": b"FLV\x01\x01",
        "avi": b"RIFF\xff\xff\xff\xffAVI LIST", "mpg": b"\0\0\x01\xba", "png": b"\x89PNG\r\n\x1a\n", "ogv": b"OggS",
        "mp4": b"\0\0\0\x20ftypisom", "ivf": b"DKIF\0\0\x20\0VP80", "zip": b"PK\x03\x04", "jpg": b"\xff\xd8\xff\xe0",
    }.items():  # fmt: skip
        yield f"head-alone.{name}", magic
        yield f"head-and-noise.{name}", magic + rng.bytes(5000)
    yield "list.m3u8", b"#EXTM3U\n#EXTINF:2,\n/etc/passwd\n#EXT-X-ENDLIST\n"
    yield "list.mp4", b"ffconcat version 1.0\nfile /etc/passwd\n"
    yield "talk.sdp", b"v=0\no=- 0 0 IN IP4 127.0.0.1\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n"
    yield "page.svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect width="9" height="9"/></svg>'
    # A few bytes that ask for much memory or time.
    for side in (8000, 65535):
        head = b"GIF89a" + struct.pack("<HHBBB", side, side, 0x80, 0, 0) + bytes([0, 0, 0, 255, 255, 255])
        picture = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + bytes([2, 2, 0x44, 1, 0])
        yield f"bomb-{side}.gif", head + (b"\x21\xf9\x04\x04\5\0\0\0" + picture) * 12 + b";"
        yield f"bomb-{side}.png", _animated_png(side)
        yield f"bomb-{side}.y4m", f"YUV4MPEG2 W{side} H{side} F16:1 C420\n".encode() + b"FRAME\n" * 5000
        yield f"bomb-{side}.bmp", b"BM" + struct.pack("<IIIIiiHHII", 99, 0, 54, 40, side, side, 1, 24, 0, 0) + bytes(99)
    canvas = struct.pack("<I", 16382)[:3] * 2
    block = b"ANMF" + struct.pack("<I", 16) + bytes(16)
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + canvas + b"ANIM\6\0\0\0" + bytes(6) + block * 1000
    yield "bomb.webp", b"RIFF" + struct.pack("<I", len(body)) + body
    out = io.BytesIO()
    Image.new("RGB", (8000, 8000)).save(out, "JPEG", quality=1)
    yield "bomb.mjpeg", out.getvalue() * 12


def _animated_png(side: int) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    control = [struct.pack(">IIIIIHHBB", k, side, side, 0, 0, 1, 16, 0, 0) for k in range(3)]
    rows = zlib.compress(bytes(2**20), 9)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        + chunk(b"acTL", struct.pack(">II", 3, 0))
        + chunk(b"fcTL", control[0]) + chunk(b"IDAT", rows) + chunk(b"fcTL", control[1])
        + chunk(b"fdAT", struct.pack(">I", 2) + rows) + chunk(b"IEND", b"")
    )  # fmt: skip


def all_files(folder: Path) -> list[Path]:
    for name in ("whole", "broken", "odd"):
        (folder / name).mkdir()
    whole = whole_files(folder / "whole")
    rng = np.random.default_rng(3)
    for path in whole:
        data = path.read_bytes()
        for name, content in broken(data, rng):
            (folder / "broken" / f"{name}-{path.name}").write_bytes(content)
        for suffix in (".gif", ".mp4"):
            (folder / "broken" / f"{path.name}{suffix}").write_bytes(data)
    return [*whole, *sorted((folder / "broken").iterdir()), *odd_files(folder / "odd")]


def read_all() -> None:
    """The other process: reads the files named on its standard input; one line before each and one after."""
    from reward_model.video import reading
    from reward_model.video.clip import VideoError, load_video
    from reward_model.video.reading import probe

    resource.setrlimit(resource.RLIMIT_AS, (SPACE_BYTES, SPACE_BYTES))
    kept = reading.KEEP_BYTES
    for line in sys.stdin:
        path = Path(json.loads(line))
        found: dict[str, object] = {}
        began = time.monotonic()
        for name, keep, fps in (("probe", kept, None), ("kept", kept, 16), ("looked at", 0, 16), ("rate", kept, None)):
            signal.alarm(SECONDS)  # nobody catches it: the process ends, also inside a decoder
            reading.KEEP_BYTES = keep
            try:
                if name == "probe":
                    header = probe(path)
                    found[name] = [header.num_frames, header.height, header.width]
                    continue
                video = load_video(path, fps)
                picked = [0, video.num_frames // 2, video.num_frames - 1]
                assert video.take(picked, (16, 16)).shape == (3, 16, 16, 3)
                taken = video.take(picked)
                found[name] = [video.num_frames, *taken.shape[1:3], zlib.crc32(np.ascontiguousarray(taken))]
                del video, taken
            except VideoError as error:
                found[name] = str(error)
            except BaseException as error:
                found[name] = {"wrong": f"{type(error).__name__}: {error}"}
        signal.alarm(0)
        # Not ru_maxrss, which begins with what the parent of the process held.
        peak = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
        print(json.dumps({"file": str(path), "s": time.monotonic() - began, "peak": peak, "found": found}), flush=True)


@pytest.mark.slow
def test_every_file_gives_frames_or_a_video_error(tmp_path):
    files = all_files(tmp_path)
    assert len(files) > 350
    program = "from tests.reward_model.video.test_media_campaign import read_all; read_all()"
    places = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="".join(json.dumps(str(f)) + "\n" for f in files),
        capture_output=True, text=True, check=False, timeout=1800,
        env={**os.environ, "PYTHONPATH": places, "MALLOC_ARENA_MAX": "2"},
    )  # fmt: skip
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    stopped = files[len(rows)].name if len(rows) < len(files) else None
    assert (stopped, done.returncode) == (None, 0), done.stderr[-2000:]
    wrong = {Path(r["file"]).name: r["found"] for r in rows if any(isinstance(v, dict) for v in r["found"].values())}
    assert not wrong
    for row in rows:
        kept, looked = row["found"]["kept"], row["found"]["looked at"]
        assert kept == looked or {type(kept), type(looked)} == {str}, row  # the two ways of reading agree
    for row in rows[: len(KINDS) + 3]:
        assert row["found"]["kept"][:3] == row["found"]["probe"] == [24, 32, 48], row
    outcome = Counter(type(r["found"]["kept"]).__name__ for r in rows)
    worst = max(rows, key=lambda r: r["s"])
    print(
        f"{len(files)} files: {outcome['list']} give frames, {outcome['str']} a VideoError; at most {worst['s']:.1f} s"
    )
    print(f"({Path(worst['file']).name}) and {rows[-1]['peak'] / 2**20:.0f} MiB")
    assert min(outcome.values()) > 80 and rows[-1]["peak"] < PEAK_BYTES
