"""The rules: the oracle refuses what they make of the shapes world's prompts, and no change undoes another."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from palate.datasets.shapes.oracle import judge
from palate.datasets.shapes.prompts import all_prompts, draw_scene
from palate.datasets.shapes.world import render
from palate.errors import UserError
from palate.t2i.build.captions.lexicon import Sense, english, plural
from palate.t2i.build.captions.rules import RulePerturber
from palate.t2i.build.captions.word_edits import Edit, apply_edits, cased

STRENGTHS = {"weak": 0.4, "medium": 0.6, "strong": 0.8}
LION = "a majestic lion resting in the golden savanna at sunset, cinematic lighting, 8k"
KNOWN = "two young dogs, red cats, tall men, wooden boats and wet trees"  # ten words that count, all known


def perturbed(text: str, strength: str = "medium", seed: int = 0) -> str:
    new = RulePerturber(strength, seed).perturb(text)
    assert new is not None
    return new


def replaced(old: str, new: str) -> int:
    """Words that differ, place by place, articles apart."""
    pairs = zip(old.split(), new.split(), strict=True)
    return sum(a != b and {a, b} != {"a", "an"} for a, b in pairs)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_oracle_refuses_every_picture_of_the_first_prompt(strength):
    rng = np.random.default_rng(0)
    categories = set()
    for number, prompt in enumerate(all_prompts()):
        if number % 5 == 0:
            picture = render(draw_scene(prompt, rng))
            assert judge(prompt, picture).correct
            changed = perturbed(prompt.text, strength, seed=number % 3)
            verdict = judge(changed, picture)  # raises where it is no sentence of the world
            assert not verdict.correct, (prompt.text, changed)
            categories.add(prompt.category)
    assert len(categories) == 6


def test_shares_of_the_words_by_strength():
    for seed in range(20):
        counts = [replaced(KNOWN, perturbed(KNOWN, strength, seed)) for strength in STRENGTHS]
        # An exchange changes two words at once, so that one more than the share may be changed.
        for count, share in zip(counts, STRENGTHS.values(), strict=True):
            assert math.ceil(share * 10) <= count <= math.ceil(share * 10) + 1
        assert counts == sorted(counts)


def test_weak_is_never_strong_where_two_changes_can_be_made():
    for number, prompt in enumerate(all_prompts()):
        weak, strong = (perturbed(prompt.text, strength, seed=number % 3) for strength in ("weak", "strong"))
        assert (weak != strong) == (prompt.category != "single_object"), prompt.text


def test_a_stronger_one_makes_all_changes_of_a_weaker_one():
    for seed in range(20):
        weak, medium, strong = (perturbed(KNOWN, strength, seed).split() for strength in STRENGTHS)
        for old, *new in zip(KNOWN.split(), weak, medium, strong, strict=True):
            changed = [word for word in new if word != old]
            assert len(set(changed)) <= 1
            assert new == [old] * (3 - len(changed)) + changed  # once changed, it stays


def test_the_same_for_a_seed_and_a_text():
    assert perturbed(LION, seed=1) == perturbed(LION, seed=1)
    assert len({perturbed(LION, seed=seed) for seed in range(10)}) > 5


@pytest.mark.parametrize(
    "text",
    [
        "a red cube and a blue ball",
        "a young man beside an old man",
        "big red ball, small blue ball",
        "a cat on the left and a dog on the right",
        "red and blue balloons",
        "a quokka above a numbat in a billabong",
    ],
)
@pytest.mark.parametrize("strength", STRENGTHS)
def test_no_seed_says_the_same_in_other_words(text, strength):
    """The same nouns with the same attributes, in another order, would be the same picture."""

    def said(sentence: str) -> set[tuple[str, ...]]:
        phrases = re.split(r" (?:and|on the|beside|above|in) |, ", sentence.lower())
        return {tuple(word for word in phrase.split() if word not in ("a", "an")) for phrase in phrases}

    outcomes = {perturbed(text, strength, seed) for seed in range(60)}
    assert text not in outcomes
    if "quokka" not in text:
        assert all(said(outcome) != said(text) for outcome in outcomes)
    assert "a numbat below a quokka in a billabong" not in outcomes


def test_unknown_nouns_do_not_change_places_across_a_relation_that_is_replaced():
    """An erg from below a quokka would be the same picture as a quokka from above an erg."""
    outcomes = {perturbed("a quokka from above an erg", "strong", seed) for seed in range(30)}
    assert "a quokka from under an erg" in outcomes
    assert {outcome.split()[1] for outcome in outcomes} == {"quokka"}


def test_unknown_nouns_do_not_change_places_where_they_stand_beside_each_other():
    assert all(RulePerturber("strong", seed).perturb("a quokka by a numbat") is None for seed in range(30))


def test_nouns_exchange_their_attributes():
    outcomes = {perturbed("a red cube and a blue ball", "weak", seed) for seed in range(60)}
    assert "a blue cube and a red ball" in outcomes
    together = {perturbed("red and blue balloons", "weak", seed) for seed in range(60)}
    assert "blue and red balloons" not in together


@pytest.mark.parametrize(
    "text",
    [
        "a pink purple sky",
        "a red majestic green dragon",
        "a young happy old sad man",
        "a red furry, blue cat",
        "a red ball against a blue ball",
    ],
)
def test_what_one_thing_has_changes_no_places(text):
    """A purple pink sky is a pink purple one, and so it is across unknown words that are the thing's too."""
    words = set(re.findall(r"\w+", text))
    outcomes = {perturbed(text, strength, seed) for strength in STRENGTHS for seed in range(60)}
    assert all(set(re.findall(r"\w+", outcome)) - words - {"a", "an"} for outcome in outcomes)


