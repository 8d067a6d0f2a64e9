"""The words of an amount: what each of them is in the grammar of `amounts`.

A word is of one class at most. What is in no table here is a name, and goes beside the amount.
"""

NUMBER = (
    r"(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d{1,40})(?:\.\d{1,40})?|\.\d{1,40})"
    r"(?:[eE][+-]?\d{1,3}(?![\w.]))?"
)
SCALES = {
    "k": 1e3,
    "thousand": 1e3,
    "m": 1e6,
    "mn": 1e6,
    "million": 1e6,
    "b": 1e9,
    "bn": 1e9,
    "billion": 1e9,
    "g": 1e9,
    "t": 1e12,
    "tn": 1e12,
    "trillion": 1e12,
}
# Unit -> its other spellings.
_UNITS = {
    "tokens": ("token", "toks"),
    "chunks": ("chunk",),
    "passages": ("passage",),
    "documents": ("document", "docs", "doc"),
    "sequences": ("sequence", "seqs"),
    "parameters": ("parameter", "params", "param"),
    "layers": ("layer",),
    "heads": ("head",),
    "steps": ("step", "iterations"),
    "examples": ("example", "samples"),
    "neighbours": ("neighbour", "neighbors", "neighbor"),
    "epochs": ("epoch",),
    "seeds": ("seed",),
    "dimensions": ("dimension", "dims", "dim"),
}
UNIT_OF = {unit: unit for unit in _UNITS}
for _unit, _words in _UNITS.items():
    UNIT_OF |= dict.fromkeys(_words, _unit)
# "b" is missing: in plans "5 b" is five billion.
BYTES = {
    "byte": 1,
    "bytes": 1,
    "kb": 1e3,
    "mb": 1e6,
    "gb": 1e9,
    "tb": 1e12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
NUMBER_WORDS = {
    "zero": 0,
    "one": 1,
    "single": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "sixteen": 16,
    "hundred": 100,
}
TENS = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
NUMBER_WORDS |= TENS
PARTS = {"half": 2, "halves": 2, "quarter": 4, "quarters": 4}
# Also ordinals ("the third layer"), so they are parts only behind a number or an article.
ORDINALS = {
    word + plural: bottom
    for word, bottom in {
        "third": 3,
        "fourth": 4,
        "fifth": 5,
        "sixth": 6,
        "eighth": 8,
        "tenth": 10,
        "sixteenth": 16,
        "hundredth": 100,
        "thousandth": 1000,
    }.items()
    for plural in ("", "s")
}
# Verbs and adverbs that are multiples of the baseline alone.
FACTORS = {
    "twice": 2.0,
    "thrice": 3.0,
    "double": 2.0,
    "doubled": 2.0,
    "doubling": 2.0,
    "triple": 3.0,
    "tripled": 3.0,
    "tripling": 3.0,
    "quadruple": 4.0,
    "quadrupled": 4.0,
    "halve": 0.5,
    "halved": 0.5,
    "halving": 0.5,
    "quartered": 0.25,
}
for _word, _number in NUMBER_WORDS.items():
    if _number > 1:
        FACTORS[f"{_word}fold"] = float(_number)
# Words that say a direction, a base or a bound; `amounts` has the patterns over their classes.
_CLASSES = {
    "LESS": "less fewer",
    "MORE": "more additional extra",
    "SMALLER": "smaller lower shorter shallower narrower thinner lighter reduced reducing "
    "decreased decreasing lowered lowering shrunk shrinking shortened downsampled subsampled",
    "LARGER": "larger bigger greater higher longer deeper wider increased increasing raised "
    "enlarged extended expanded grown",
    "REDUCTION": "reduction decrease reduce shrink shrinkage downsample subsample",
    "INCREASE": "increase growth expansion enlarge raise grow extend expand",
    "REMOVE": "remove removed removing drop dropped dropping discard discarded delete deleted "
    "prune pruned omit omitted cut off",
    "ADD": "add added adding",
    "MANY": "many much large big long deep wide high great",
    "FEW": "few little small short shallow narrow low",
    "BASE": "baseline default original paper standard current",
    "TIMES": "x × times fold",
    "PCT": "% percent pct",
    "BOUND": "least most under over below above between up within maximum minimum max min "
    "exceeding < > ≤ ≥",
}
CLASS_OF: dict[str, str] = {}
for _class, _spellings in _CLASSES.items():
    CLASS_OF |= dict.fromkeys(_spellings.split(), _class)
# Small words that are classes of their own: "less than", "by 25%", "a factor of 2".
WORD_CLASSES = {
    "of",
    "by",
    "to",
    "as",
    "than",
    "in",
    "a",
    "an",
    "factor",
    "/",
    "+",
    "-",
}
EQUALS = {"=", ":", "∈"}
# They leave an amount as it is: "only 600B tokens in total".
IDLE = {
    "the",
    "only",
    "just",
    "exactly",
    "total",
    "each",
    "size",
    "sized",
    "value",
    "values",
    "number",
    "amount",
    "count",
    "set",
    "use",
    "using",
    "with",
    "keep",
    "kept",
    "keeping",
    "retain",
    "retained",
    "it",
    "them",
    "full",
    "whole",
    "entire",
    "about",
    "approximately",
    "approx",
    "roughly",
    "around",
    "ca",
    "~",
    "≈",
    "per",
}
# Words that turn a sentence round or join two: no name of a part explains them.
TURNING = {
    "not",
    "no",
    "non",
    "without",
    "except",
    "excluding",
    "but",
    "and",
    "or",
    "nor",
    "then",
    "never",
    "again",
}
