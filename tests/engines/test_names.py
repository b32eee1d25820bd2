"""Names of nodes: what is written is what is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from passionsr_trt.engines.graph.names import (
    DEQUANTIZE,
    INPUT,
    QUANTIZE,
    WEIGHT,
    NodeName,
    as_convolution,
    format_name,
    origins,
    owner_of,
    parse_name,
    phase_of,
    port_node,
    site_of_weight,
    weight_names,
    weight_node,
    written_as,
)

pieces = st.text(st.characters(exclude_characters="/"), max_size=12)
sites = st.lists(st.from_regex(r"[a-z_]+[0-9]?", fullmatch=True), min_size=2, max_size=5).map(".".join)
pairs = st.sampled_from([("", ""), (WEIGHT, DEQUANTIZE), (INPUT, QUANTIZE), (INPUT, DEQUANTIZE)])


@given(pieces, pairs, st.lists(pieces, max_size=3))
def test_a_name_is_read_as_it_was_written(owner: str, pair: tuple[str, str], more: list[str]) -> None:
    name = NodeName(owner, *pair, tuple(more))
    assert parse_name(format_name(name)) == name


@given(
    st.one_of(st.text(), st.lists(st.sampled_from(["a", "", WEIGHT, INPUT, QUANTIZE, DEQUANTIZE])).map("/".join))
)
def test_any_text_is_a_name_and_stays_as_it_is(text: str) -> None:
    assert format_name(parse_name(text)) == text


@given(sites, st.integers(0, 3))
def test_a_site_is_found_in_every_name_that_is_made_of_it(site: str, phase: int) -> None:
    made = [site, weight_node(site), port_node(site, QUANTIZE), port_node(site, DEQUANTIZE)]
    made += [phase_of(name, phase) for name in made]
    assert {owner_of(name) for name in made} == {owner_of(as_convolution(name)) for name in made} == {site}
    assert [written_as(as_convolution(name)) for name in made] == [written_as(name) for name in made] == made


@given(sites)
def test_a_weight_belongs_to_its_site(site: str) -> None:
    part = site.split(".")[0]
    stored, as_it_is = weight_names(part, site)
    assert site_of_weight(part, stored) == site and site_of_weight(part, as_it_is) is None
    assert f"{part}.{as_it_is.removesuffix('.weight')}" == site


def test_what_only_converts_is_known_by_its_name() -> None:
    converting = (
        weight_node("unet.a"),
        port_node("unet.a", QUANTIZE),
        "node__to_copy_cast_3",
        "unet/node_Cast_12",
    )
    computing = (
        "unet.a",
        phase_of("unet.a", 1),
        "node_silu",
        "cast/node_silu",
        phase_of(weight_node("unet.a"), 0),
    )
    assert all(parse_name(name).converts for name in converting)
    assert not any(parse_name(name).converts for name in computing)


def test_a_kernel_s_nodes_are_read_whatever_parts_them() -> None:
    assert origins(
        "[ONNX Layer: unet.a]\x1e[ONNX Layer: unet.a/input/QuantizeLinear][ONNX Layer: node_softmax]"
    ) == [
        "unet.a",
        "unet.a/input/QuantizeLinear",
        "node_softmax",
    ]
    assert origins("") == []
