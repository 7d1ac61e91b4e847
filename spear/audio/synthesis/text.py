"""What the synthetic speakers say: sentences of a small grammar, isolated keywords, and commands with slots.

The commands imitate the slots of Fluent Speech Commands (Lugosch et al., arXiv 1904.03670): every command has an
intent (action), an object and a location, worded in several ways.
"""

import numpy as np

KEYWORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go", "seven", "happy")

_WORDS = {
    "adjective": """big small red green blue yellow old young happy quiet loud warm cold bright dark clean dirty heavy
        light long short round narrow wide strong weak fresh dry wet soft hard sharp gentle famous modern simple strange
        silver golden wooden broken hidden empty full careful hungry sleepy friendly""".split(),
    "noun": """dog cat horse bird teacher doctor farmer child mother father sister brother neighbour baker singer driver
        captain painter garden river mountain window table chair bottle basket letter picture book paper bridge tower
        station market village kitchen church castle island forest engine bicycle machine hammer ladder mirror camera
        blanket pocket jacket orange apple cheese butter pepper pencil ticket wheel button feather shadow""".split(),
    "plural": """apples oranges letters pictures books tickets pencils chairs bottles flowers houses birds horses boxes
        questions stories songs shoes coins keys plates cups stones lamps photographs""".split(),
    "past": """found watched carried painted followed opened closed cleaned moved pushed pulled dropped brought sold
        bought kept lost mended washed borrowed noticed visited measured forgot chose threw caught drew""".split(),
    "verb": """find watch carry paint follow open close clean move push pull drop bring sell buy keep lose mend wash
        borrow notice visit measure forget choose throw catch draw""".split(),
    "modal": "should could must will might cannot".split(),
    "name": "george mary susan peter helen thomas julia victor oliver nancy edward joyce hugh philip ruth".split(),
    "number": "two three four five six seven eight nine ten eleven twelve twenty thirty".split(),
    "preposition": "near under behind above beside inside".split(),
    "time": [
        *"today yesterday tomorrow".split(),
        "this morning",
        "last night",
        "every monday",
        "on tuesday",
        "in july",
    ],
    "pronoun": "we they you i she he".split(),
    "adverb": "slowly quickly carefully often never always seldom quietly".split(),
}
_WORDS["time"] += ["after lunch", "before dinner", "at noon", "next year", "in the evening", "all day"]

_SENTENCES = (
    "the {adjective} {noun} {past} the {noun}",
    "the {noun} {past} {number} {adjective} {plural}",
    "{name} {past} the {adjective} {noun} {time}",
    "{pronoun} {modal} {verb} the {noun} {preposition} the {noun}",
    "there is a {adjective} {noun} {preposition} the {noun}",
    "why did {name} {verb} the {adjective} {noun}",
    "{name} and {name} {past} {number} {plural} {time}",
    "please {verb} the {noun} and {verb} the {plural}",
    "{pronoun} {adverb} {past} a {noun} {time}",
    "{number} {plural} are {preposition} the {adjective} {noun}",
    "did {pronoun} {verb} the {plural} {time}",
    "the {noun} was {adjective} and the {noun} was {adjective}",
)

LOCATIONS = ("none", "kitchen", "bedroom")

# (intent, object) -> wordings; {place} is " in the kitchen" and so on, or nothing.
_COMMANDS = {
    ("activate", "lights"): ("turn on the lights{place}", "switch the lights on{place}", "lights on{place}"),
    ("deactivate", "lights"): ("turn off the lights{place}", "switch the lights off{place}", "lights off{place}"),
    ("activate", "music"): ("play some music{place}", "turn the music on{place}", "start the music{place}"),
    ("deactivate", "music"): ("stop the music{place}", "turn the music off{place}", "pause the music{place}"),
    ("increase", "heat"): ("turn up the heat{place}", "make it warmer{place}", "increase the temperature{place}"),
    ("decrease", "heat"): ("turn down the heat{place}", "make it cooler{place}", "decrease the temperature{place}"),
    ("increase", "volume"): ("turn up the volume{place}", "make it louder{place}", "increase the sound{place}"),
    ("decrease", "volume"): ("turn down the volume{place}", "make it quieter{place}", "decrease the sound{place}"),
}


def sentence(rng: np.random.Generator) -> str:
    """One sentence in lower case, 5 to 11 words."""
    template = _SENTENCES[rng.integers(len(_SENTENCES))]
    while "{" in template:
        slot = template[template.index("{") + 1 : template.index("}")]
        words = _WORDS[slot]
        template = template.replace("{" + slot + "}", words[rng.integers(len(words))], 1)
    return template


def command(rng: np.random.Generator) -> tuple[str, dict[str, str]]:
    """One command: its words, and its labels intent, object and location ("none" when no place is said)."""
    pairs = sorted(_COMMANDS)
    intent, thing = pairs[rng.integers(len(pairs))]
    wordings = _COMMANDS[intent, thing]
    location = LOCATIONS[rng.integers(len(LOCATIONS))]
    place = "" if location == "none" else f" in the {location}"
    words = wordings[rng.integers(len(wordings))].format(place=place)
    return words, {"intent": intent, "object": thing, "location": location}


def vocabulary() -> list[str]:
    """Every word that can be spoken, sorted."""
    texts = [word for words in _WORDS.values() for word in words] + list(KEYWORDS)
    texts += [template.replace("{", " {") for template in _SENTENCES]
    texts += [
        wording.format(place=" in the " + " ".join(LOCATIONS[1:])) for group in _COMMANDS.values() for wording in group
    ]
    return sorted({word for text in texts for word in text.split() if "{" not in word})
