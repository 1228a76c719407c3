"""Pushing the final folder to the Hugging Face hub, and knowing before training whether that will be possible."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..training.disk import PARTIAL


def check_can_push(repo_id: str, private: bool = True) -> None:
    """Ask the hub whether this account may write `repo_id`; nothing is created.

    Raises UserError when the name is not `owner/name`, when nobody is logged in, when the token may not write there,
    when a private push would land in a public repository, and when the hub cannot be reached.
    """
    from huggingface_hub import HfApi

    _require_name(repo_id)
    api = HfApi()
    with _explained():
        account = api.whoami()
        _require_write(account, repo_id)
        _refuse_public(api, repo_id, private)


def push_to_hub(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload the files of `folder`, creating the repository when it is missing; returns its address.

    Raises UserError as `check_can_push` does; the folder stays as it is, and the message says how to push it later.
    """
    from huggingface_hub import HfApi

    _require_name(repo_id)
    api = HfApi()
    try:
        with _explained():
            address = api.create_repo(repo_id, private=private, exist_ok=True)
            _refuse_public(api, repo_id, private)
            api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message="Upload the weights that palate aligned",
                ignore_patterns=[f"{PARTIAL}*", f"**/{PARTIAL}*"],
            )
    except UserError as error:
        raise UserError(f"{error}; the result is in {folder}: push it with `hf upload {repo_id} {folder}`") from None
    return str(address)


def _require_name(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError:
        valid = False
    else:
        valid = "/" in repo_id
    if not valid:
        raise UserError(f"output.push_to: {repo_id!r} is not the name of a hub repository; give it as owner/name")


def _require_write(account: Mapping[str, Any], repo_id: str) -> None:
    owner = repo_id.split("/")[0]
    token = (account.get("auth") or {}).get("accessToken") or {}
    if token.get("role") == "fineGrained":
        if not _is_granted((token.get("fineGrained") or {}).get("scoped"), {owner.lower(), repo_id.lower()}):
            raise UserError(
                f"output.push_to: your hub token may not write to {repo_id}; give it write access to {owner}'s "
                "repositories at https://huggingface.co/settings/tokens"
            )
        return
    if token.get("role") == "read":
        raise UserError(
            f"output.push_to: your hub token can only read; make one that can write to {repo_id} at "
            "https://huggingface.co/settings/tokens and run `hf auth login`"
        )
    teams = [team["name"] for team in account.get("orgs") or [] if team.get("roleInOrg") != "read"]
    homes = [account["name"], *teams]
    if owner.lower() not in [home.lower() for home in homes]:
        raise UserError(
            f"output.push_to: you are logged in to the hub as {account['name']} and may not write to {owner}; "
            f"choose one of {', '.join(f'{home}/...' for home in homes)}"
        )


def _is_granted(scopes: Any, names: set[str]) -> bool:
    """Whether a fine-grained token may write to one of `names`; a list that we cannot read is left to the hub."""
    if not isinstance(scopes, list):
        return True
    granted = {
        str((scope.get("entity") or {}).get("name")).lower()
        for scope in scopes
        if "repo.write" in (scope.get("permissions") or [])
    }
    return bool(granted & names)


def _refuse_public(api: Any, repo_id: str, private: bool) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        public = not api.repo_info(repo_id).private
    except RepositoryNotFoundError:
        return
    if public and private:
        raise UserError(
            f"output.push_to: {repo_id} is there already and is public, and the result was to be private; "
            "choose another name, or make that repository private"
        )


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what the hub and the network raise into one line."""
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    try:
        yield
    except LocalTokenNotFoundError:
        raise UserError(
            "output.push_to: you are not logged in to the Hugging Face hub; run `hf auth login`, set HF_TOKEN, "
            "or leave output.push_to out"
        ) from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        advice = {401: "the token is not valid: run `hf auth login`", 403: "the token may not do this"}
        reason = advice.get(status, str(error).strip().splitlines()[0])
        raise UserError(f"output.push_to: the Hugging Face hub refused ({status}): {reason}") from None
    except Exception as error:
        # The hub's own error derives from its HTTP client's and from OSError: these are the client's and the network's.
        if not isinstance(error, HfHubHTTPError.__bases__):
            raise
        raise UserError(
            f"output.push_to: the Hugging Face hub cannot be reached ({error}); check the network, "
            "or leave output.push_to out"
        ) from None
