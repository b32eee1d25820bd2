"""batch on a real Ray cluster of two workers: everything once, nothing lost, whoever is killed."""

from __future__ import annotations

import importlib.util
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
from passionsr_trt.runtime.apps.batch.cluster import PoolWorker, Rounds
from passionsr_trt.runtime.apps.batch.inputs import Item
from passionsr_trt.runtime.apps.batch.worker import Settings
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import DEMO, Built

# Ray itself is imported behind the fixture: it reads its token's variables once
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs Ray (extra [batch])")
pytestmark = [pytest.mark.slow, needs_ray]
CLUSTER = """
import logging, sys, ray
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.CRITICAL,
         object_store_memory=80 << 20)
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[str, int]]:
    """Address and process of a cluster of this machine alone, which takes this token only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
        words = [sys.executable, "-c", CLUSTER]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(words, **pipes, text=True) as process:
            assert process.stdout is not None and process.stdin is not None
            yield process.stdout.readline().strip(), process.pid
            process.stdin.close()


@pytest.fixture
def address(cluster: tuple[str, int]) -> str:
    return cluster[0]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """48 small pictures in two folders."""
    with Image.open(DEMO / "photos" / "lr" / "chelsea.png") as photo:
        for number in range(48):
            path = tmp_path / "in" / str(number % 2) / f"{number:02}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            photo.convert("RGB").crop((number, 0, number + 48, 48)).save(path)
    return tmp_path / "in"


def words(
    source: Path | str, output: Path | str, engines: Path, address: str, *more: str, workers: int = 2
) -> list[str]:
    where = ["batch", str(source), str(output), "--engines", str(engines), "--address", address]
    return [*where, "--workers", str(workers), "--threads", "1", "--group", "4", *more]


