"""ncnn's files → networks: the three architectures that are read, and everything else refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.export.families.image_network.checkpoints import recognise
from passionsr_trt.export.families.image_network.ncnn_graphs import read_ncnn
from passionsr_trt.export.model.proof import relative_error
from passionsr_trt.runtime.main import main

from benchmarks.trained_networks import REFUSED, Unavailable, ncnn_files
from tests.export.ncnn_writer import write_ncnn

# every eighth of the values that ncnn 1.0.20261020 makes of `pattern` in float32
BY_NCNN = {
    "animevideov3-x4": [0.5748395, 0.2627203, 0.2401849, 0.1222048, 0.1935381, 0.3104162, 0.4623812, 0.7467477],
    "x4plus-anime": [0.5265967, 0.1326905, 0.1109104, 0.2425552, 0.0509184, 0.5120221, 0.1072029, 0.5486664],
    "spanx4_ch48": [0.4778386, 0.1986602, 0.1121507, 0.1688518, 0.2294675, 0.5341073, 0.4239785, 0.7167233],
    "spanx2_ch52": [0.4479892, 0.2216526, 0.7719058, 0.755728, 0.4615753, 0.5807583, 0.5077175, 0.2887834],
}


def fetched(name: str) -> tuple[Path, Path]:
    try:
        return ncnn_files(name)
    except Unavailable as error:
        pytest.skip(str(error))


def pattern() -> torch.Tensor:
    colour, row, column = np.meshgrid(np.arange(3), np.arange(9), np.arange(11), indexing="ij")
    waves = np.sin(colour + row * 0.7) * np.cos(column * 0.5) * 0.4 + 0.5
    return torch.from_numpy(waves.astype(np.float32))[None]


def refusal(param: Path, weights: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        read_ncnn(param, weights or param.with_suffix(".bin"))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", BY_NCNN)
@torch.no_grad()
def test_a_trained_network_makes_what_ncnn_makes(name: str) -> None:
    network = recognise(read_ncnn(*fetched(name)), name).model
    found = network(pattern()).flatten()
    found = found[:: len(found) // 8][:8]
    assert relative_error(torch.tensor(BY_NCNN[name]), found) < 1e-5


@pytest.mark.parametrize(
    "name, reason", list(zip(REFUSED, ("Interp Resize_40", "Interp Resize_40", "0.485"), strict=True))
)
def test_a_trained_graph_with_more_to_it_is_refused(name: str, reason: str) -> None:
    assert reason in refusal(*fetched(name))


@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("name, eltwise", [("Compact", True), ("ESRGAN", True), ("ESRGAN", False), ("SPAN", True)])
@torch.no_grad()
def test_a_network_comes_back_out_of_ncnns_files(name: str, eltwise: bool, half: bool, tmp_path: Path) -> None:
    network, param = write_ncnn(name, tmp_path / "net.param", half, eltwise), tmp_path / "net.param"
    assert (
        main(["import-model", str(param), str(param.with_suffix(".bin")), "-o", str(tmp_path / "net.safetensors")])
        == 0
    )
    from spandrel import ModelLoader

    described = ModelLoader().load_from_file(tmp_path / "net.safetensors")
    assert described.architecture.id == name
    x = torch.rand(1, 3, 10, 13)
    allowed = 1e-3 if half and name == "SPAN" else 1e-6  # its merged weights were rounded on the way
    assert relative_error(network(x), described.model.eval()(x)) < allowed


def test_a_folder_is_written_as_well_and_no_file_is_replaced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_ncnn("Compact", tmp_path / "net.param")
    words = ["import-model", str(tmp_path / "net.param"), "-o"]
    assert main([*words, str(tmp_path / "model")]) == 0
    assert (tmp_path / "model" / "network.json").is_file()
    (tmp_path / "there.safetensors").write_bytes(b"mine")
    assert main([*words, str(tmp_path / "there.safetensors")]) == 1
    assert (tmp_path / "there.safetensors").read_bytes() == b"mine"
    other = str(tmp_path / "there.safetensors")
    assert main(["import-model", other, other, "-o", str(tmp_path / "new")]) == 2
    assert "beside ncnn's .param" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("7767517\n", "7767518\n", "no ncnn .param"),
        ("PReLU n2 1 1 n1 n2 0=24", "ELU n2 1 1 n1 n2", "ELU n2 is of no architecture"),
        ("PReLU n2 1 1 n1 n2 0=24", "ReLU n2 1 1 n1 n2 0=0.1", "ReLU n2 does not fit Compact"),
        ("PReLU n2 1 1 n1 n2 0=24", "PReLU n2 1 1 n1 n2 0=1", "parameter 0 to be 24, not 1"),
        ("n1 1 1 in n1 0=24 1=3", "n1 1 1 in n1 0=24 1=3 3=2", "parameter 3 to be 1, not 2"),
        ("n1 1 1 in n1 0=24 1=3", "n1 1 1 in n1 0=24.5 1=3", "expected a whole number"),
        ("n1 1 1 in n1", "n1 1 1 out n1", "reads out"),
        ("n1 1 1 in n1", "n1 1 9999 in n1", "cannot be read"),
        ("in n1 0=24 1=3", "in n1 0=24 1=nan", "cannot be read"),
        ("5=1 6=648", "5=1 6=2000000000", "parameter 6"),
        ("Interp n11 1 1 in n11 0=1", "Interp n11 1 1 in n11 0=3", "parameter 0 to be 1, not 3"),
        ("n11 n10 n12", "n11 n10 n12 0=2", "parameter 0 to be 0, not 2"),
    ],
)  # fmt: skip
def test_a_graph_that_is_none_names_the_first_layer(old: str, new: str, reason: str, tmp_path: Path) -> None:
    write_ncnn("Compact", tmp_path / "net.param")
    text = (tmp_path / "net.param").read_text()
    assert text.count(old) == 1, text
    (tmp_path / "net.param").write_text(text.replace(old, new))
    assert reason in refusal(tmp_path / "net.param")


def test_a_layer_after_the_end_and_a_wrong_count_are_refused(tmp_path: Path) -> None:
    param = tmp_path / "net.param"
    write_ncnn("Compact", param)
    text = param.read_text()
    param.write_text(text + "Interp last 1 1 n12 last 0=3 1=0.5 2=0.5\n")
    assert "expected 13 13 as its second line says" in refusal(param)
    param.write_text(text.replace("13 13", "14 14") + "Interp last 1 1 n12 last 0=3 1=0.5 2=0.5\n")
    assert "Interp last does not fit Compact" in refusal(param)


def test_weights_that_are_damaged_or_absent_are_refused(tmp_path: Path) -> None:
    param, weights = tmp_path / "net.param", tmp_path / "net.bin"
    write_ncnn("Compact", param)
    good = weights.read_bytes()
    for data, reason in (
        (good[:-2], "ends within Convolution n9"),
        (good + bytes(4), "4 bytes more than its layers hold"),
        (b"", "ends within Convolution n1"),
        (b"\x38\x4b\x0d\x00" + good[4:], "flag 0x000d4b38"),
        (good[:4] + b"\xff\xff" + good[6:], "holds what is no number"),
    ):
        weights.write_bytes(data)
        assert reason in refusal(param)
    weights.unlink()
    assert "missing" in refusal(param)
    param.write_bytes(bytes(range(128, 256)))
    assert "expected its text form" in refusal(param)
    assert "missing" in refusal(tmp_path / "none.param")


def test_a_weight_larger_than_memory_is_refused_by_the_files_size(tmp_path: Path) -> None:
    lines = ["7767517", "3 3", "Input in 0 1 in", "Convolution a 1 1 in a 0=2000000000 1=3 4=1 5=1 6=54000000000"]
    (tmp_path / "net.param").write_text("\n".join([*lines, "PReLU b 1 1 a b 0=2000000000"]))
    (tmp_path / "net.bin").write_bytes(bytes(64))
    assert "\n" not in refusal(tmp_path / "net.param")
