"""QuantSpec: a strict file."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from passionsr_trt.engines.bundle.spec import QuantSpec
from passionsr_trt.engines.common.errors import UserError


def test_it_survives_a_round_trip(tmp_path: Path) -> None:
    spec = QuantSpec(bits_weights=6, exclude=("unet.mid_block.*",), percentile=99.0, attention=True)
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(spec.to_json()))
    assert QuantSpec.load(path) == spec


def test_every_key_is_stated() -> None:
    """A calibration's key says all that it was made with, whatever the defaults become."""
    assert QuantSpec().to_json().keys() == {"schema_version", *(entry.name for entry in fields(QuantSpec))}


@pytest.mark.parametrize(
    ("data", "steps"),
    [
        ({}, 0),
        ({"weight_code_limit": 63}, 0),
        ({"bits_weights": 6, "bits_activations": 6}, 48),
        ({"bits_weights": 4}, 48),
        ({"lbq_steps": -1, "bits_activations": 6}, 48),
        ({"lbq_steps": 7}, 7),
        ({"bits_weights": 6, "lbq_steps": 0}, 0),
    ],
)
def test_lbq_is_learned_below_8_bits_unless_the_spec_says_otherwise(data: dict[str, int], steps: int) -> None:
    spec = QuantSpec.from_json(data)
    assert spec.lbq_steps == spec.to_json()["lbq_steps"] == steps


def test_steps_follow_what_counts_where_no_spec_states_them() -> None:
    mixed, photos = QuantSpec(pictures="mixed"), QuantSpec(pictures="photos")
    assert (mixed.let_steps, mixed.correction_steps) != (photos.let_steps, photos.correction_steps)
    assert replace(mixed, pictures="photos") == photos and replace(photos, pictures="mixed") == mixed
    assert replace(mixed, synthetic=0.0).let_steps == photos.let_steps
    assert replace(QuantSpec(let_steps=7), pictures="photos").let_steps == 7
    assert json.dumps(mixed.to_json()) == json.dumps(QuantSpec(**_steps(mixed)).to_json()), "one key"


def _steps(spec: QuantSpec) -> dict[str, int]:
    return {name: int(getattr(spec, name)) for name in ("let_steps", "lbq_steps", "correction_steps")}


def test_lbq_s_steps_follow_the_bits_where_no_spec_states_them() -> None:
    eight, six = QuantSpec(), QuantSpec(bits_weights=6)
    assert replace(eight, bits_weights=6) == six and replace(six, bits_weights=8) == eight
    assert replace(replace(eight, seed=1), bits_weights=6).lbq_steps == 48
    assert json.dumps(eight.to_json()) == json.dumps(QuantSpec(lbq_steps=0).to_json()), "one key"
    assert replace(QuantSpec(lbq_steps=0), bits_weights=6).lbq_steps == 0
    assert replace(QuantSpec(bits_weights=6, lbq_steps=7), bits_weights=8).lbq_steps == 7
    stated = QuantSpec.from_json(eight.to_json())
    assert stated == eight and replace(stated, bits_weights=6).lbq_steps == 0, "a manifest states them"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"lbq_steps": -2}, "lbq_steps is -2; expected at least 0"),
        ({"unknown": 1}, "unknown key 'unknown'"),
        ({"schema_version": 99, "unknown": 1}, "newer version"),
        ({"bits_weights": 5}, "bits_weights is 5"),
        ({"bits_weights": "8"}, "expected int"),
        ({"keep_first_last": 1}, "expected bool"),
        ({"percentile": 20}, "percentile is 20"),
        ({"activation_observer": "median"}, "expected one of minmax"),
        ({"weight_code_limit": 100}, "expected one of 63, 127"),
        ({"exclude": [1]}, "exclude is 1; expected str"),
        ({"block_share": 0}, "block_share is 0.0; expected more than 0, at most 1"),
        ({"block_share": 0.2}, "block_share 0.2 of a whole module; expected granularity `block` with it"),
        ([], "not a JSON object"),
    ],
)
def test_bad_specs_are_named(data: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        QuantSpec.from_json(data)


def test_broken_json_is_named(tmp_path: Path) -> None:
    path = tmp_path / "spec.json"
    path.write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        QuantSpec.load(path)
