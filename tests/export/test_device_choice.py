"""Which device, what is kept where, and one line where it is not there or full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from passionsr_trt.engines.common.errors import UsageError, UserError
from passionsr_trt.export.calibrate.placement import Placement, Spill, Where
from passionsr_trt.export.model import devices
from passionsr_trt.export.model.devices import chosen_device, working_on
from passionsr_trt.runtime.main import main

from tests.conftest import DEMO
from tests.export import networks
from tests.pretended_device import DEVICE, HOST, PretendedDevice, There


def test_what_is_kept_goes_where_it_fits(tmp_path: Path) -> None:
    placed = Placement(HOST, device_room=100, host_room=150)
    assert [placed.place(size) for size in (60, 60, 60, 40, 60, 1)] == [
        Where.DEVICE, Where.HOST, Where.HOST, Where.DEVICE, Where.DISK, Where.HOST,
    ]  # fmt: skip
    assert Placement.measured(HOST) == Placement(HOST, 0, 0)
    with PretendedDevice():
        tensors = [torch.full((5,), float(index), device=DEVICE) for index in range(3)]
        spill = Spill(tmp_path / "kept", Placement(DEVICE, device_room=20, host_room=20))
        for tensor in tensors:
            spill.append(tensor)
        assert [isinstance(x, There) for x in spill.tensors] == [True, False, False] and spill.tensors[2] is None
        assert all(spill[index].device == DEVICE and float(spill[index][0]) == index for index in range(3))
    assert len(spill) == 3 and len(list((tmp_path / "kept").iterdir())) == 1


def test_a_full_device_is_one_line() -> None:
    with pytest.raises(UserError, match=r"cpu: its memory is full \(tried .*--low-memory"), working_on(HOST, []):
        raise torch.OutOfMemoryError("tried to allocate\n 20 GiB")


def test_the_command_says_that_a_device_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    network = networks.write_small("Compact", tmp_path / "model.safetensors")
    model, images, out = str(network), str(DEMO / "calib" / "lr"), str(tmp_path / "out")
    for words in (
        ["calibrate", model, "--images", images, "--cache", out],
        ["export", model, "--float", "-o", out],
        ["sensitivity", model, "--images", images, "-o", out],
    ):
        assert main([*words, "--device", "cuda:99"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --device cuda:99: ") and line.endswith("expected one that is there, or cpu")
    assert not (tmp_path / "out").exists()
    with pytest.raises(SystemExit) as stop:
        main(["calibrate", model, "--images", images, "--device", "gpu"])
    assert stop.value.code == 2 and "'gpu': expected auto, cpu, cuda or cuda:N" in capsys.readouterr().err


def test_a_device_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    repeatable: list[torch.device] = []
    monkeypatch.setattr(devices, "_repeatable", lambda device: repeatable.append(device))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert chosen_device("auto") == chosen_device("cpu") == HOST
    with pytest.raises(UsageError, match="--device cuda:0: PyTorch finds no CUDA device"):
        chosen_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    for name, process in (("auto", None), ("cuda", None), ("cuda:1", None), ("cuda", 1)):
        chosen_device(name, process)
    assert [device.index for device in repeatable] == [0, 0, 1, 1]
    with pytest.raises(UsageError, match="--device cuda:2: the last one is cuda:1"):
        chosen_device("cuda:2")
    with pytest.raises(UsageError, match="cuda:1 with several processes"):
        chosen_device("cuda:1", 0)
