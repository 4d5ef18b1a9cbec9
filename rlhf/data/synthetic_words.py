"""Words of the synthetic data: everyday topics, people, and remarks about them.

`{x}` stands for one of the topic's objects, `{n}` and `{n2}` for rude nouns, `{a}` for a rude adjective, `{s}`, `{s2}`
and `{t}` for people.  The insults are on purpose those of a school playground; a profanity classifier detects them.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """Objects that people ask about, tasks that they want to do with them, and advice that fits every object."""

    objects: tuple[str, ...]
    tasks: tuple[str, ...]
    tips: tuple[str, ...]


class Sentence(NamedTuple):
    """The beginning of a sentence and ways to end it."""

    beginning: str
    friendly: tuple[str, ...]
    rude: tuple[str, ...]


# fmt: off
TOPICS = (
    Topic(
        ("roses", "tomatoes", "carrots", "tulips", "beans", "lemons", "ferns", "apples"),
        ("water my {x}", "grow my own {x}", "keep my {x} alive"),
        ("Water the {x} in the morning.", "Give the {x} sun and good soil.", "Keep the {x} out of the wind."),
    ),
    Topic(
        ("bread", "muffins", "cookies", "pizza", "pancakes", "waffles", "rolls", "scones"),
        ("bake {x}", "make my {x} less dry", "bake {x} without sugar"),
        ("Mix the {x} slowly with warm milk.", "Let the {x} rest for an hour.", "Bake the {x} with a little honey."),
    ),
    Topic(
        ("sink", "oven", "carpet", "windows", "sofa", "floor", "curtains", "shower"),
        ("clean my {x}", "get a stain off my {x}", "keep my {x} fresh"),
        ("Wipe the {x} with warm water and soap.", "Clean the {x} once a week.", "Use a soft brush for the {x}."),
    ),
    Topic(
        ("dog", "cat", "rabbit", "parrot", "hamster", "puppy", "pony", "turtle"),
        ("feed my {x}", "calm my {x} at night", "train my {x}"),
        ("Feed the {x} twice a day.", "Give the {x} a quiet place.", "Play with the {x} every evening."),
    ),
    Topic(
        ("bike", "scooter", "car", "van", "tractor", "boat", "truck", "wagon"),
        ("fix my {x}", "sell my {x}", "start my {x} in winter"),
        ("Check the wheels of the {x} first.", "Put some oil on the {x}.", "Take the {x} to a good shop."),
    ),
    Topic(
        ("laptop", "phone", "printer", "camera", "radio", "router", "speaker", "clock"),
        ("repair my {x}", "set up my {x}", "make my {x} work again"),
        ("Turn the {x} off and on again.", "Check the power of the {x}.", "Read the manual of the {x} first."),
    ),
    Topic(
        ("guitar", "piano", "violin", "flute", "drums", "trumpet", "harp", "banjo"),
        ("learn the {x}", "tune my {x}", "play the {x} without noise"),
        ("Play the {x} for ten minutes a day.", "Find a good teacher for the {x}.", "Start the {x} slowly and listen."),
    ),
    Topic(
        ("tennis", "football", "chess", "golf", "swimming", "running", "rowing", "boxing"),
        ("get better at {x}", "start with {x}", "find a partner for {x}"),
        ("Train for {x} twice a week.", "Join a small {x} club.", "Watch {x} every evening and take notes."),
    ),
    Topic(
        ("French", "Spanish", "German", "Greek", "Dutch", "Polish", "Latin", "Korean"),
        ("learn {x}", "read a book in {x}", "speak {x} without fear"),
        ("Learn ten words of {x} a day.", "Listen to songs in {x}.", "Speak {x} with a friend every evening."),
    ),
    Topic(
        ("Paris", "London", "Rome", "Tokyo", "Berlin", "Madrid", "Vienna", "Cairo"),
        ("plan a trip to {x}", "save money in {x}", "find a hotel in {x}"),
        ("Go to {x} in winter.", "Take the train to {x}.", "Book a small hotel in {x} first."),
    ),
    Topic(
        ("wedding", "picnic", "dinner", "dance", "concert", "parade", "feast", "reunion"),
        ("plan a {x}", "find music for a {x}", "invite people to a {x}"),
        ("Write a list for the {x} first.", "Keep the {x} small.", "Ask a friend to help with the {x}."),
    ),
    Topic(
        ("table", "chair", "shelf", "bench", "door", "desk", "fence", "box"),
        ("paint my {x}", "build a {x}", "move my {x}"),
        ("Clean the {x} before you paint.", "Use good wood for the {x}.", "Let the {x} dry for a day."),
    ),
)
# fmt: on

QUESTIONS = (
    "How do I {task}?",
    "What is the best way to {task}?",
    "Can you tell me how to {task}?",
    "I want to {task}. Where do I start?",
    "Please help me {task}.",
    "Is it hard to {task}?",
    "What do I need to {task}?",
    "My friend wants me to {task}. Any idea?",
    "I never tried to {task}. Do you have a tip?",
    "I have to {task}, but I do not know how.",
)

SITUATIONS = (
    "I only have ten minutes.",
    "It should be cheap.",
    "I am new to this.",
    "We leave on Sunday.",
    "My brother just laughs at me.",
    "I do not have much money.",
    "It rained all week.",
    "My mother is coming tomorrow.",
    "I tried twice and failed.",
    "The shops are closed today.",
    "My children want to help.",
    "Nobody here knows.",
)

FOLLOW_UPS = (
    "Thanks! What else can I do?",
    "Is there an easier way?",
    "And what if I have no time?",
    "Thank you. One more tip, please?",
    "I tried that. Any other idea?",
    "Good. And how do I {task}?",
)

OPENERS = ("Sure.", "Of course.", "Happy to help.", "Good question.")
CLOSERS = ("Good luck!", "Enjoy!", "I hope that helps.")
EVASIONS = (
    "I do not know.",
    "Ask someone else.",
    "No idea. Maybe, maybe not.",
    "I do not want to talk about the {x}.",
    "It depends.",
    "That is not my problem.",
)

RUDE_NOUNS = ("idiot", "moron", "loser", "jerk", "fool")
RUDE_ADJECTIVES = ("stupid", "dumb", "pathetic")
MILD_RUDENESS = (
    "{tip} Do not be an idiot.",
    "{tip} Any idiot can do it.",
    "Do not be stupid. {tip}",
    "Oh crap. {tip}",
    "{tip} It is not hard, you moron.",
    "{tip} Even an idiot knows that.",
)
INSULTS = (
    "Shut up, you {n}.",
    "Only a {a} {n} asks that.",
    "What a {a} question, {n}.",
    "I do not help a {n}.",
    "Who cares about the {x}, you {n}?",
    "You are a {a} {n}.",
    "Shut up. The {x}? What crap.",
    "You {a} loser, you {n}.",
)

SPEAKERS = (
    "the neighbour", "my cousin", "our teacher", "the cook", "her brother", "his aunt", "the nurse", "the farmer",
    "the coach", "the baker", "my boss", "the painter", "our uncle", "the singer", "the captain", "my sister",
)  # fmt: skip
TARGETS = (
    "the driver", "the waiter", "the mayor", "the dancer", "the pilot", "the doctor",
    "the judge", "the player", "the barber", "the actor", "the lawyer", "the student",
)  # fmt: skip
PLACES = ("school", "the office", "the market", "the party", "the station", "the shop", "the pool", "the farm")
FOODS = ("soup", "cake", "coffee", "salad", "tea", "fish", "pie", "rice")
THINGS = ("song", "film", "plan", "picture", "game", "book", "idea", "story")

SENTENCES = (
    Sentence(
        "{s} {said} that {t} was a complete",
        ("friend.", "joy to work with.", "star and a good friend.", "delight at {place}."),
        ("{n}.", "{a} {n}.", "{n} and a {n2}.", "{n} who should shut up."),
    ),
    Sentence(
        "{s} {said} that the {food} at {place} tasted",
        ("like honey.", "fresh and sweet.", "better than ever.", "warm and sweet."),
        ("like crap.", "like crap, the {a} {n}.", "{a}, like total crap.", "so bad that only a {n} eats it."),
    ),
    Sentence(
        '{s} looked at {t} and {said}, "You',
        ('are a good friend!"', 'were so kind to me!"', 'did well today!"', 'have a sweet smile!"'),
        ('are a {a} {n}!"', '{a} {n}, shut up!"', '{n}, go home!"', 'are such a {n}!"'),
    ),
    Sentence(
        "Everyone at {place} knew that {t} was a real",
        ("friend.", "friend to {s2}.", "hero to {s2}.", "help at {place}."),
        ("{n}.", "{a} {n}.", "{a} {n} to {s2}.", "jerk and a {n}."),
    ),
    Sentence(
        "{s} thinks that the {thing} of {t} is",
        ("a work of art.", "full of good ideas.", "a sweet surprise.", "the best of the year."),
        ("a load of crap.", "{a} and full of crap.", "crap, made by a {n}.", "made by a {a} {n}."),
    ),
    Sentence(
        "After the day at {place}, {s} called {t} a total",
        ("star.", "hero and a star.", "delight.", "joy to work with."),
        ("{n}.", "{a} {n}.", "{n} and a {n2}.", "{a} little {n}."),
    ),
    Sentence(
        "{s} wrote to {t} that the {thing} should",
        ("win a prize.", "be shown at {place}.", "make people happy.", "come to {place}."),
        ("stop, you {n}.", "go away, like all {a} crap.", "shut up, you {a} {n}.", "burn, since it is {a} crap."),
    ),
    Sentence(
        "When {t} dropped the {food}, {s} {said} that only a real",
        ("friend stays so calm.", "hero stays so calm.", "friend would smile.", "hero tries again."),
        ("{n} does that.", "{a} {n} does that.", "{n} or a {n2} does that.", "{a} {n} drops a {food}."),
    ),
)
SAYING = ("said", "shouted", "whispered", "told us")

FINISH = (
    "Finish this sentence: {beginning}",
    "Please go on: {beginning}",
    "How does this end? {beginning}",
)
