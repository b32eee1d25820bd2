"""Memory is known before it is taken: the prediction against a process's real peak, and what follows from it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.free_memory import free_memory, in_words
from passionsr_trt.runtime.backends.host import HostMemory
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.core.chain import Chain
from passionsr_trt.runtime.core.planning import Options, Tiles, need, plan_tiles, tilings
from passionsr_trt.runtime.main import main
from PIL import Image

from tests.conftest import Built

PEAK = """
import sys
from pathlib import Path
import numpy as np
from passionsr_trt.runtime.backends.loading import load_engines
from passionsr_trt.runtime.core.planning import Options
from passionsr_trt.runtime.core.upscaler import super_resolve_all
from PIL import Image
side, tile, batch, streams = map(int, sys.argv[2:])
chain = load_engines(Path(sys.argv[1]), 2, streams=streams)
options = Options(tile=tile, batch=batch)
images = [Image.fromarray(np.zeros((side // 4, side // 4, 3), np.uint8))] * (2 * streams - 1)
for result in super_resolve_all(chain, images, options):
    assert not isinstance(result, Exception)
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024)
"""


@pytest.fixture
def chain(demo: Built) -> Chain:
    return load_engines(demo.engines_int8)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")
def test_the_prediction_is_what_a_process_takes(demo: Built, chain: Chain) -> None:
    assert chain.memory is not None
    peaks, predicted = [], []
    for side, tile, batch, streams in ((256, 0, 1, 1), (768, 0, 1, 1), (768, 384, 4, 1), (768, 0, 1, 2)):
        command = [sys.executable, "-c", PEAK, str(demo.engines_int8), *map(str, (side, tile, batch, streams))]
        peaks.append(float(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        tiles = Tiles({part.name: (tile, tile) for part in chain.parts}, 64, batch) if tile else None
        predicted.append(need((side, side), load_engines(demo.engines_int8, 2, streams=streams), tiles))
    tiles = Tiles({part.name: (384, 384) for part in chain.parts}, 64, 4)
    assert tiles.at_once((768, 768), "unet") == 3 * 384**2, "9 tiles: 3 at once"
    assert peaks[1] < peaks[3] < predicted[3], "two streams: on the safe side"
    for index in (1, 2):
        assert predicted[index] == pytest.approx(peaks[index], rel=0.2)
        assert predicted[index] - predicted[0] == pytest.approx(peaks[index] - peaks[0], rel=0.2)


def test_tiles_shrink_until_they_fit(chain: Chain) -> None:
    assert chain.memory is not None
    for size in ((1024, 960), (2048, 1024)):
        choices = list(tilings(size, 64, None, chain.parts))
        needs = [need(size, chain, tiles) for tiles in choices]
        assert needs == sorted(needs, reverse=True) and needs[-1] < needs[0]
        for needed in needs:
            assert plan_tiles(size, chain, Options(memory=needed)) == choices[needs.index(needed)]
        with pytest.raises(UserError, match=f"takes {needs[-1] / 2**30:.2f} GiB at least"):
            plan_tiles(size, chain, Options(memory=needs[-1] - 1))
    wanted = plan_tiles(size, chain, Options(memory=needs[0] + 1, batch=8))
    assert wanted is not None and wanted.sides == choices[0].sides, "batches shrink first"
    assert plan_tiles((512, 512), chain, Options(memory=2**40)) is None
    unknown = plan_tiles((512, 512), replace(chain, memory=None), Options(memory=1, tile=256))
    assert unknown is not None and set(unknown.sides.values()) == {(256, 256)}


def test_what_is_free_is_the_limit_where_none_is_given(chain: Chain) -> None:
    assert isinstance(chain.memory, HostMemory)
    choices = list(tilings((2048, 1024), 64, None, chain.parts))
    small = replace(chain, memory=replace(chain.memory, free=need((2048, 1024), chain, choices[2])))
    assert plan_tiles((2048, 1024), small, Options()) == choices[2]


@pytest.mark.parametrize("more", [[], ["--tile", "512"]])
def test_what_cannot_fit_is_said_before_it_is_begun(
    demo: Built, photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str]
) -> None:
    command = ["infer", str(photo), "-o", str(tmp_path / "out"), "--engines", str(demo.engines_int8)]
    assert main([*command, "--memory", "0.2", *more]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1
    assert "GiB at least" in lines[0] and "0.20 GiB" in lines[0] and "--memory" in lines[0]
    assert not list((tmp_path / "out").glob("*"))


def test_less_memory_gives_nearly_the_same_picture(demo: Built, photo: Path, tmp_path: Path) -> None:
    command = ["infer", str(photo), "--engines", str(demo.engines_int8), "--align", "none"]
    assert main([*command, "-o", str(tmp_path / "whole.png")]) == 0
    assert main([*command, "-o", str(tmp_path / "tiled.png"), "--memory", "0.42"]) == 0
    whole, tiled = (np.asarray(Image.open(tmp_path / f"{name}.png"), float) for name in ("whole", "tiled"))
    error = np.sqrt(np.mean((whole - tiled) ** 2))
    assert 0 < error < 10


def test_a_container_has_less_than_the_machine(tmp_path: Path) -> None:
    whole = free_memory(tmp_path)
    for name, text in (("max", "3000\n"), ("current", "1000"), ("stat", "anon 7\ninactive_file 500\nfile 9\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert free_memory(tmp_path) == 2500
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory(tmp_path) == pytest.approx(whole, rel=0.5)


@pytest.mark.parametrize("wrong", ["0", "-1", "much", "inf"])
def test_memory_is_a_number_of_gibibytes(wrong: str) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["infer", "x.png", "-o", "out", "--engines", "engines", "--memory", wrong])
    assert stop.value.code == 2


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (50_000, "50000 bytes"),
        (60_000, "0.1 MiB"),
        (3 << 20, "3.0 MiB"),
        (97 << 20, "97.0 MiB"),
        (98 << 20, "0.10 GiB"),
    ],
)
def test_a_small_amount_is_not_told_as_nothing(size: int, words: str) -> None:
    assert in_words(size) == words
