from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from palate.errors import UserError
from palate.rewards.weights import find_weights, load_notes, load_tensors, save_tensors

STATE = {"a": torch.arange(3.0), "b": torch.ones(2, dtype=torch.float16)}


class Evil:
    def __reduce__(self):
        return print, ("this must not be called",)


def same(got: dict[str, torch.Tensor]) -> bool:
    return got.keys() == STATE.keys() and all(
        torch.equal(got[k], v) and got[k].dtype == v.dtype for k, v in STATE.items()
    )


def test_both_formats_and_the_wrapped_one_are_read(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    torch.save(STATE, tmp_path / "x.pt")
    torch.save({"state_dict": STATE, "epoch": 3}, tmp_path / "wrapped.pt")
    assert all(same(load_tensors(tmp_path / name)) for name in ("x.safetensors", "x.pt", "wrapped.pt"))


def test_notes_lie_beside_the_tensors(tmp_path):
    save_tensors(STATE, tmp_path / "x.safetensors", {"heads": "4,2"})
    assert same(load_tensors(tmp_path / "x.safetensors"))
    assert load_notes(tmp_path / "x.safetensors") == {"heads": "4,2"}
    save_tensors(STATE, tmp_path / "plain.safetensors")
    torch.save(STATE, tmp_path / "x.pt")
    assert load_notes(tmp_path / "plain.safetensors") == load_notes(tmp_path / "x.pt") == {}


def test_code_in_a_pickle_is_not_run(tmp_path, capsys):
    torch.save({"a": STATE["a"], "b": Evil()}, tmp_path / "x.pt")
    with pytest.raises(UserError, match="holds more than tensors, and palate runs no code from a file"):
        load_tensors(tmp_path / "x.pt")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("name", ["x.pt", "x.safetensors"])
def test_a_cut_file_is_told(tmp_path, name):
    save_file(STATE, tmp_path / name) if name.endswith("safetensors") else torch.save(STATE, tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=f"{name} (cannot be read|is damaged)"):
        load_tensors(tmp_path / name)


@pytest.mark.parametrize("content", [{}, [1], {"a": 1}, torch.ones(2)])
def test_a_file_without_a_state_dict_is_told(tmp_path, content):
    torch.save(content, tmp_path / "x.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_tensors(tmp_path / "x.pt")


def test_a_file_is_found_by_its_path_or_its_folder(tmp_path):
    (tmp_path / "x.pt").touch()
    assert find_weights(tmp_path / "x.pt", "nobody/nothing", "y.pt") == tmp_path / "x.pt"
    assert find_weights(str(tmp_path), "nobody/nothing", "x.pt") == tmp_path / "x.pt"
    with pytest.raises(
        UserError, match=r"y.pt does not exist; give the path of y.pt, or none to take it from nobody/n"
    ):
        find_weights(tmp_path, "nobody/nothing", "y.pt")


def test_without_a_path_the_hub_is_asked(tmp_path, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, name: f"/cache/{repository}/{name}")
    assert str(find_weights(None, "xswu/HPSv2", "x.pt")) == "/cache/xswu/HPSv2/x.pt"

    def unreachable(repository, name):
        raise OSError("no network\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", unreachable)
    with pytest.raises(UserError, match=r"x.pt cannot be taken from xswu/HPSv2 on the hub \(no network\); download it"):
        find_weights(None, "xswu/HPSv2", "x.pt")


def test_offline_the_cache_is_asked_for_every_name(tmp_path, monkeypatch):
    import huggingface_hub

    cached = tmp_path / "models--me--mine"
    (cached / "snapshots/abc").mkdir(parents=True)
    (cached / "snapshots/abc/trained.pt").touch()
    (cached / "refs").mkdir()
    (cached / "refs/main").write_text("abc")
    offline = partial(huggingface_hub.hf_hub_download, cache_dir=tmp_path, local_files_only=True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    assert find_weights("me/mine", "xswu/HPSv2", "x.pt", "trained.pt") == cached / "snapshots/abc/trained.pt"
    with pytest.raises(UserError, match=r"x.pt cannot be taken from me/mine on the hub \(Cannot find the requested"):
        find_weights("me/mine", "xswu/HPSv2", "x.pt", "y.pt")


def test_a_hub_id_is_taken_where_nothing_has_its_name_here(tmp_path, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    def download(repository, name):
        if name != "trained.pt":
            raise EntryNotFoundError(f"no {name}")
        return f"/cache/{repository}/{name}"

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(tmp_path)
    assert find_weights("me/mine", "xswu/HPSv2", "x.pt", "y.pt", "trained.pt") == Path("/cache/me/mine/trained.pt")
    with pytest.raises(UserError, match=r"me/mine does not exist; as a hub id: x.pt cannot be taken from me/mine on"):
        find_weights("me/mine", "xswu/HPSv2", "x.pt")
    for mistyped in ("me/x.pt", "/me/mine", "./mine", "me/a/mine", "mine"):
        with pytest.raises(UserError, match=r"does not exist; give the path of x.pt"):
            find_weights(mistyped, "xswu/HPSv2", "x.pt", "trained.pt")
    Path("me/mine").mkdir(parents=True)
    Path("me/mine/x.pt").touch()
    assert find_weights("me/mine", "xswu/HPSv2", "x.pt", "trained.pt") == Path("me/mine/x.pt")
