"""Pushing to the hub, against a stand-in for its API: what is asked of it, and what each refusal says."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from palate.errors import UserError
from palate.t2i.hub import check_can_push, push_to_hub


def refusal(status, kind=HfHubHTTPError):
    response = SimpleNamespace(status_code=status, headers={}, request=None, url="https://huggingface.co")
    return kind("the server said no\nRequest ID: 1", response=response)


def account(role="write", scoped=None, orgs=()):
    token = {"role": role} | ({"fineGrained": {"scoped": scoped}} if scoped is not None else {})
    return {"name": "Ann", "orgs": list(orgs), "auth": {"accessToken": token}}


def scope(name, *permissions):
    return {"entity": {"type": "user", "name": name}, "permissions": list(permissions)}


class Hub:
    """Answers as told, raising what is an exception, and remembers what it was asked."""

    def __init__(self, whoami=None, repo=None, created=None, uploaded=None):
        self.answers = {
            "whoami": whoami or account(),
            "repo_info": repo or refusal(404, RepositoryNotFoundError),
            "create_repo": created or "https://huggingface.co/Ann/model",
            "upload_folder": uploaded,
        }
        self.asked = []

    def __getattr__(self, name):
        def answer(*args, **kwargs):
            self.asked.append((name, args, kwargs))
            if isinstance(self.answers[name], Exception):
                raise self.answers[name]
            return self.answers[name]

        return answer


@pytest.fixture
def hub(monkeypatch):
    def install(**answers):
        hub = Hub(**answers)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
        return hub

    return install


@pytest.mark.parametrize(
    "who",
    [
        account(),
        account("fineGrained", scoped=[scope("ann", "repo.content.read", "repo.write")]),
        account("fineGrained", scoped=[scope("Ann/model", "repo.write")]),
        account("fineGrained"),
        account(role=None),
    ],
)
def test_the_owner_can_push_and_nothing_is_created(hub, who):
    asked = hub(whoami=who)
    check_can_push("Ann/model")
    assert [name for name, *_ in asked.asked] == ["whoami", "repo_info"]


def test_a_member_can_push_to_the_team(hub):
    hub(whoami=account(orgs=[{"name": "team", "roleInOrg": "write"}]))
    check_can_push("Team/model")


@pytest.mark.parametrize(
    ("answers", "repo_id", "message"),
    [
        (
            {"whoami": LocalTokenNotFoundError("no token")},
            "Ann/m",
            "not logged in to the Hugging Face hub; run `hf auth",
        ),
        ({"whoami": refusal(401)}, "Ann/m", r"refused \(401\): the token is not valid: run `hf auth login`"),
        ({"whoami": refusal(500)}, "Ann/m", r"refused \(500\): the server said no$"),
        ({"whoami": OfflineModeIsEnabled("offline")}, "Ann/m", r"cannot be reached \(offline\)"),
        ({"whoami": HfHubHTTPError.__bases__[0]("no route")}, "Ann/m", r"cannot be reached \(no route\)"),
        ({"whoami": account("read")}, "Ann/m", "can only read; make one that can write to Ann/m"),
        ({}, "Bob/m", "logged in to the hub as Ann and may not write to Bob; choose one of Ann/...$"),
        (
            {"whoami": account(orgs=[{"name": "team", "roleInOrg": "read"}, {"name": "lab", "roleInOrg": "admin"}])},
            "team/m",
            "may not write to team; choose one of Ann/..., lab/...$",
        ),
        (
            {"whoami": account("fineGrained", scoped=[scope("Ann", "repo.content.read")])},
            "Ann/m",
            "may not write to Ann/m",
        ),
        (
            {"whoami": account("fineGrained", scoped=[scope("lab", "repo.write")])},
            "Ann/m",
            "may not write to Ann/m; give",
        ),
        ({"repo": SimpleNamespace(private=False)}, "Ann/m", "is there already and is public"),
        ({}, "m", "'m' is not the name of a hub repository; give it as owner/name"),
        ({}, "Ann/m/n", "is not the name of a hub repository"),
        ({}, "An n/--", "is not the name of a hub repository"),
    ],
)
def test_what_will_not_work_is_said_before_training(hub, answers, repo_id, message):
    hub(**answers)
    with pytest.raises(UserError, match=message) as caught:
        check_can_push(repo_id)
    assert "\n" not in str(caught.value)


def test_a_public_repository_is_fine_when_public_is_wanted(hub):
    hub(repo=SimpleNamespace(private=False))
    check_can_push("Ann/m", private=False)


def test_push_creates_the_repository_and_uploads_the_folder(hub, tmp_path):
    asked = hub(repo=SimpleNamespace(private=True))
    assert push_to_hub(tmp_path, "Ann/model") == "https://huggingface.co/Ann/model"
    (first, names, options), _, (last, _, upload) = asked.asked
    assert (first, names, options) == ("create_repo", ("Ann/model",), {"private": True, "exist_ok": True})
    assert (last, upload["repo_id"], upload["folder_path"]) == ("upload_folder", "Ann/model", tmp_path)
    assert ".partial-*" in upload["ignore_patterns"]


def test_push_never_publishes_by_accident(hub, tmp_path):
    asked = hub(repo=SimpleNamespace(private=False))
    with pytest.raises(UserError, match="is public"):
        push_to_hub(tmp_path, "Ann/model")
    assert "upload_folder" not in [name for name, *_ in asked.asked]


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ({"created": refusal(403)}, r"refused \(403\): the token may not do this"),
        ({"uploaded": ConnectionResetError("reset")}, "cannot be reached"),
    ],
)
def test_a_failed_push_says_how_to_push_later(hub, tmp_path, answers, message):
    hub(repo=SimpleNamespace(private=True), **answers)
    with pytest.raises(UserError, match=message) as caught:
        push_to_hub(tmp_path, "Ann/model")
    assert str(caught.value).endswith(f"the result is in {tmp_path}: push it with `hf upload Ann/model {tmp_path}`")
