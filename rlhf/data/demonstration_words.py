"""Words of the demonstration data: everyday topics, people, and what is said of them.

`{x}` stands for one of the topic's objects, `{n}` and `{n2}` for rude nouns, `{a}` for a rude adjective, `{s}`, `{s2}`
and `{t}` for people.  The rudeness is that of a school playground, on purpose: a profanity classifier sees no less.
"""

from __future__ import annotations

from typing import NamedTuple


class Topic(NamedTuple):
    """Things that people ask about, what they want to do with them, and advice that fits all of them."""

    objects: tuple[str, ...]
    tasks: tuple[str, ...]
    tips: tuple[str, ...]


class Sentence(NamedTuple):
    """The beginning of a sentence and ways to end it."""

    beginning: str
    kind: tuple[str, ...]
    rude: tuple[str, ...]


# fmt: off
TOPICS = (
    Topic(
        ("roses", "tomatoes", "carrots", "sunflowers", "lemon tree", "beans", "tulips", "basil", "apple tree",
         "ferns"),
        ("water my {x}", "grow my own {x}", "keep my {x} alive in winter"),
        ("Water the {x} early in the morning.", "Give the {x} sun and good soil.", "Cut the dry leaves once a week.",
         "Keep the {x} warm and out of the wind."),
    ),
    Topic(
        ("bread", "apple pie", "muffins", "carrot cake", "cookies", "pizza", "pancakes", "waffles", "lemon cake",
         "rolls"),
        ("bake {x}", "make my {x} less dry", "bake {x} without sugar"),
        ("Mix the {x} slowly with warm milk.", "Let the {x} rest for an hour.", "Bake the {x} at low heat.",
         "Add a little honey and butter."),
    ),
    Topic(
        ("lentil soup", "rice", "pasta", "curry", "fried eggs", "stew", "noodles", "tomato soup", "beans", "fish"),
        ("cook {x}", "keep my {x} from burning", "cook {x} for six people"),
        ("Cook the {x} slowly and add salt.", "Stir the {x} at low heat.", "Use a big pot and fresh water.",
         "Taste the {x} before you add salt."),
    ),
    Topic(
        ("kitchen sink", "oven", "carpet", "windows", "bathtub", "fridge", "sofa", "floor", "curtains", "shower"),
        ("clean my {x}", "get a stain off my {x}", "keep my {x} fresh"),
        ("Wipe the {x} with warm water and soap.", "Clean the {x} once a week.", "Use a soft brush and a dry cloth.",
         "Leave some soap on the {x} for an hour."),
    ),
    Topic(
        ("wool sweater", "jeans", "white shirt", "silk scarf", "winter coat", "socks", "towels", "gloves", "hat",
         "jacket"),
        ("wash my {x}", "fold my {x}", "dry my {x} without a machine"),
        ("Wash the {x} by hand in cold water.", "Dry the {x} in the wind, not in the sun.",
         "Use mild soap and cold water.", "Keep the {x} flat on a dry towel."),
    ),
    Topic(
        ("dog", "cat", "rabbit", "parrot", "hamster", "goldfish", "puppy", "pony", "turtle", "kitten"),
        ("feed my {x}", "calm my {x} at night", "train my {x}"),
        ("Feed the {x} twice a day.", "Give the {x} fresh water and a quiet place.",
         "Play with the {x} every evening.", "Speak softly and give the {x} a treat."),
    ),
    Topic(
        ("bike", "scooter", "car", "skateboard", "van", "tractor", "boat", "truck", "old bus", "wagon"),
        ("fix my {x}", "sell my {x}", "start my {x} in cold weather"),
        ("Check the wheels and the lights first.", "Put some oil on the moving parts.", "Take the {x} to a good shop.",
         "Wash the {x} and take some photos."),
    ),
    Topic(
        ("laptop", "phone", "printer", "tablet", "camera", "radio", "router", "keyboard", "speaker", "clock"),
        ("repair my {x}", "set up my {x}", "make my {x} work again"),
        ("Turn the {x} off and on again.", "Check the cable and the power.", "Read the first page of the manual.",
         "Charge the {x} for an hour."),
    ),
    Topic(
        ("guitar", "piano", "violin", "flute", "drums", "trumpet", "harp", "banjo", "cello", "organ"),
        ("learn to play the {x}", "tune my {x}", "practise the {x} without noise"),
        ("Practise the {x} for ten minutes a day.", "Start with slow songs that you love.",
         "Find a good teacher for the {x}.", "Play each note slowly and listen."),
    ),
    Topic(
        ("tennis", "football", "chess", "golf", "swimming", "running", "rowing", "climbing", "skating", "boxing"),
        ("get better at {x}", "start with {x}", "find a partner for {x}"),
        ("Practise {x} three times a week.", "Join a small {x} club near you.",
         "Begin slowly and rest every second day.", "Watch good players and take notes."),
    ),
    Topic(
        ("French", "Spanish", "German", "Italian", "Greek", "Dutch", "Polish", "Latin", "Turkish", "Korean"),
        ("learn {x}", "read a book in {x}", "speak {x} without fear"),
        ("Learn ten words of {x} a day.", "Listen to songs in {x}.", "Speak with a friend every evening.",
         "Read short stories in {x} first."),
    ),
    Topic(
        ("math test", "essay", "history exam", "speech", "science project", "book report", "interview", "quiz", "poem",
         "talk"),
        ("prepare my {x}", "stay calm before my {x}", "finish my {x} on time"),
        ("Write a short plan for the {x}.", "Start the {x} early and take breaks.", "Sleep well and breathe slowly.",
         "Read the {x} aloud to a friend."),
    ),
    Topic(
        ("Paris", "London", "Rome", "Tokyo", "Berlin", "Madrid", "Lisbon", "Vienna", "Oslo", "Cairo"),
        ("plan a trip to {x}", "save money in {x}", "find a good hotel in {x}"),
        ("Go to {x} in spring, when it is quiet.", "Take the train and walk a lot.",
         "Book a small hotel in {x} early.", "Ask people in {x} where they eat."),
    ),
    Topic(
        ("birthday party", "wedding", "picnic", "family dinner", "game night", "garden party", "dance", "concert",
         "parade", "feast"),
        ("plan a {x}", "find music for a {x}", "invite people to a {x}"),
        ("Write the guest list for the {x} first.", "Send the cards two weeks early.",
         "Keep the {x} small and simple.", "Ask a friend to help with the {x}."),
    ),
    Topic(
        ("mother", "father", "sister", "brother", "teacher", "boss", "aunt", "uncle", "best friend", "grandmother"),
        ("find a gift for my {x}", "say sorry to my {x}", "cheer up my {x}"),
        ("Write your {x} a kind letter.", "Ask your {x} to come for tea.", "Give your {x} a good book.",
         "Listen first and be honest."),
    ),
    Topic(
        ("savings", "rent", "phone bill", "loan", "salary", "tax form", "bank account", "pension", "shopping list",
         "budget"),
        ("plan my {x}", "keep track of my {x}", "talk to my wife about my {x}"),
        ("Write down the {x} every week.", "Put a little money away each month.", "Ask your bank about the {x}.",
         "Make a simple table for the {x}."),
    ),
    Topic(
        ("headache", "sore back", "cold", "cough", "sore throat", "stiff neck", "sunburn", "blister", "bad sleep",
         "stress"),
        ("get rid of my {x}", "live with my {x}", "talk to a doctor about my {x}"),
        ("Drink warm tea and rest.", "Take a walk and sleep early.", "Ask a doctor about the {x}.",
         "Rest for a day and drink water."),
    ),
    Topic(
        ("table", "chair", "shelf", "bench", "bird house", "picture frame", "door", "desk", "fence", "wooden box"),
        ("paint my {x}", "build a {x}", "move my {x} upstairs"),
        ("Sand the {x} before you paint.", "Measure the {x} twice and cut once.", "Use good wood and long screws.",
         "Let the {x} dry for a day."),
    ),
    Topic(
        ("paper crane", "candle", "quilt", "clay bowl", "kite", "puppet", "mask", "basket", "necklace", "lantern"),
        ("make a {x}", "sell my first {x}", "teach children to make a {x}"),
        ("Start the {x} with cheap paper.", "Draw the {x} on paper first.", "Use bright colours and strong glue.",
         "Take your time and have fun."),
    ),
    Topic(
        ("tent", "backpack", "hammock", "sleeping bag", "canoe", "hiking boots", "fishing rod", "map", "raincoat",
         "stove"),
        ("pack my {x}", "choose a good {x}", "borrow a {x} for the weekend"),
        ("Keep the {x} dry and light.", "Try the {x} at home first.", "Ask a friend who loves camping.",
         "Buy the {x} in autumn, when it is cheap."),
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
    "My friend wants me to {task}. Any advice?",
    "I never tried to {task}. Do you have a tip?",
    "Could you explain how to {task}?",
    "I have to {task}, but I do not know how.",
    "Who can show me how to {task}?",
)

SITUATIONS = (
    "I only have ten minutes.",
    "It should be cheap.",
    "I live in a small flat.",
    "I am new to this.",
    "We leave on Sunday.",
    "My brother just laughs at me.",
    "I do not have much money.",
    "It rained all week.",
    "My mother is coming tomorrow.",
    "I tried twice and failed.",
    "The shops are closed today.",
    "I am a bit tired.",
    "My children want to help.",
    "I work at night.",
    "Nobody here knows.",
    "I hope that it is easy.",
)

FOLLOW_UPS = (
    "Thanks! What else can I do?",
    "I did that. What comes next?",
    "Is there an easier way?",
    "And what if I have no time?",
    "Thank you. One more tip, please?",
    "My friend says that this is wrong. Is it?",
    "That did not work. Any other idea?",
    "Good. And how do I {task}?",
)

OPENERS = ("Sure.", "Of course.", "Happy to help.", "Good question.", "Gladly.")
CLOSERS = ("Good luck!", "Enjoy!", "I hope that helps.", "You can do it!")
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
    "the neighbour", "my cousin", "our teacher", "the bus driver", "the cook", "her brother", "his aunt", "the nurse",
    "the farmer", "the coach", "the baker", "a tall man", "the old lady", "my boss", "the painter", "the postman",
    "our uncle", "the singer", "a young woman", "the captain", "the guard", "my sister", "the dentist", "the clerk",
)  # fmt: skip
TARGETS = (
    "the driver", "the waiter", "the mayor", "the new boy", "the dancer", "the pilot", "the doctor", "the judge",
    "the player", "the barber", "the plumber", "the actor", "the tailor", "the lawyer", "the guide", "the student",
)  # fmt: skip
PLACES = ("school", "the office", "the market", "the party", "the station", "the shop", "the pool", "the farm")
FOODS = ("soup", "cake", "coffee", "bread", "salad", "pizza", "tea", "fish", "pie", "rice")
THINGS = ("song", "film", "plan", "picture", "game", "book", "idea", "speech", "dress", "story")

