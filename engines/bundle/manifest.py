"""Reading and writing manifests: strict JSON, SHA-256 of every file, atomic directories.

Every folder that one stage hands to the next has a `manifest.json`. It names each file with its size and
SHA-256; a file is checked before it is parsed, and its path never leaves the folder.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from passionsr_trt.engines.bundle.kinds import MANIFEST, kind_of
from passionsr_trt.engines.bundle.records import check_schema, read_object
from passionsr_trt.engines.common.errors import UserError
from passionsr_trt.engines.common.temporaries import temporary_folder

SCHEMA_VERSION = 1  # of every manifest; another one is not read


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file, read in 1 MiB pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write `content` with the schema version and the digest of every other file in `folder`."""
    files = {
        path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    manifest = {"schema_version": SCHEMA_VERSION, **content, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")


def read_manifest(folder: Path, kind: str) -> dict[str, Any]:
    """Parse a manifest of the given kind; another schema is refused before any key is looked at."""
    path = folder / MANIFEST
    if folder.is_file() or not path.is_file():
        refuse_other(folder, kind)
    try:
        data = read_object(path, f"the manifest of {NAMES[kind]}")
    except FileNotFoundError:
        raise UserError(
            f"{folder}: no {MANIFEST}", f"expected a folder that holds {NAMES[kind]}", HINTS.get(kind, "")
        ) from None
    if "schema_version" not in data:
        raise UserError(f"{path}: no schema_version", f"expected the manifest of {NAMES[kind]}")
    check_schema(data["schema_version"], SCHEMA_VERSION, str(path), AGAIN[kind])
    if data.get("kind") != kind:
        refuse_other(folder, kind)
        raise UserError(f"{path}: is of kind {data.get('kind')!r}", f"expected {NAMES[kind]}", HINTS.get(kind, ""))
    files = data.get("files")
    if not isinstance(files, dict) or not all(map(_is_listed, files.items())):
        raise UserError(f"{path}: 'files' is no list of files", "expected name → size and sha256", "make it again")
    return data


def refuse_other(path: Path, kind: str) -> None:
    """UserError where a path is a file, or is known to hold something else than a manifest of this kind."""
    found = kind_of(path)
    if path.is_file():
        what = "a file" if found is None else str(found)
        if (path.parent / MANIFEST).is_file():
            raise UserError(f"{path}: is {what}", f"expected the folder that holds {NAMES[kind]}; give its folder")
        fix = HINTS.get(kind, "") if found is None else found.way_to(kind) or HINTS.get(kind, "")
        raise UserError(f"{path}: is {what}", f"expected the folder that holds {NAMES[kind]}", fix)
    if found is not None and found.name != kind:
        fix = found.way_to(kind) or HINTS.get(kind, "")
        raise UserError(f"{path}: holds {found}", f"expected {NAMES[kind]}", fix)


def _is_listed(entry: tuple[Any, Any]) -> bool:
    """A name in this folder or one below it, with its size and digest."""
    name, stated = entry
    plain = isinstance(name, str) and name.isprintable() and not Path(name).is_absolute()
    return (
        plain
        and isinstance(stated, dict)
        and isinstance(stated.get("size"), int)
        and isinstance(stated.get("sha256"), str)
    )


NAMES = {
    "model": "a new one",
    "onnx-bundle": "an ONNX bundle",
    "engine-bundle": "an engine bundle",
    "calibration": "a calibration",
}
AGAIN = {
    "model": "import-model again",
    "onnx-bundle": "export again",
    "engine-bundle": "export again, then build-engines again",
    "calibration": "calibrate again",
}
HINTS = {
    "onnx-bundle": "make one with `passionsr-trt export`",
    "engine-bundle": "make one with `passionsr-trt build-engines`",
    "calibration": "make one with `passionsr-trt calibrate`",
}


def checked_file(folder: Path, manifest: dict[str, Any], name: str) -> Path:
    """The path of a listed file, after its size and SHA-256 were found to be the manifest's."""
    try:
        path = (folder / name).resolve()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, what is no path
        raise UserError(f"{folder / name}: cannot be read ({error})", "expected a file") from None
    if not path.is_relative_to(folder.resolve()):
        raise UserError(f"{folder / MANIFEST}: {name!r} leaves the folder", "expected a path inside it")
    listed = manifest["files"].get(name)
    if listed is None:
        raise UserError(f"{folder / MANIFEST}: {name} is not listed", "expected every file with its SHA-256")
    if not path.is_file():
        raise UserError(f"{folder / name}: missing", "expected as listed in the manifest", "make it again")
    if path.stat().st_size != listed["size"]:
        raise UserError(
            f"{folder / name}: {path.stat().st_size} bytes",
            f"expected {listed['size']}: the file is truncated or was replaced",
            "make it again",
        )
    if sha256(path) != listed["sha256"]:
        raise UserError(
            f"{folder / name}: SHA-256 differs from the manifest's",
            "the file is damaged or belongs to another bundle",
            "make it again",
        )
    return path


def check_target(target: Path, kind: str) -> None:
    """Refuse to replace anything but an empty folder or an earlier result of the kind, of any schema."""
    if not target.exists():
        return
    if not target.is_dir():
        raise UserError(f"{target}: is a file", "expected a folder to write to")
    if not any(target.iterdir()):
        return
    try:
        present = read_object(target / MANIFEST, "a manifest").get("kind")
    except (FileNotFoundError, UserError):
        present = None
    held = kind_of(target)
    if kind == "model" and held is not None and held.name == kind:
        raise UserError(
            f"{target}: holds a model folder already", "expected a new one; remove it to import it anew"
        )
    if present != kind:
        raise UserError(
            f"{target}: holds other files, which would be lost", f"expected an empty folder or {NAMES[kind]}"
        )


@contextmanager
def atomic_folder(target: Path, kind: str) -> Iterator[Path]:
    """A temporary folder beside `target` that takes its name on success and vanishes on failure.

    What stands there is replaced only where it is empty or a result of the same kind.
    """
    target = target.resolve()
    check_target(target, kind)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(target.parent) as temporary:
            yield temporary
            temporary.chmod(0o755)
            if not target.exists():
                temporary.replace(target)
                return
            with temporary_folder(target.parent) as retired:
                target.replace(retired / "old")
                try:
                    temporary.replace(target)
                except BaseException:
                    (retired / "old").replace(target)
                    raise
    except OSError as error:
        raise UserError(
            f"{target}: cannot be written ({error.strerror})", "expected room and permission there"
        ) from error


def check_digest(folder: Path, expected: str | None) -> None:
    """Refuse a bundle whose manifest is not the one the caller trusts; the manifest names every other digest."""
    if expected is None:
        return
    path = folder / MANIFEST
    digest = sha256(path) if path.is_file() else "no manifest"
    if digest != expected.lower():
        raise UserError(
            f"{folder}: digest {digest}", f"expected {expected}", "get the bundle from its source again"
        )
