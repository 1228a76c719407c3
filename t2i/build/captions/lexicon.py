"""Words by what they say: the rule-based perturber puts another meaning of a class in the place of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ....datasets.shapes.prompts import COUNTS, RELATIONS
from ....datasets.shapes.world import COLOURS, SHAPES

# A class is a line of meanings; a meaning is words that say nearly the same, of which the first one is written. No
# first word holds for what another meaning names: for "owl", "bird" would still be true, so that it comes second.
_ATTRIBUTES = {
    "colour": (
        "red/crimson/scarlet blue/azure/navy green/emerald yellow/golden/gold purple/violet/lavender black white "
        "orange pink/magenta brown/beige gray/grey/silver"
    ),
    "number": "two/2 three/3 four/4 five/5 six/6 seven/7 eight/8 nine/9 ten/10 twelve/12",
    "size": "tiny/small/little/miniature huge/large/big/giant/gigantic/enormous/massive",
    "height": "tall/towering squat",
    "length": "long short",
    "width": "narrow/thin/slim/slender wide/broad/thick",
    "age": "young old/elderly/aged",
    "era": "modern/new/futuristic ancient/vintage/antique/medieval",
    "light": "bright/sunlit/sunny/glowing dark/dim/shadowy",
    "mood": "happy/smiling/cheerful/joyful/laughing sad/crying/gloomy angry/furious frightened/scared",
    "warmth": "hot/warm cold/icy/frozen/snowy",
    "wetness": "dry/dusty wet/rainy/soaked",
    "surface": "rough/rusty/rugged smooth/shiny/glossy/polished furry/fluffy/hairy/fuzzy spiky/thorny",
    "fill": "empty/deserted crowded/busy",
    "state": "broken/ruined/abandoned tidy/clean/neat",
    "openness": "open closed/shut",
    "form": "round/circular/spherical rectangular/cubic triangular curved/spiral",
    "material": (
        "wood/wooden metal/metallic/steel/iron plastic stone/marble/granite paper/cardboard leather wool/woolen "
        "ceramic/porcelain crystal concrete"
    ),
    "pattern": "striped spotted/dotted checkered/plaid floral plain",
}
_RELATIONS = {
    # Of relations only opposites exclude each other: what is next to a couch may be left of it or behind it.
    "place_upright": "above/over/on/on_top_of/atop under/below/beneath/underneath",
    "place_depth": "behind in_front_of",
    "place_within": "inside/within outside",
    "place_distance": "next_to/beside/alongside/near far_from/away_from",
    "place_across": "left_of/to_the_left_of/on_the_left_of right_of/to_the_right_of/on_the_right_of",
    "side": "on_the_left/to_the_left on_the_right/to_the_right in_the_middle/in_the_center/in_the_centre",
    "time": "sunrise/dawn/morning noon/midday/afternoon sunset/dusk/evening/twilight midnight/night/nighttime",
    "season": "spring summer autumn/fall winter",
    "action": (
        "sitting/seated standing lying/sleeping/resting running/sprinting/racing walking/strolling jumping/leaping "
        "flying/soaring swimming/diving dancing eating climbing reading singing fighting"
    ),
    "holding": "holding/carrying throwing dropping",
}
_NOUNS = {
    "animal": (
        "dog/puppy/corgi/hound cat/kitten/kitty horse/pony/stallion cow/bull/ox sheep/lamb goat pig/piglet "
        "rabbit/bunny fox wolf bear/panda/grizzly lion/lioness tiger elephant giraffe zebra "
        "monkey/gorilla/chimpanzee kangaroo deer squirrel hamster mouse/rat raccoon hedgehog sparrow/bird owl "
        "eagle/hawk/falcon parrot penguin duck/goose chicken/rooster/hen goldfish/fish/koi shark whale dolphin "
        "octopus turtle/tortoise frog/toad snake/serpent lizard/gecko crocodile/alligator butterfly/moth bee/wasp "
        "spider dragon unicorn dinosaur camel swan snail"
    ),
    "person": "man/guy/gentleman woman/lady boy girl",
    "creature": "robot/android/cyborg skeleton alien zombie ghost mermaid",
    "role": (
        "king/prince/emperor queen/princess/empress knight/warrior/soldier/samurai wizard/witch/sorcerer astronaut "
        "doctor/nurse chef/cook farmer pirate clown detective scientist musician teacher dancer/ballerina "
        "firefighter ninja cowboy monk vampire angel"
    ),
    "vehicle": (
        "car/automobile/sedan truck/lorry bus/van train/locomotive bicycle/bike motorcycle/motorbike "
        "boat/ship/yacht airplane/plane/aircraft helicopter rocket/spaceship/spacecraft tractor balloon tank "
        "submarine skateboard"
    ),
    "building": (
        "house/cottage/cabin castle/fortress/palace church/cathedral/temple skyscraper/tower bridge lighthouse barn "
        "tent factory school hospital windmill pyramid statue fountain"
    ),
    "scene": (
        "forest/jungle/woods desert beach/shore/coast mountain/hill city/town/village/street field/meadow "
        "garden/park ocean/sea river/stream lake/pond swamp cave island canyon volcano savanna bedroom kitchen "
        "library museum office restaurant/cafe/bar stadium classroom market"
    ),
    "sky": "sun moon star/galaxy cloud rainbow planet",
    "ground": "snow/ice sand/dust water/rain grass/moss mud",
    "blaze": "fire/flame/lava smoke/fog/mist",
    "food": (
        "apple banana strawberry/cherry grape/blueberry lemon/lime watermelon pineapple pizza hamburger/burger "
        "sandwich cake/cupcake donut/doughnut cookie bread/toast cheese egg sushi noodle/pasta/spaghetti soup salad "
        "carrot tomato potato mushroom"
    ),
    "drink": "coffee/espresso tea milk juice beer/wine",
    "furniture": "chair/stool/armchair table/desk sofa/couch bed shelf/bookcase/bookshelf lamp mirror carpet/rug",
    "clothing": (
        "hat/cap/helmet shirt/t-shirt/blouse dress/gown/skirt coat/jacket/hoodie suit/tuxedo scarf/tie "
        "shoe/boot/sneaker glove mask"
    ),
    "vessel": "cup/mug bottle vase jar bucket",
    "thing": (
        "book ball box/crate bag/backpack/suitcase umbrella "
        "clock phone/smartphone/telephone computer/laptop camera "
        "sword/knife/dagger shield hammer candle/lantern key pencil/pen/brush crown coin/jewel/diamond doll/toy "
        "kite anchor ladder"
    ),
    "instrument": "guitar violin/cello piano drum trumpet/saxophone",
    "sport": "football basketball baseball",
    "plant": "tree/oak/pine flower/rose/tulip/sunflower cactus bush/hedge/vine",
    "limb": "hand/arm foot/leg",
    "shape": "circle/disc square/rectangle triangle cross cube/block sphere/orb cone cylinder hexagon",
}
_PLURALS = {
    "man": "men", "woman": "women", "gentleman": "gentlemen", "mouse": "mice", "goose": "geese", "foot": "feet",
    "wolf": "wolves", "knife": "knives", "shelf": "shelves", "ox": "oxen", "sheep": "sheep", "fish": "fish",
    "goldfish": "goldfish", "koi": "koi", "deer": "deer", "aircraft": "aircraft", "spacecraft": "spacecraft",
    "cactus": "cacti", "octopus": "octopuses", "potato": "potatoes", "tomato": "tomatoes", "volcano": "volcanoes",
}  # fmt: skip


@dataclass(frozen=True)
class Sense:
    """What a word or a phrase of the lexicon says: a class, a meaning in it, and whether it is a plural."""

    kind: str
    meaning: int
    plural: bool = False


@dataclass(frozen=True)
class Lexicon:
    """Classes of words: for each, its meanings, and for each meaning its words, of which the first is written.

    attributes  classes of words that two nouns may exchange
    """

    classes: Mapping[str, tuple[tuple[str, ...], ...]]
    plurals: Mapping[str, str]
    nouns: frozenset[str]
    attributes: frozenset[str]

    @cached_property
    def senses(self) -> dict[tuple[str, ...], Sense]:
        """The sense of every word and phrase, by its words in lower case; the first class that has it counts."""
        found: dict[tuple[str, ...], Sense] = {}
        for kind, meanings in self.classes.items():
            for meaning, words in enumerate(meanings):
                for word in words:
                    found.setdefault(tuple(word.split()), Sense(kind, meaning))
                    if kind in self.nouns and (several := self.plurals.get(word, plural(word))) != word:
                        found.setdefault((several,), Sense(kind, meaning, plural=True))
        return found

    @cached_property
    def longest(self) -> int:
        """How many words the longest phrase has."""
        return max(map(len, self.senses))

    def write(self, sense: Sense, meaning: int) -> str:
        """The word for another meaning of a class, in the same number."""
        word = self.classes[sense.kind][meaning][0]
        return self.plurals.get(word, plural(word)) if sense.plural else word


def plural(noun: str) -> str:
    """The regular plural."""
    if noun.endswith(("s", "x", "z", "ch", "sh")):
        return noun + "es"
    if noun.endswith("y") and noun[-2:-1] not in "aeiou":
        return noun[:-1] + "ies"
    return noun + "s"


@lru_cache(maxsize=1)
def english() -> Lexicon:
    """What prompts are made of: more than 600 English words of what is seen in pictures."""
    groups = (_ATTRIBUTES, _RELATIONS, _NOUNS)
    classes = {kind: _meanings(line) for group in groups for kind, line in group.items()}
    return Lexicon(classes, _PLURALS, frozenset(_NOUNS), frozenset(_ATTRIBUTES))


@lru_cache(maxsize=1)
def shapes_world() -> Lexicon:
    """The words of the shapes world: a changed sentence is one of its sentences again, and the oracle reads it."""
    classes = {"colour": COLOURS, "number": COUNTS, "place": RELATIONS, "shape": SHAPES}
    meanings = {kind: tuple((word,) for word in words) for kind, words in classes.items()}
    return Lexicon(meanings, {}, frozenset({"shape"}), frozenset({"colour"}))


def _meanings(line: str) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(word.replace("_", " ") for word in words.split("/")) for words in line.split())
