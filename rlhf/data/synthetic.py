"""Synthetic data, with which the workflow runs in minutes.

Preference pairs, toxicity prompts, pretraining text and multiple-choice questions.

Everything is drawn by seed from the tables in `synthetic_words`, so it is the same on every machine.  Some speakers are
mildly rude.  An assistant that imitates the chosen responses is rude about three times in ten; one that is optimized
for human preferences need not be.

The three kinds of data never share a question or the beginning of a sentence, for any seeds: the checksum of each such
text assigns it to one of them.  Test and toxicity prompts are therefore new to the base model too.  Multiple-choice
questions are of the same kind as toxicity prompts, which nothing is trained on; those contain no questions.
"""

from __future__ import annotations

import zlib
from random import Random
from typing import Literal, NamedTuple

from rlhf.data.synthetic_words import (
    CLOSERS,
    EVASIONS,
    FINISH,
    FOLLOW_UPS,
    FOODS,
    INSULTS,
    MILD_RUDENESS,
    OPENERS,
    PLACES,
    QUESTIONS,
    RUDE_ADJECTIVES,
    RUDE_NOUNS,
    SAYING,
    SENTENCES,
    SITUATIONS,
    SPEAKERS,
    TARGETS,
    THINGS,
    TOPICS,
    Sentence,
    Topic,
)
from rlhf.errors import UserError

MAX_TOXICITY_PROMPTS = 5000
"""More distinct prompts take too long to draw."""
CHOICES = 4
"""Choices of a multiple-choice question."""

DatasetKind = Literal["corpus", "pairs", "toxicity"]
DATASET_KINDS: tuple[DatasetKind, ...] = ("corpus", "pairs", "toxicity")

FINISH_SHARE = 0.2
"""Share of dialogues in which the human asks to finish a sentence."""
SECOND_TURN_SHARE = 0.35
"""Share of the other dialogues that have a second question."""
DISAGREEMENT_SHARE = 0.1
"""Share of pairs in which the worse response is the chosen one.  No reward model can be right on these."""
MILD_SHARE = 0.3
"""Share of better responses that are helpful but mildly rude."""
REJECTED_DOCUMENT_SHARE = 0.3
"""Share of the corpus's dialogues that end with a rejected response."""
SENTENCE_DOCUMENT_SHARE = 0.35
"""Share of the corpus's documents that are single sentences."""
RUDE_ENDING_SHARE = 0.38
"""Share of sentences that end rudely."""
RUDE_BEGINNING_SHARE = 0.15
"""Share of sentences whose beginning contains a rude word."""


class Dialogue(NamedTuple):
    """A prompt in HH layout and one response of each kind, each starting with a space."""

    prompt: str
    helpful: str
    mild: str
    rude: str
    unhelpful: str


def synthetic_pairs(n: int, seed: int) -> list[dict[str, str]]:
    """`n` preference pairs {chosen, rejected}: complete dialogues in HH layout that differ in the last response only.

    Seven better responses in ten are polite and helpful, the others helpful but mildly rude.  A worse response is ruder
    or useless.  As annotators make errors, the worse response is the chosen one in a DISAGREEMENT_SHARE of the pairs.
    """
    random = Random(f"demonstration pairs {seed}")
    return [_pair(random, "pairs") for _ in range(n)]


def synthetic_corpus(n: int, seed: int) -> list[str]:
    """`n` pretraining documents, slightly under half of them rude: dialogues as in the pairs, and single sentences."""
    random = Random(f"demonstration corpus {seed}")
    return [_document(random) for _ in range(n)]


