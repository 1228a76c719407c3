"""Groups with captions, from tiny models; a build that is stopped anywhere ends in the same bytes."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from palate.datasets.group import Group
from palate.datasets.images import decode
from palate.datasets.parquet import read_groups, write_groups
from palate.errors import UserError
from palate.rewards.vlm import Reply, open_vlm
from palate.t2i.build.captions import build as building
from palate.t2i.build.captions import captioner as captioning
from palate.t2i.build.captions.answers import Answer, AnswerLog, tidy
from palate.t2i.build.captions.build import answers_file, caption_groups
from palate.t2i.build.captions.captioner import Captioner
from palate.t2i.build.captions.perturb import ModelPerturber
from palate.t2i.build.captions.plan import CaptionPlan, Source
from palate.t2i.build.captions.rules import RulePerturber
from palate.t2i.build.captions.text_model import Decoding

RULES = RulePerturber("weak", 7)


@pytest.fixture(scope="module")
def source(tmp_path_factory, shape_groups) -> Source:
    """Ten pairs: the last a tie, and the first two with the same prompt and the same loser."""
    groups = shape_groups(10)
    groups[1] = replace(
        groups[1], prompt=groups[0].prompt, candidates=(groups[0].candidates[0], groups[1].candidates[1])
    )
    groups[9] = replace(groups[9], labels=(1, 1), aspects={"style": (1, 2)}, model=("m", None), rater="people")
    folder = tmp_path_factory.mktemp("source")
    write_groups(iter(groups), folder / "groups")
    return Source(str(folder / "groups"))


@pytest.fixture
def captioner(vlm_folder) -> Captioner:
    return Captioner(str(vlm_folder), "Say: {prompt}", max_tokens=14, batch_size=4)


@pytest.fixture
def perturber(t5_folder) -> ModelPerturber:
    return ModelPerturber(str(t5_folder), seed=3, decoding=Decoding(max_tokens=8), batch_size=3)


def written(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted(folder.iterdir()) if not file.name.startswith(".")}


def test_each_picture_is_captioned_with_its_prompt(source, captioner, tmp_path):
    done = caption_groups(source, tmp_path / "out", CaptionPlan("caption", captioner))
    vlm = open_vlm(captioner.model)
    assert (done.written.groups, done.left_out.total, done.asked) == (10, 0, 19)
    for old, new in zip(source.groups(), read_groups(tmp_path / "out"), strict=True):
        alone = [vlm.answer([[decode(data)]], [f"Say: {old.prompt}"], 14)[0].text for data in old.candidates]
        assert new == replace(old, captions=tuple(map(tidy, alone)))
    assert len({caption for group in read_groups(tmp_path / "out") for caption in group.captions}) > 1


def test_losers_get_the_prompt_changed(source, tmp_path):
    done = caption_groups(source, tmp_path / "out", CaptionPlan("perturb", perturber=RULES))
    assert (done.written.groups, done.asked, dict(done.left_out.counts)) == (9, 0, {"tie": 1})
    assert str(done.left_out.examples[0]) == "g9: tie"
    for old, new in zip(source.groups(), read_groups(tmp_path / "out"), strict=False):
        assert new == replace(old, captions=(RULES.perturb(old.prompt), old.prompt))
    assert not answers_file(tmp_path / "out").exists()


def test_losers_get_their_captions_changed(source, captioner, perturber, tmp_path):
    done = caption_groups(source, tmp_path / "out", CaptionPlan("hybrid", captioner, perturber))
    assert done.written.groups == 9
    ask, write = captioner.open(), perturber.open()
    for old, new in zip(source.groups(), read_groups(tmp_path / "out"), strict=False):
        loser, winner = (answer.text for answer in ask([(decode(data), old.prompt) for data in old.candidates]))
        assert new.captions == (write([loser])[0].text, winner)


def test_one_picture_under_two_captions(source, captioner, perturber, tmp_path):
    caption_groups(source, tmp_path / "prompts", CaptionPlan("tpo", perturber=RULES))
    for old, new in zip(source.groups(), read_groups(tmp_path / "prompts"), strict=False):
        assert new.candidates == (old.candidates[1],) * 2
        assert (new.labels, new.captions) == ((1, 0), (old.prompt, RULES.perturb(old.prompt)))
    done = caption_groups(source, tmp_path / "captions", CaptionPlan("tpo", captioner, perturber))
    captions = [group.captions[0] for group in read_groups(tmp_path / "captions")]
    assert done.asked == 9 + len(set(captions))  # equal captions are changed once
    ask, write = captioner.open(), perturber.open()
    for old, new in zip(source.groups(), read_groups(tmp_path / "captions"), strict=False):
        caption = ask([(decode(old.candidates[1]), old.prompt)])[0].text
        assert new.captions == (caption, write([caption])[0].text)


def test_groups_that_have_captions_need_no_captioner(source, tmp_path):
    captions = [("a red dog", "two cats"), None, *[("a dog", "a cat")] * 8]
    groups = [replace(group, captions=own) for group, own in zip(source.groups(), captions, strict=True)]
    write_groups(iter(groups), tmp_path / "groups")
    own = Source(str(tmp_path / "groups"))
    done = caption_groups(own, tmp_path / "hybrid", CaptionPlan("hybrid", perturber=RULES))
    assert dict(done.left_out.counts) == {"tie": 1, "no caption": 1}
    first = next(read_groups(tmp_path / "hybrid"))
    assert first.captions == (RULES.perturb("a red dog"), "two cats")
    caption_groups(own, tmp_path / "tpo", CaptionPlan("tpo", perturber=RULES))
    found = list(read_groups(tmp_path / "tpo"))
    assert found[0].captions == ("two cats", RULES.perturb("two cats"))
    assert found[1].captions == (groups[1].prompt, RULES.perturb(groups[1].prompt))
    caption_groups(own, tmp_path / "perturb", CaptionPlan("perturb", perturber=RULES))
    assert next(read_groups(tmp_path / "perturb")).captions[1] == groups[0].prompt


def test_provenance_stands_beside_the_shards(source, captioner, perturber, tmp_path):
    limited = replace(source, limit=3)
    caption_groups(limited, tmp_path / "out", CaptionPlan("hybrid", captioner, perturber))
    told = json.loads((tmp_path / "out" / "captions.json").read_text())
    assert (told["mode"], told["source"], told["limit"]) == ("hybrid", source.path, 3)
    assert told["captioner"] == captioner.settings()
    assert told["captioner"]["template"] == "Say: {prompt}"
    assert told["perturber"] == perturber.settings()
    size = sum(len(data) for name, data in written(tmp_path / "out").items() if name.endswith(".parquet"))
    assert told["written"] == {
        "groups": 3,
        "bytes": size,
        "stamp": limited.stamp(),
        "left_out": {},
        "skipped": {},
    }


class Stopped(BaseException):
    """As SIGKILL is: nothing catches it."""


@pytest.mark.parametrize("stop", range(8))
def test_stopped_anywhere_it_ends_in_the_same_bytes(stop, source, captioner, perturber, tmp_path, monkeypatch):
    """Before or within the writing of each of the seven lines of the log, and between two shards."""
    plan = CaptionPlan("hybrid", captioner, perturber)
    whole = caption_groups(source, tmp_path / "whole", plan)
    lines = answers_file(tmp_path / "whole").read_bytes()
    assert lines.count(b"\n") == 7
    add, write = AnswerLog.add, building.write_groups

    def adding(log: AnswerLog, answers: dict[str, Answer]) -> None:
        if log.file.read_bytes().count(b"\n") == stop:
            with log.file.open("ab") as file:
                file.write(lines.splitlines(keepends=True)[stop][: 10 * (stop % 2)])
            raise Stopped
        add(log, answers)

    def writing(groups, folder, **settings):
        write([next(groups)], folder, **settings)
        (folder / ".unfinished").touch()
        (folder / ".groups-00001.parquet.tmp").write_bytes(b"PAR1")
        raise Stopped

    with monkeypatch.context() as patched:
        patched.setattr(AnswerLog, "add", adding)
        patched.setattr(building, "write_groups", writing)
        with pytest.raises(Stopped):
            caption_groups(source, tmp_path / "out", plan)
    done = caption_groups(source, tmp_path / "out", plan)
    assert written(tmp_path / "out") == written(tmp_path / "whole")
    assert answers_file(tmp_path / "out").read_bytes() == lines
    assert done.asked < whole.asked or stop == 0
    assert not list((tmp_path / "out").glob(".*"))


def test_what_failed_is_named_and_costs_its_own_group(source, captioner, tmp_path, monkeypatch):
    broken = [replace(group, key=f"k{i}") for i, group in enumerate(source.groups())][:6]
    broken[1] = replace(broken[1], prompt="a <|im_end|> dog")
    broken[2] = replace(broken[2], candidates=(broken[2].candidates[0], broken[2].candidates[1][:60]))
    broken[4] = replace(broken[4], prompt="quokka")
    write_groups(iter(broken), tmp_path / "groups")
    here = Source(str(tmp_path / "groups"))
    done = caption_groups(here, tmp_path / "caption", CaptionPlan("caption", captioner))
    assert [str(example) for example in done.left_out.examples] == [
        "k1: no caption (candidate 0: the text holds '<|im_end|>', which is a control token of this model)",
        "k2: unreadable image (candidate 1: truncated)",
    ]
    assert [group.key for group in read_groups(tmp_path / "caption")] == ["k0", "k3", "k4", "k5"]
    done = caption_groups(here, tmp_path / "perturb", CaptionPlan("perturb", perturber=RULES))
    assert "k4: caption not changed (candidate 0: no word that the rules can change)" in map(
        str, done.left_out.examples
    )


def test_a_captioner_that_says_nothing():
    class Silent:
        def answer(self, pictures, texts, max_tokens):
            assert max_tokens == 128
            return [Reply("" if "mute" in text else '"A dog."') for text in texts]

    picture = Image.new("RGB", (8, 8))
    answers = Captioner("m").ask(Silent(), [(picture, "a"), (picture, "mute"), (picture, "b")])
    assert answers == [Answer("A dog."), Answer(None, "the model says nothing"), Answer("A dog.")]
    assert captioning.TEMPLATE.count("{prompt}") == 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"mode": "dual"}, "no mode 'dual'; there are caption, perturb, hybrid, tpo"),
        ({"mode": "caption"}, "mode caption needs a captioner"),
        ({"mode": "caption", "captioner": Captioner("m"), "perturber": RULES}, "changes no caption"),
        ({"mode": "perturb", "captioner": Captioner("m"), "perturber": RULES}, "keeps the prompts"),
        ({"mode": "tpo"}, "mode tpo needs a perturber"),
    ],
)
def test_plans_that_make_no_sense(values, told):
    with pytest.raises(UserError, match=told):
        CaptionPlan(**values)


def test_what_is_refused_before_any_model_is_loaded(source, captioner, chat_folder, tmp_path):
    out, perturb = tmp_path / "out", CaptionPlan("perturb", perturber=RULES)
    with pytest.raises(UserError, match="these groups have no captions, so mode hybrid needs a captioner"):
        caption_groups(source, out, CaptionPlan("hybrid", perturber=RULES))
    with pytest.raises(UserError, match="qwen2_5_vl writes no texts"):
        caption_groups(source, out, CaptionPlan("hybrid", captioner, ModelPerturber(captioner.model)))
    with pytest.raises(UserError, match="cannot be loaded as a vision-language model"):
        caption_groups(source, out, CaptionPlan("caption", Captioner(str(chat_folder))))
    texts = [Group(key="t", prompt="a dog", candidates=(b"good", b"bad"), labels=(1, 0))]
    write_groups(iter(texts), tmp_path / "texts", media="text")
    with pytest.raises(UserError, match=r"no picture can be read at the beginning of .* 1 unreadable image"):
        caption_groups(Source(str(tmp_path / "texts")), out, perturb)
    with pytest.raises(UserError, match="lies inside the source"):
        caption_groups(source, Path(source.path) / "x", perturb)
    with pytest.raises(UserError, match="is, or holds, the source"):
        caption_groups(source, source.path, perturb)
    ties = [replace(group, labels=(0, 0)) for group in source.groups()]
    write_groups(iter(ties), tmp_path / "ties")
    with pytest.raises(UserError, match=r"nothing to write from .*: 10 tie; g0: tie"):
        caption_groups(Source(str(tmp_path / "ties")), out, perturb)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["texts", "ties"]


def test_what_is_there_is_kept_unless_asked_for(source, tmp_path):
    out, plan = tmp_path / "out", CaptionPlan("perturb", perturber=RULES)
    caption_groups(source, out, plan)
    before = written(out)
    stronger = CaptionPlan("perturb", perturber=RulePerturber("strong"))
    with pytest.raises(UserError, match="not empty: name another folder, or overwrite it"):
        caption_groups(source, out, stronger)
    assert written(out) == before
    caption_groups(source, out, stronger, overwrite=True)
    assert written(out).keys() == before.keys()
    assert written(out) != before
    unfinished = json.loads((out / "captions.json").read_text())
    del unfinished["written"]
    (out / "captions.json").write_text(json.dumps(unfinished))
    with pytest.raises(UserError, match="not empty"):
        caption_groups(source, out, plan)  # another plan's
    caption_groups(source, out, stronger)


def test_the_same_call_again_finds_all_done(source, tmp_path, monkeypatch):
    out, plan = tmp_path / "out", CaptionPlan("perturb", perturber=RULES)
    copy = Source(str(shutil.copytree(source.path, tmp_path / "copy")))
    first = caption_groups(copy, out, plan)
    before = written(out)
    with monkeypatch.context() as patch:
        patch.setattr(RulePerturber, "perturb", lambda *_: pytest.fail("changed anew"))
        again = caption_groups(copy, out, plan)
    assert (again.written, again.left_out.counts, again.asked) == (first.written, first.left_out.counts, 0)
    assert written(out) == before
    # The first builds noted no more than this.
    told = json.loads(before["captions.json"])
    old = {**told, "written": {name: told["written"][name] for name in ("groups", "left_out", "skipped")}}
    (out / "captions.json").write_text(json.dumps(old))
    assert caption_groups(copy, out, plan).written == first.written
    (out / "captions.json").write_bytes(before["captions.json"])
    # Another source, or a shard that is gone, is not the same again.
    write_groups(iter(list(copy.groups())[:4]), copy.path, mode="overwrite")
    with pytest.raises(UserError, match="not empty"):
        caption_groups(copy, out, plan)
    assert caption_groups(copy, out, plan, overwrite=True).written.groups == 4
    (out / "groups-00000.parquet").unlink()
    with pytest.raises(UserError, match="not empty"):
        caption_groups(copy, out, plan)


def test_answers_are_those_of_a_models_contents(source, captioner, tmp_path):
    """Not of where its folder lies; other words are asked anew."""
    plan, out = CaptionPlan("caption", captioner), tmp_path / "out"
    assert caption_groups(source, out, plan).asked == 19
    moved = shutil.copytree(captioner.model, tmp_path / "moved")
    again = CaptionPlan("caption", replace(captioner, model=str(moved)))
    assert caption_groups(source, out, again, overwrite=True).asked == 0
    other = CaptionPlan("caption", replace(captioner, template="Tell: {prompt}"))
    assert caption_groups(source, out, other, overwrite=True).asked == 19


def test_progress_is_told_in_groups(source, captioner, perturber, tmp_path):
    told = []
    plan = CaptionPlan("tpo", captioner, perturber)
    caption_groups(replace(source, limit=4), tmp_path / "out", plan, advance=lambda *step: told.append(step))
    assert told == [(stage, done, 4) for stage in ("captioning", "changing", "writing") for done in (1, 2, 3, 4)]
