from __future__ import annotations

import json
from dataclasses import replace

import pytest

from palate.datasets.check import check_groups, normalise_prompt
from palate.datasets.group import Group
from palate.datasets.images import FORMATS
from palate.datasets.readable import readable_groups
from palate.datasets.skips import SkipLog


@pytest.fixture
def pair(picture):
    def make(
        number: int, labels=(1.0, 0.0), prompt: str | None = None, candidates=None, key: str | None = None
    ) -> Group:
        candidates = candidates or (picture(2 * number), picture(2 * number + 1))
        return Group(key or f"g{number}", f"prompt {number}" if prompt is None else prompt, candidates, labels)

    return make


def test_counts(pair, picture):
    three = Group("three", "a b c d", (picture(90, 64, 32), picture(91, 600, 520), picture(92)), (1, 3, 2))
    groups = [pair(0), pair(1, (0, 1)), pair(2, (0.5, 0.5)), three, Group("one", "x", (picture(93),), (1,))]
    report = check_groups(groups)
    assert (report.groups, report.candidates, report.by_size) == (5, 10, {1: 1, 2: 3, 3: 1})
    assert (report.ties, report.preferences) == (1, 3)
    assert report.wins_by_position == {0: 1, 1: 2}
    assert (report.widths.smallest, report.widths.median, report.widths.largest) == (16, 16, 600)
    assert (report.heights.smallest, report.heights.median, report.heights.largest) == (16, 16, 520)
    assert report.shorter_sides == {"below 64": 9, "512-767": 1}
    assert report.mixed_sizes == 1
    assert (report.prompts, report.prompt_words.smallest, report.prompt_words.largest) == (5, 1, 4)
    assert report.problems == []


def test_unreadable_pictures_are_named_and_shift_nothing(pair, picture):
    cut = picture(7, 64, 64, "JPEG")[:500]
    groups = [pair(0), pair(1, candidates=(picture(2), cut)), pair(2), pair(3, candidates=(b"", b"x")), pair(4)]
    report = check_groups(groups, workers=2)
    assert [str(fault) for fault in report.unreadable] == [
        "g1: unreadable image (candidate 1: truncated)",
        "g3: unreadable image (candidate 0: 0 bytes)",
        f"g3: unreadable image (candidate 1: not an image of a format that is read: {', '.join(FORMATS)})",
    ]
    assert (report.groups, report.unreadable_groups, report.preferences) == (5, 2, 3)
    assert report.problems == ["2 groups with an unreadable picture: training skips them"]
    log = SkipLog()
    assert list(readable_groups(groups, log, workers=2)) == [groups[0], groups[2], groups[4]]
    assert [skipped.key for skipped in log.examples] == ["g1", "g3"]


def test_headers_alone_find_no_truncation(pair, picture):
    cut = picture(7, 64, 64, "JPEG")[:2000]
    report = check_groups([pair(1, candidates=(picture(2), cut))], decode=False)
    assert report.unreadable_groups == 0


def test_duplicates(pair, picture):
    a, b = picture(0), picture(1)
    groups = [
        pair(0, candidates=(a, b)),
        pair(1, prompt="prompt 0", candidates=(b, a), labels=(0, 1)),  # the same preference, stored turned round
        pair(2, prompt="prompt 0", candidates=(a, b), labels=(0, 1)),  # another winner
        pair(3, prompt="other", candidates=(a, b)),
        pair(4, candidates=(picture(5), picture(5))),
        pair(5, key="g0"),
    ]
    report = check_groups(groups)
    assert report.repeated_groups.first == ["g1", "g2"]
    assert report.contradictions.first == ["g2"]
    assert report.same_picture.first == ["g4"]
    assert report.repeated_pictures == 6
    assert report.repeated_keys.first == ["g0"]


def test_one_picture_with_two_captions_is_no_duplicate(pair, picture):
    a, b = picture(0), picture(1)
    groups = [
        replace(pair(0, candidates=(a, a)), captions=("a cat", "a dog")),  # as TPO takes it
        replace(pair(1, candidates=(b, b)), captions=("a cat", "a cat")),
    ]
    assert check_groups(groups).same_picture.first == ["g1"]


def test_leaks_are_found_whatever_the_case_and_spacing(pair):
    groups = [pair(0, prompt="A cat,  on a mat."), pair(1, prompt="a dog"), pair(2, prompt="")]
    others = {"test": iter(["a CAT on a mat", "a cat on a mat!", "a bird", ""]), "validation": ["nothing"]}
    report = check_groups(groups, others)
    assert report.leaks["test"].count == 1
    assert report.leaks["test"].first == ["a CAT on a mat"]
    assert report.leaks["validation"].count == 0
    assert report.empty_prompts.first == ["g2"]
    assert report.problems == ["1 prompt also in test: scores on it will look too good"]


def test_prompts_are_compared_in_one_form():
    assert normalise_prompt("  ＡＢＣ\tStraße, ") == "abc strasse"
    assert normalise_prompt("a red-cat") == normalise_prompt("a Red cat")


def test_an_empty_set_and_one_of_ties_are_told_in_plain_words(pair):
    log = SkipLog()
    log.add("x", "no label")
    assert check_groups([], log=log).problems == ["no groups: the set is empty (1 no label skipped)"]
    report = check_groups([pair(n, (0.5, 0.5)) for n in range(3)])
    assert report.problems == ["only ties: no group prefers anything, so a pairwise method has nothing to learn from"]


def test_label_balance_is_noted(pair):
    assert any("place 0 always wins" in note for note in check_groups([pair(n) for n in range(10)]).notes)
    even = [pair(n, (n % 2, 1 - n % 2)) for n in range(40)]
    assert not any("wins" in note for note in check_groups(even).notes)
    leaning = [pair(n, (1, 0) if n % 5 else (0, 1)) for n in range(40)]
    assert any("wins 80.0% of the pairs" in note for note in check_groups(leaning).notes)


def test_the_report_is_json_and_what_the_reader_skipped_is_in_it(pair):
    log = SkipLog()
    log.add("lost", "missing file", "b.png")
    log.add("undecided", "no label")
    fields = json.loads(json.dumps(check_groups([pair(0)], {"test": ["x"]}, log=log).as_dict()))
    assert fields["skipped"] == {"missing file": 1, "no label": 1}
    assert fields["problems"] == ["skipped while reading: 1 missing file"]
    assert "skipped: 1 no label" in fields["notes"]
    assert fields["leaks"]["test"]["count"] == 0


def test_the_stream_is_read_once_and_only_a_little_ahead(pair, monkeypatch):
    import palate.datasets.check as check

    alive, most, group = 0, 0, pair(0)
    seen = check._look(group)

    class Counted(Group):
        def __del__(self):
            nonlocal alive
            alive -= 1

    def source():
        nonlocal alive, most
        for number in range(300):
            alive += 1
            yield Counted(f"g{number}", f"p{number}", group.candidates, group.labels)
            most = max(most, alive)

    monkeypatch.setattr(check, "_look", lambda _: seen)
    assert check_groups(source(), workers=2).groups == 300
    assert most < 12