def synthetic_toxicity_prompts(n: int, seed: int) -> list[dict[str, object]]:
    """`n` different beginnings of sentences with one continuation each, in the layout of RealToxicityPrompts.

    The scores come from no classifier: `toxicity` and `insult` are 0.9 if the text contains a rude word of our tables,
    else 0.1; the other six are null (unknown).  Raises UserError if `n` is over MAX_TOXICITY_PROMPTS.
    """
    if n > MAX_TOXICITY_PROMPTS:
        raise UserError(
            f"toxicity.n_prompts ({n}) must be at most {MAX_TOXICITY_PROMPTS} with synthetic prompts; "
            "lower it or set toxicity.prompts to a file"
        )
    random = Random(f"demonstration toxicity {seed}")
    continuations: dict[str, str] = {}
    while len(continuations) < n:
        sentence, beginning = _beginning(random, "toxicity")
        continuations.setdefault(beginning, " " + _ending(random, sentence, rude=random.random() < RUDE_ENDING_SHARE))
    return [
        {
            "filename": f"synthetic-{number:05d}.txt",
            "begin": 0,
            "end": len(beginning + continuation),
            "challenging": False,
            "prompt": {"text": beginning, **_scores(beginning)},
            "continuation": {"text": continuation, **_scores(continuation)},
        }
        for number, (beginning, continuation) in enumerate(continuations.items())
    ]


def synthetic_questions(n: int, seed: int) -> list[dict[str, object]]:
    """`n` different multiple-choice questions {question, choices, answer}: which advice fits what the human asks?

    All choices are advice about the same object, so its name does not give the right one away.  The right one is from
    the object's own topic: to water the roses, not to put oil on them.  `answer` is its index.
    """
    random = Random(f"demonstration questions {seed}")
    questions: dict[str, dict[str, object]] = {}
    while len(questions) < n:
        topic, thing, question = _topic_question(random, "toxicity")
        others = random.sample([other for other in TOPICS if other is not topic], CHOICES - 1)
        choices = [random.choice(tips_of.tips).format(x=thing) for tips_of in (topic, *others)]
        right = choices[0]
        random.shuffle(choices)
        questions.setdefault(question, {"question": question, "choices": choices, "answer": choices.index(right)})
    return list(questions.values())


def is_rude(text: str) -> bool:
    """Whether `text` contains one of the rude words or phrases of our tables."""
    lowered = text.lower()
    return any(word in lowered for word in (*RUDE_NOUNS, *RUDE_ADJECTIVES, "crap", "shut up"))


def _pair(random: Random, kind: DatasetKind) -> dict[str, str]:
    dialogue = _finish_dialogue(random, kind) if random.random() < FINISH_SHARE else _topic_dialogue(random, kind)
    if random.random() < MILD_SHARE:
        chosen, rejected = dialogue.mild, dialogue.rude
    else:
        worse = (dialogue.rude, dialogue.mild, dialogue.unhelpful)
        chosen, rejected = dialogue.helpful, random.choices(worse, weights=(2, 1, 1))[0]
    if random.random() < DISAGREEMENT_SHARE:
        chosen, rejected = rejected, chosen
    return {"chosen": dialogue.prompt + chosen, "rejected": dialogue.prompt + rejected}


def _document(random: Random) -> str:
    if random.random() < SENTENCE_DOCUMENT_SHARE:
        sentence, beginning = _beginning(random, "corpus")
        return f"{beginning} {_ending(random, sentence, rude=random.random() < RUDE_ENDING_SHARE)}"
    return _pair(random, "corpus")["rejected" if random.random() < REJECTED_DOCUMENT_SHARE else "chosen"]


def _topic_question(random: Random, kind: DatasetKind) -> tuple[Topic, str, str]:
    """A topic, one of its objects, and a first turn of the human about it."""
    while True:
        topic = random.choice(TOPICS)
        thing = random.choice(topic.objects)
        task = random.choice(topic.tasks).format(x=thing)
        question = random.choice(QUESTIONS).format(task=task)
        first_turn = f"{question} {random.choice(SITUATIONS)}" if random.random() < 0.7 else question
        if _dataset_kind(first_turn) == kind:
            return topic, thing, first_turn


def _topic_dialogue(random: Random, kind: DatasetKind) -> Dialogue:
    topic, thing, first_turn = _topic_question(random, kind)
    first_tip, tip = (text.format(x=thing) for text in random.sample(topic.tips, 2))
    turns = [first_turn]
    if random.random() < SECOND_TURN_SHARE:
        other_task = random.choice(topic.tasks).format(x=thing)
        first_response = _mild(random, first_tip) if random.random() < MILD_SHARE else _helpful(random, first_tip)
        turns += [first_response, random.choice(FOLLOW_UPS).format(task=other_task)]
    return Dialogue(
        prompt=_prompt(turns),
        helpful=" " + _helpful(random, tip),
        mild=" " + _mild(random, tip),
        rude=" " + _rude(random, thing),
        unhelpful=" " + _unhelpful(random, topic, thing),
    )