def test_things_of_several_attributes_exchange_them():
    outcomes = {perturbed("a big red dog beside a tiny blue sports car", "weak", seed) for seed in range(60)}
    assert any(re.match(r"a tiny \w+ \w+ .+ a big \w+ sports", outcome) for outcome in outcomes)
    assert any(re.match(r"an? \w+ blue \w+ .+ an? \w+ red sports", outcome) for outcome in outcomes)


def test_what_is_changed_first():
    medium = {perturbed("a photo of a dog near a brook", "weak", seed).split()[1] for seed in range(30)}
    assert medium == {"photo"}
    assert perturbed("a quokka in an erg") == "an erg in a quokka"


def test_numbers_are_counts_only_before_words():
    for seed in range(20):
        new = perturbed("2 dogs, 16:9, 35 mm, 4k", "strong", seed)
        assert re.fullmatch(r"[a-z]+ [a-z]+, 16:9, 35 mm, 4k", new)
        assert new.split()[0] in {words[0] for words in english().classes["number"]} - {"two"}


def test_plurals_capitals_and_articles():
    for seed in range(30):
        first, second = perturbed("Two DOGS", "strong", seed).split()
        assert first[0].isupper()
        assert first[1:].islower()
        assert second.isupper()
        assert second.lower() in {english().plurals.get(w[0], plural(w[0])) for w in english().classes["animal"]}
        article, noun = perturbed("a dog", "strong", seed).split()
        assert (article == "an") == (noun[0] in "aeiou" and noun != "unicorn")


def test_what_is_not_changed_stays_byte_by_byte():
    text = "  très beau 🎨  RED\tquokka -- «一只»  \n"
    new = perturbed(text, "weak")
    assert re.fullmatch(r"  très beau 🎨  [A-Z]+\tquokka -- «一只»  \n", new)


@pytest.mark.parametrize(
    "text", ["", "   ", "the of and", "quokka", "quokka, billabong", "一只红色的猫", "🎨", "красная кошка"]
)
def test_without_a_word_to_change_there_is_nothing(text):
    assert RulePerturber("strong").perturb(text) is None


def test_long_prompts():
    text = ", ".join([LION] * 150)
    sizes = [len(perturbed(text, strength)) for strength in STRENGTHS]
    assert min(sizes) > 0.5 * len(text)
    assert perturbed(text) != text


def test_an_unknown_strength():
    with pytest.raises(UserError, match="no strength 'brutal'; there are weak, medium, strong"):
        RulePerturber("brutal")


def test_edits_by_hand():
    text = "An owl, a cat and A DOG"
    edits = [Edit(3, 6, "dog"), Edit(10, 13, "unicorn"), Edit(20, 23, "OX")]
    assert apply_edits(text, edits) == "A dog, a unicorn and An OX"
    assert apply_edits(text, [Edit(6, 13, "")]) == "An owl and A DOG"
    assert [cased("left of", like) for like in ("above", "Above", "ABOVE", "A")] == [
        "left of",
        "Left of",
        "LEFT OF",
        "Left of",
    ]


def test_what_is_written_is_read_back_as_what_was_meant():
    lexicon = english()
    for kind, meanings in lexicon.classes.items():
        assert len(meanings) > 1
        for meaning, words in enumerate(meanings):
            assert all(lexicon.senses[tuple(word.split())] == Sense(kind, meaning) for word in words)
    assert lexicon.senses["mice",] == Sense("animal", lexicon.senses["mouse",].meaning, plural=True)
    assert [plural(noun) for noun in ("fox", "bus", "berry", "toy", "couch")] == [
        "foxes",
        "buses",
        "berries",
        "toys",
        "couches",
    ]
