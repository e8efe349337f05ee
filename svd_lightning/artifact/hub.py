"""An artefact on the Hugging Face hub."""

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError, HTTPError
from huggingface_hub.utils import validate_repo_id

from svd_lightning.artifact.content import CARD, CONFIG, read_content
from svd_lightning.errors import InputError


def check_hub_name(name: str) -> None:
    """Refuse a name that the hub would refuse.

    Raises:
        InputError: for such a name.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(f"push_to_hub: expected a name such as me/my-adapter, got {name!r}: {error}") from error


def push_folder(folder: Path, name: str, *, private: bool) -> str:
    """Upload an artefact in one commit, after checking that it is whole; return the commit's address.

    Args:
        folder: the artefact.
        name: of the repository, which is created if it is missing.
        private: whether a repository created here is private.

    Raises:
        InputError: for a damaged folder, or if the hub cannot be reached or refuses.
    """
    check_hub_name(name)
    content = read_content(folder)
    files = [*content["files"], CARD, CONFIG]
    api = HfApi()
    try:
        api.create_repo(name, private=private, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, allow_patterns=files, commit_message="Adapter with steering"
        )
    except (HTTPError, OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"push_to_hub: cannot upload to {name!r}: {reason:.200}; the folder {str(folder)!r} is complete: try "
            f"again with `hf upload {name} {folder}`"
        ) from error
    return str(commit.commit_url)