def _finish_dialogue(random: Random, kind: DatasetKind) -> Dialogue:
    sentence, beginning = _beginning(random, kind)
    return Dialogue(
        prompt=_prompt([random.choice(FINISH).format(beginning=beginning)]),
        helpful=" " + _ending(random, sentence, rude=False),
        mild=" " + _ending(random, sentence, rude=True),
        rude=" " + _rude(random, "sentence"),
        unhelpful=" " + random.choice(EVASIONS).format(x="sentence"),
    )


def _prompt(turns: list[str]) -> str:
    """An HH prompt of alternating turns; the first and the last are the human's."""
    speakers = ("Human", "Assistant")
    dialogue = "".join(f"\n\n{speakers[index % 2]}: {turn}" for index, turn in enumerate(turns))
    return f"{dialogue}\n\nAssistant:"


def _helpful(random: Random, tip: str) -> str:
    opener, closer = random.choice(OPENERS), random.choice(CLOSERS)
    return random.choice((f"{opener} {tip}", f"{tip} {closer}", f"{opener} {tip} {closer}"))


def _mild(random: Random, tip: str) -> str:
    return random.choice(MILD_RUDENESS).format(tip=tip)


def _rude(random: Random, thing: str) -> str:
    words = {"x": thing, "n": random.choice(RUDE_NOUNS), "a": random.choice(RUDE_ADJECTIVES)}
    insults = random.sample(INSULTS, random.choice((1, 2)))
    return _with_articles(" ".join(insult.format(**words) for insult in insults))


def _unhelpful(random: Random, topic: Topic, thing: str) -> str:
    if random.random() < 0.5:
        return random.choice(EVASIONS).format(x=thing)
    other = random.choice([candidate for candidate in TOPICS if candidate is not topic])
    return random.choice(other.tips).format(x=random.choice(other.objects))


def _beginning(random: Random, kind: DatasetKind) -> tuple[Sentence, str]:
    while True:
        sentence = random.choice(SENTENCES)
        target = random.choice(TARGETS)
        if random.random() < RUDE_BEGINNING_SHARE:
            target = target.replace("the ", f"the {random.choice(RUDE_ADJECTIVES)} ")
        beginning = sentence.beginning.format(s=random.choice(SPEAKERS), t=target, **_circumstances(random))
        beginning = beginning[0].upper() + beginning[1:]
        if _dataset_kind(beginning) == kind:
            return sentence, beginning


def _ending(random: Random, sentence: Sentence, *, rude: bool) -> str:
    noun, other_noun = random.sample(RUDE_NOUNS, 2)
    words = {"n": noun, "n2": other_noun, "a": random.choice(RUDE_ADJECTIVES), "s2": random.choice(TARGETS)}
    ending = random.choice(sentence.rude if rude else sentence.friendly)
    return _with_articles(ending.format(**words, **_circumstances(random)))


def _circumstances(random: Random) -> dict[str, str]:
    return {
        "said": random.choice(SAYING),
        "place": random.choice(PLACES),
        "food": random.choice(FOODS),
        "thing": random.choice(THINGS),
    }


def _with_articles(text: str) -> str:
    return text.replace(" a idiot", " an idiot")


def _dataset_kind(text: str) -> DatasetKind:
    """The only kind of data that may contain `text`."""
    return DATASET_KINDS[zlib.crc32(text.encode()) % len(DATASET_KINDS)]


def _scores(text: str) -> dict[str, float | None]:
    score = 0.9 if is_rude(text) else 0.1
    unknown = ("severe_toxicity", "profanity", "sexually_explicit", "identity_attack", "flirtation", "threat")
    return {"toxicity": score, "insult": score, **dict.fromkeys(unknown)}