def begun(arguments: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "passionsr_trt.runtime.main", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_some(output: Path, job: subprocess.Popen[str]) -> None:
    """Until pictures of a first group are noted as done, while the job goes on."""
    while job.poll() is None:
        if list(output.rglob("done-*.jsonl")):
            return
        time.sleep(0.02)
    raise AssertionError(f"nothing done: {job.communicate()}")


def workers(cluster: tuple[str, int]) -> list[psutil.Process]:
    """Ray's names are the processes' titles."""
    found = []
    for process in psutil.Process(cluster[1]).children(recursive=True):
        with suppress(psutil.Error):
            if "ray::" in (title := " ".join(process.cmdline())) and "PoolWorker" in title:
                found.append(process)
    return found


def all_there(source: Path, output: Path) -> None:
    made = {path.relative_to(output) for path in output.rglob("*.png")}
    assert made == {path.relative_to(source) for path in source.rglob("*.png")}
    for path in made:
        with Image.open(output / path) as image:
            image.load()
    assert not [path for path in output.rglob(".passionsr-*") if path.name != ".passionsr-batch"]


def test_everything_once_and_failures_apart(
    address: str, source: Path, small: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    for number in range(3):
        (source / f"broken{number}.png").write_bytes(b"\x89PNG")
    odd = os.fsdecode(os.fsencode(source / "0") + b"/\xff\n.png")  # a name that is not UTF-8
    shutil.copy(source / "0" / "00.png", odd)
    assert main(words(source, output, small.engines_int8, address)) == 1
    captured = capfd.readouterr()
    assert "49 images written" in captured.out and "Traceback" not in captured.err and "raylet" not in captured.out
    failed = [json.loads(line) for line in (output / "failed.jsonl").read_text().splitlines()]
    assert sorted(Path(line["source"]).name for line in failed) == ["broken0.png", "broken1.png", "broken2.png"]
    assert all("\n" not in line["reason"] and "broken" in line["reason"] for line in failed)
    alone = [
        "infer",
        str(source / "0" / "10.png"),
        "-o",
        str(tmp_path / "one"),
        "--engines",
        str(small.engines_int8),
    ]
    assert main([*alone, "--threads", "1"]) == 0
    assert (output / "0" / "10.png").read_bytes() == (tmp_path / "one" / "10.png").read_bytes()
    for path in source.glob("broken*"):
        path.unlink()
    Path(odd).unlink()
    next((output / "0").glob("*\n*")).unlink()
    all_there(source, output)

    assert main(words(source, output, small.engines_int8, "nowhere:1")) == 0, "nothing to do needs no cluster"
    assert "no image written, " in capfd.readouterr().out and not (output / "failed.jsonl").exists()
    os.utime(source / "0" / "00.png")  # the same content
    shutil.copy(source / "1" / "01.png", source / "1" / "03.png")  # another
    os.truncate(output / "1" / "05.png", 100)
    (output / "1" / "07.png").unlink()
    kept = (output / "0" / "00.png").stat().st_mtime_ns
    assert main(words(source, output, small.engines_int8, address)) == 0
    assert "3 images written" in capfd.readouterr().out and kept == (output / "0" / "00.png").stat().st_mtime_ns
    assert (output / "1" / "01.png").read_bytes() == (output / "1" / "03.png").read_bytes()
    all_there(source, output)


def test_a_killed_worker_is_replaced(cluster: tuple[str, int], source: Path, small: Built, tmp_path: Path) -> None:
    output = tmp_path / "out"
    job = begun(words(source, output, small.engines_fp32, cluster[0]))
    until_some(output, job)
    workers(cluster)[0].kill()
    out, err = job.communicate(timeout=120)
    assert job.returncode == 0 and "48 images written" in out, err
    all_there(source, output)


class Deadly(PoolWorker):
    """A worker whose process dies whenever it comes to one picture, as of a fault in a driver or of memory."""

    def __init__(self, settings: Settings, starts: Any) -> None:
        super().__init__(settings, starts)
        upscale = self.worker.upscale

        def deadly(group: list[Item]) -> Any:
            if any(item.key.endswith("/05.png") for item in group):
                os.kill(os.getpid(), signal.SIGKILL)
            return upscale(group)

        self.worker.upscale = deadly  # type: ignore[method-assign]


def test_a_picture_that_kills_every_worker_fails_alone(
    address: str, source: Path, small: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray import cloudpickle

    for path in sorted(source.rglob("*.png"))[:40]:
        path.unlink(missing_ok=path.name != "05.png")
    shutil.copy(next(source.rglob("*.png")), source / "1" / "05.png")
    monkeypatch.setattr(Rounds, "worker", Deadly)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    output = tmp_path / "out"
    try:
        assert main(words(source, output, small.engines_int8, address, "--tries", "2")) == 1
    finally:
        cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    (failed,) = (json.loads(line) for line in (output / "failed.jsonl").read_text().splitlines())
    assert (
        failed["source"].endswith("05.png") and "the process that worked on it died, 2 times" in failed["reason"]
    )
    (source / "1" / "05.png").unlink()
    all_there(source, output)


# Ctrl-C ends it as SIGTERM does, which Ray would take for itself
@pytest.mark.parametrize(
    "how", [signal.SIGKILL, signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.accept)]
)
def test_a_job_that_was_ended_goes_on(
    how: signal.Signals,
    cluster: tuple[str, int],
    source: Path,
    small: Built,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    address = cluster[0]
    for attempt in range(3):  # a busy machine may have it done before the signal comes
        output = tmp_path / f"out{attempt}"
        job = begun(words(source, output, small.engines_fp32, address))
        until_some(output, job)
        job.send_signal(how)
        _out, err = job.communicate(timeout=60)
        if job.returncode:
            break
    if how != signal.SIGKILL:
        assert job.returncode == 130 and err.rstrip().endswith("interrupted") and "Traceback" not in err
    for process in workers(cluster):
        process.wait(30)
    noted = sum(path.read_bytes().count(b"\n") for path in output.rglob("done-*.jsonl"))
    made = len(list(output.rglob("[!.]*.png")))
    assert 4 <= noted <= made <= noted + 8, "of each worker no more than its group is to be done again"
    assert main(words(source, output, small.engines_fp32, address)) == 0
    assert f"{48 - noted} images written" in capfd.readouterr().out
    all_there(source, output)


def test_other_stores_both_ways(address: str, source: Path, small: Built, tmp_path: Path) -> None:
    """Out of an archive, and to a folder that is reached through fsspec alone."""
    with zipfile.ZipFile(tmp_path / "in.zip", "w") as archive:
        for path in sorted(source.rglob("*.png"))[:6]:
            archive.write(path, path.relative_to(source))
        archive.writestr("0/broken.png", b"nothing")
    output, url = tmp_path / "out", f"zip://::file://{tmp_path}/in.zip"
    arguments = words(url, f"simplecache::file://{output}", small.engines_int8, address, workers=1)
    assert main(arguments) == 1
    (failed,) = (json.loads(line) for line in (output / "failed.jsonl").read_text().splitlines())
    assert (
        failed["source"] == f"zip://0/broken.png::file://{tmp_path}/in.zip"
        and failed["source"] in failed["reason"]
    )
    made = sorted(path.relative_to(output).as_posix() for path in output.rglob("*.png"))
    assert made == [path.relative_to(source).as_posix() for path in sorted(source.rglob("*.png"))[:6]]
    assert not list((output / ".passionsr-batch" / "unfinished").iterdir())
    before = {name: (output / name).stat().st_mtime_ns for name in made}
    assert main(arguments) == 1
    assert before == {name: (output / name).stat().st_mtime_ns for name in made}


def test_one_line_where_nothing_can_run(
    address: str, source: Path, small: Built, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(words(source, tmp_path / "out", small.engines_int8, address, "--tile", "100")) == 2
    assert "--tile 100; expected a multiple of 64" in capfd.readouterr().err
    assert main(words(source, source, small.engines_int8, address)) == 2
    assert sorted(path.name for path in source.iterdir()) == ["0", "1"], "nothing of ours among the inputs"
    engines = tmp_path / "engines"
    shutil.copytree(small.engines_int8, engines)
    os.truncate(next(engines.glob("*.onnx")), 100)
    assert main(words(source, tmp_path / "out", engines, address, workers=1)) == 1
    assert "the file is truncated or was replaced" in capfd.readouterr().err
    assert main(words(source, tmp_path / "out", small.engines_int8, "127.0.0.1:1")) == 1
    assert "Ray cannot be reached" in capfd.readouterr().err
    assert main(["batch", str(tmp_path / "out"), "--engines", str(small.engines_int8)]) == 2
