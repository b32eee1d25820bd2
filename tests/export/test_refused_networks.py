"""Image networks that are refused: each in one line that says why, nothing run and nothing left behind."""

from __future__ import annotations

import importlib.util
import pickle
from pathlib import Path

import pytest
import torch
from passionsr_trt.export.families.image_network.architectures import EXTRA
from passionsr_trt.runtime.main import main

from tests.export.networks import GREY, write_small

HAS_EXTRA = importlib.util.find_spec("spandrel_extra_arches") is not None


class Hostile:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.mark,)


def test_what_cannot_be_taken_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = write_small("Compact", tmp_path / "good.pth")
    truncated, unknown, hostile = (tmp_path / f"{name}.pth" for name in ("truncated", "unknown", "hostile"))
    truncated.write_bytes(good.read_bytes()[:-200])
    torch.save({"something.weight": torch.zeros(2, 2)}, unknown)
    hostile.write_bytes(pickle.dumps({"params": Hostile(tmp_path / "executed")}))
    damaged = torch.load(good, weights_only=True)["params_ema"]
    damaged["body.2.weight"] = damaged["body.2.weight"][:, :5]
    torch.save(damaged, tmp_path / "misshapen.pth")
    sorting = write_small("ATD", tmp_path / "sorting.pth")
    grey = [write_small(name, tmp_path / f"{name}.pth") for name in GREY]
    for file, reason in (
        (truncated, "cannot be read"),
        (unknown, "no architecture that spandrel knows"),
        (hostile, "holds more than tensors"),
        (tmp_path / "misshapen.pth", "cannot be read as a network"),
        (sorting, "aten.sort"),
        *((file, "from 1 to 1 channels; expected RGB") for file in grey),
        (tmp_path / "missing.pth", "no such folder or file"),
    ):
        capsys.readouterr()
        assert main(["export", str(file), "--float", "-o", str(tmp_path / "out")]) == 1, file
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and reason in lines[0], lines
    assert not (tmp_path / "executed").exists() and not (tmp_path / "out").exists()


@pytest.mark.skipif(HAS_EXTRA, reason="spandrel_extra_arches is installed")
@pytest.mark.parametrize("name", EXTRA)
def test_what_spandrel_leaves_to_another_package_is_called_by_its_name(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({EXTRA[name]: torch.zeros(2, 2), "conv_first.weight": torch.zeros(2, 2)}, tmp_path / "network.pth")
    assert main(["export", str(tmp_path / "network.pth"), "--float", "-o", str(tmp_path / "out")]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert f"this is {name}" in line and "pip install spandrel_extra_arches" in line
