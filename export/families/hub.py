"""A model of the Hugging Face hub, `owner/name`: only the files that its family reads, in the hub's own cache.

$HF_HOME names the cache, $HF_ENDPOINT another hub, $HF_TOKEN who asks; huggingface_hub reads them.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from passionsr_trt.engines.common.counted import counted
from passionsr_trt.engines.common.errors import UsageError, UserError, reason_of
from passionsr_trt.engines.common.extras import extra_of, install_hint

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
FILES = (".safetensors", ".pth", ".pt", ".ckpt", ".pkl", ".bin", ".param", ".onnx")  # no repository's name ends so
SECONDS = 10  # until a hub that does not answer is given up
Chooser = Callable[[Sequence[str]], list[str]]  # names in a repository → those that are needed


@runtime_checkable
class OnHub(Protocol):
    """A family whose models may lie on the hub."""

    def hub_files(self, names: Sequence[str], arguments: argparse.Namespace) -> list[str]:
        """What is needed of a repository's files; one file alone is the model itself.

        UserError where they are not all there.
        """


def add_arguments(parser: argparse._ArgumentGroup) -> None:
    parser.add_argument("--revision", help="branch, tag or commit of the repository (default: main)")
    parser.add_argument(
        "--file", help="the one file of the repository that is the model (default: a whole folder)"
    )


def located(family: object, arguments: argparse.Namespace) -> Path | None:
    """What `import-model` is to read: `base` as it is on this disk, else fetched from the hub.

    UsageError where an option of the hub's is given with something else.
    """
    base: Path | None = arguments.base
    name = "" if base is None else base.as_posix()
    on_hub = isinstance(family, OnHub) and NAME.fullmatch(name) and not name.lower().endswith(FILES)
    there = base is not None and base.exists()
    if there or not on_hub:
        for option in ("revision", "file"):
            if value := getattr(arguments, option):
                what = f"{base}, which is on this disk" if there else "no repository of the hub's"
                raise UsageError(f"--{option} {value} with {what}", "expected OWNER/NAME", "leave it out")
        if there and on_hub:
            print(f"{base}: what is here on the disk is taken, not the hub's repository of that name")
        return base
    assert isinstance(family, OnHub)
    wanted: str | None = arguments.file

    def choose(names: Sequence[str]) -> list[str]:
        if wanted is None:
            return family.hub_files(names, arguments)
        if wanted not in names:
            raise UserError(f"no file {wanted}", f"expected one of {listed(names)}")
        return [wanted]

    folder, files = fetch(name, arguments.revision, choose)
    return folder / files[0] if len(files) == 1 else folder


def listed(names: Sequence[str], most: int = 8) -> str:
    """Some names for a message."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}" if names else "none: the repository is empty"


def fetch(repository: str, revision: str | None, choose: Chooser) -> tuple[Path, list[str]]:
    """The folder in the cache that holds the chosen files, and their names; a bar for every file that is fetched.

    Where the hub cannot be asked, what was fetched before is taken, as far as it is all there. UserError, in one
    line, for whatever does not work.
    """
    try:
        import huggingface_hub as hub
    except ModuleNotFoundError:
        raise UserError(
            f"{repository}: no such file or folder here, and huggingface_hub is not installed",
            "expected a path, or what fetches from the hub",
            install_hint(extra_of("huggingface_hub")),
        ) from None
    where = f"{repository}{f' at {revision}' if revision else ''}"
    try:
        found = hub.HfApi().model_info(repository, revision=revision, timeout=SECONDS)
    except Exception as error:
        kept = None if _answered(error) else _kept(hub, repository, revision)
        if kept is None:
            raise refused(repository, where, error) from None
        files = _chosen(where, choose, sorted(_names(kept)), " in the cache")
        print(f"{where}: the hub cannot be asked; what was fetched before is taken ({kept.name[:12]})")
        return kept, files
    files = _chosen(where, choose, sorted(entry.rfilename for entry in found.siblings or ()))
    print(
        f"{where}: {counted(len(files), 'file')} of {hub.constants.ENDPOINT}, commit {str(found.sha)[:12]}",
        flush=True,
    )
    folders = set()
    for file in files:
        try:
            path = Path(hub.hf_hub_download(repository, file, revision=revision, etag_timeout=SECONDS))
        except Exception as error:
            raise refused(repository, f"{where}, {file}", error) from None
        folders.add(path.parents[file.count("/")])
    if len(folders) > 1:
        raise UserError(f"{where}: it changed while it was fetched", "expected one commit", "run it again")
    return folders.pop(), files


def _chosen(where: str, choose: Chooser, names: Sequence[str], place: str = "") -> list[str]:
    try:
        return choose(names)
    except UserError as error:
        raise UserError(f"{where}{place}: {error.fact}", error.expected, error.fix) from None


def _kept(hub: Any, repository: str, revision: str | None) -> Path | None:
    """The folder of what was fetched before."""
    try:
        return Path(hub.snapshot_download(repository, revision=revision, local_files_only=True))
    except (OSError, ValueError):
        return None


def _names(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


def _answered(error: Exception) -> bool:
    """Did the hub itself refuse?"""
    response = getattr(error, "response", None)
    return isinstance(error, ValueError) or (response is not None and 400 <= response.status_code < 500)


def refused(repository: str, where: str, error: Exception) -> UserError:
    """One line for what huggingface_hub raises."""
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repository}"
    if isinstance(error, errors.GatedRepoError):
        return UserError(
            f"{where}: its authors give it to those who accept their terms",
            "expected a token of yours that may read it",
            f"accept them on {page}, then `hf auth login`",
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return UserError(f"{where}: no such revision", "expected a branch, a tag or a commit", f"see {page}")
    if isinstance(error, errors.RepositoryNotFoundError):
        return UserError(
            f"{where}: neither a path here nor a repository of the hub's that you may read",
            "expected a diffusers folder, a checkpoint or OWNER/NAME",
            "for a private one `hf auth login`",
        )
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return UserError(f"{where}: no such file in it", "expected what its list names", f"see {page}")
    if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError):
        return UserError(
            f"{where}: not here, and the hub must not be asked or cannot be",
            "expected a path, or a network",
            "unset HF_HUB_OFFLINE, or copy the files here and give their folder",
        )
    return UserError(
        f"{where}: not here, and the hub does not give it ({reason_of(error)})",
        "expected a path, or a network that reaches the hub",
        "HF_ENDPOINT names a mirror; or copy the files here and give their folder",
    )
