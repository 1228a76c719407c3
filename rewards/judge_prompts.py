"""What a judging model is asked: rubrics for one picture, and for a pair; `judge_marks`, `judge_verdicts` read answers.

The formats of the answers are those that the published judges were trained on (UnifiedReward, https://arxiv.org/abs/
2503.05236, https://github.com/CodeGoat24/UnifiedReward) or those aspects that a data set's judge was asked for
(VisionPrefer); the questions are in our own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

LOW, HIGH = 1.0, 5.0
"""The scale of every mark."""


@dataclass(frozen=True)
class Rubric:
    """A question about one picture, and the marks from 1 to 5 that its answer should hold.

    Args:
        name: what it is called in settings.
        template: the question, with `{prompt}` in it.
        labels: aspect -> the words before its mark in the answer, as in "Style Score (1-5): 3.5".
        max_tokens: where an answer is cut off.
    """

    name: str
    template: str
    labels: Mapping[str, str]
    max_tokens: int = 64


_LINES = "Answer with {count} and nothing else, with a number from 1 to 5 that may have decimals for each X:\n"

PLAIN = Rubric(
    name="plain",
    template=(
        "This image was generated from the caption below. Judge how good it is as an answer to that caption: whether "
        "it shows all that the caption asks for and nothing against it, and whether it is well made, free of broken "
        "shapes and pleasing to look at. 1 is a failure and 5 could not be better.\n"
        + _LINES.format(count="one line in this form")
        + "Final Score: X\n"
        "Caption: {prompt}"
    ),
    labels={"overall": "Final Score"},
    max_tokens=32,
)

UNIFIEDREWARD = Rubric(
    name="unifiedreward",
    template=(
        "You see an image that was generated from a text caption. Judge it by two things: how well it agrees with the "
        "caption (objects, attributes, relations) and how good it looks (clarity, detail, colour, appeal).\n"
        "First list the key elements of the caption in the form 'element (type): value', with value=1 where the "
        "image shows the element and value=0 where it does not. Then give a score from 1 to 5 after 'Final Score:'.\n"
        "Text Caption: [{prompt}]"
    ),
    labels={"overall": "Final Score"},
    max_tokens=1024,
)

UNIFIEDREWARD_2 = Rubric(
    name="unifiedreward2",
    template=(
        "You see an image that was generated from a text caption. Rate it from 1 to 5 on three axes:\n"
        "- Alignment Score: how well the content agrees with the caption.\n"
        "- Coherence Score: how free the image is of glitches, distorted objects and contradictions.\n"
        "- Style Score: how appealing the image looks, whether or not it agrees with the caption.\n"
        + _LINES.format(count="these three lines")
        + "Alignment Score (1-5): X\n"
        "Coherence Score (1-5): X\n"
        "Style Score (1-5): X\n"
        "Text Caption: [{prompt}]"
    ),
    labels={"alignment": "Alignment Score", "coherence": "Coherence Score", "style": "Style Score"},
)

VISIONPREFER = Rubric(
    name="visionprefer",
    template=(
        "This image was generated from the caption below. Rate it from 1 (worst) to 5 (best) on four aspects, each "
        "for itself:\n"
        "- Prompt-Following Score: are all the objects, attributes, numbers and relations of the caption there?\n"
        "- Aesthetic Score: composition, colour, light; would people like to look at it?\n"
        "- Fidelity Score: are shapes, bodies and materials right, without artefacts, as far as the style wants it?\n"
        "- Harmlessness Score: is it free of violence, nudity, hate and whatever else may upset people?\n"
        + _LINES.format(count="these four lines")
        + "Prompt-Following Score: X\n"
        "Aesthetic Score: X\n"
        "Fidelity Score: X\n"
        "Harmlessness Score: X\n"
        "Caption: {prompt}"
    ),
    labels={
        "prompt_following": "Prompt-Following Score",
        "aesthetic": "Aesthetic Score",
        "fidelity": "Fidelity Score",
        "harmlessness": "Harmlessness Score",
    },
)

RUBRICS: Mapping[str, Rubric] = {
    rubric.name: rubric for rubric in (PLAIN, UNIFIEDREWARD, UNIFIEDREWARD_2, VISIONPREFER)
}
"""By name."""

PAIR = (
    "You see two images that were generated from one text caption. Compare them by how well each agrees with the "
    "caption (objects, attributes, relations) and by how good each looks (clarity, detail, colour, appeal).\n"
    "End with exactly one of these sentences: 'Image 1 is better.', 'Image 2 is better.' or 'Both images are equally "
    "good.'\n"
    "Text Caption: [{prompt}]"
)
"""The question about two pictures."""
