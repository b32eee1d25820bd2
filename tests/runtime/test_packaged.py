"""The network that comes with the package: engines are built once, for this CPU, and found again."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.bundles import EngineBundle, OnnxBundle
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.openvino import cache as compiled_cache
from passionsr_trt.engines.openvino import compile as compiling
from passionsr_trt.runtime import Upscaler
from passionsr_trt.runtime.backends import packaged
from passionsr_trt.runtime.backends.packaged import DEFAULT, REALESR_GENERAL, located
from passionsr_trt.runtime.main import main
from PIL import Image

WITHOUT_BUILDERS = """
import sys
sys.modules["onnx_ir"] = sys.modules["onnxruntime"] = None
from passionsr_trt.runtime.main import main
sys.exit(main(sys.argv[1:]))
"""


def counted(monkeypatch: pytest.MonkeyPatch, built: Path | None = None) -> list[Path]:
    """Folders that engines are built in from now on; they are copies of `built`, or empty."""
    folders: list[Path] = []

    def build(_bundle: OnnxBundle, folder: Path) -> None:
        folders.append(folder)
        time.sleep(0.1)
        if built is not None:
            shutil.copytree(built, folder)

    monkeypatch.setattr(packaged, "_build", build)
    return folders


@pytest.fixture(scope="module")
def engines() -> Path:
    """Built as the first run does it."""
    return located(DEFAULT)


def test_a_later_run_needs_nothing_that_builds(engines: Path, photo: Path, tmp_path: Path) -> None:
    assert EngineBundle.load(engines).title == "Real-ESRGAN general ×4, INT8"
    words = ["infer", str(photo), "-o", str(tmp_path / "out.png")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_BUILDERS, *words], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out.png") as image:
        assert image.size == (112 * 4, 75 * 4)


def test_an_upscaler_of_no_engines_takes_what_is_packaged(engines: Path, photo: Path) -> None:
    with Image.open(photo) as image, Upscaler() as upscaler, Upscaler(engines) as same:
        large = upscaler.up(image)
        assert large.size == (112 * 4, 75 * 4)
        assert large.tobytes() == same.up(image).tobytes()


def test_what_is_damaged_is_built_again_and_what_is_whole_is_not(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path))
    folders = counted(monkeypatch, engines)
    folder = located(DEFAULT)
    assert located(DEFAULT) == folder == tmp_path / "engines" / engines.name and folders == [folder]
    for name in ("manifest.json", "network.onnx"):
        (folder / name).write_bytes((folder / name).read_bytes()[:-9])
        assert located(DEFAULT) == folder
    assert len(folders) == 3


def test_of_two_that_start_at_once_one_builds(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path))
    folders = counted(monkeypatch, engines)
    with ThreadPoolExecutor(2) as pool:
        first, second = (pool.submit(located, DEFAULT) for _ in range(2))
    assert first.result() == second.result() and len(folders) == 1


def test_another_version_or_processor_has_engines_of_its_own(
    engines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path))
    folders = counted(monkeypatch)
    located(DEFAULT)
    with monkeypatch.context() as patch:
        patch.setattr(packaged.importlib.metadata, "version", lambda _name: "another")
        located(DEFAULT)
    with monkeypatch.context() as patch:
        patch.setattr(compiled_cache, "here", lambda: {"openvino": "another"})
        located(DEFAULT)
    assert len(set(folders)) == 3 and folders[0].name == engines.name


def test_a_cpu_without_vnni_gets_the_codes_that_it_computes_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    for exact, limit in ((True, 127), (False, 63)):
        monkeypatch.setattr(compiling, "openvino_int8_exact", lambda _codes, exact=exact: exact)
        bundle = REALESR_GENERAL.fitting()
        assert bundle.spec is not None and bundle.spec.weight_code_limit == limit


def test_a_folder_of_the_name_comes_first_and_another_name_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folders = counted(monkeypatch)
    assert located(DEFAULT, onnx=True) == REALESR_GENERAL.bundle().folder
    DEFAULT.mkdir()
    assert located(DEFAULT) == DEFAULT and not folders
    with pytest.raises(UserError, match=r"--engines nobody: no such folder; .* or realesr-general-x4"):
        located(Path("nobody"))


def test_a_cache_that_cannot_be_written_is_one_line(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PASSIONSR_CACHE", str(tmp_path / "file"))
    assert main(["infer", str(photo), "-o", str(tmp_path / "out.png")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "no place for its engines" in line and "Errno" not in line
    way_out = "expected $PASSIONSR_CACHE to name a writable folder; such as PASSIONSR_CACHE=/tmp/passionsr-trt"
    assert line.endswith(way_out) and str(tmp_path / "file") in line