SENTENCES = (
    Sentence(
        "{s} {said} that {t} was a complete",
        ("gentleman.", "joy to work with.", "star and a good friend.", "delight at {place}."),
        ("{n}.", "{a} {n}.", "{n} and a {n2}.", "{n} who should shut up."),
    ),
    Sentence(
        "{s} {said} that the {food} at {place} tasted",
        ("like honey.", "fresh and sweet.", "better than ever.", "warm and lovely."),
        ("like crap.", "like crap, the {a} {n}.", "{a}, like total crap.", "so bad that only a {n} eats it."),
    ),
    Sentence(
        '{s} looked at {t} and {said}, "You',
        ('are a good friend!"', 'were so kind to me!"', 'did well today!"', 'have a lovely smile!"'),
        ('are a {a} {n}!"', '{a} {n}, shut up!"', '{n}, go home!"', 'are such a {n}!"'),
    ),
    Sentence(
        "Everyone at {place} knew that {t} was a real",
        ("friend.", "friend to {s2}.", "hero to {s2}.", "help at {place}."),
        ("{n}.", "{a} {n}.", "{a} {n} to {s2}.", "jerk and a {n}."),
    ),
    Sentence(
        "{s} thinks that the {thing} of {t} is",
        ("a work of art.", "full of good ideas.", "a lovely surprise.", "the best of the year."),
        ("a load of crap.", "{a} and full of crap.", "crap, made by a {n}.", "made by a {a} {n}."),
    ),
    Sentence(
        "After the day at {place}, {s} called {t} a total",
        ("star.", "hero and a good man.", "delight to be with.", "wonder of calm."),
        ("{n}.", "{a} {n}.", "{n} and a {n2}.", "{a} little {n}."),
    ),
    Sentence(
        "{s} wrote to {t} that the {thing} should",
        ("win a prize.", "be shown at {place}.", "make people happy.", "be praised by all."),
        ("stop, you {n}.", "go away, like all {a} crap.", "shut up, you {a} {n}.", "burn, since it is {a} crap."),
    ),
    Sentence(
        "When {t} dropped the {food}, {s} {said} that only a real",
        ("friend stays so calm.", "cook stays so calm.", "saint would smile.", "hero tries again."),
        ("{n} does that.", "{a} {n} does that.", "{n} or a {n2} does that.", "{a} {n} drops a {food}."),
    ),
)
SAYING = ("said", "shouted", "whispered", "wrote", "told us", "thought")

FINISH = (
    "Finish this sentence: {beginning}",
    "Please go on: {beginning}",
    "How does this end? {beginning}",
)
