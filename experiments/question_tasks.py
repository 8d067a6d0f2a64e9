"""What the tasks of a profile's questions take: each one's figure for chance, words, strings and a model's answers.

    python experiments/question_tasks.py --profile laptop
    python experiments/question_tasks.py --profile laptop --base                 # and the profile's decoder
    python experiments/question_tasks.py --profile laptop --model FOLDER_OR_KEY  # and a model of a study

A row a task: how many questions in how many groups, chance, a bag of words that reads the question alone or the
passages (found and own), how often the right option (of yes/no: the statement) stands word for word in the passages,
and a bag of words where all options do. With a model also its accuracy closed-book, with a placebo, with what was
found, and with the own passage given. Builds corpus, datastore and questions where the store lacks them: two minutes
on two cores for the laptop profile; a model of two million parameters takes five more.
"""

import argparse
from pathlib import Path
from typing import Any

from chunkwise.core.artefact import Artefact
from chunkwise.core.io import read_json
from chunkwise.core.store import Store
from chunkwise.corpus.config import TASKS, TokensConfig
from chunkwise.corpus.stages import CORPUS, QUESTIONS, TOKENIZER, TOKENS
from chunkwise.datastore.stages import DATASTORE
from chunkwise.evaluation.config import BagOfWordsConfig
from chunkwise.evaluation.stages import BAG_OF_WORDS, QA
from chunkwise.lab.profile import Profile, load_profile
from chunkwise.lab.study.data import tokenizer_config
from chunkwise.neighbours.stages import QUESTION_NEIGHBOURS
from chunkwise.training.config import AdoptedBase
from chunkwise.training.stages import ADOPTED_BASE


def prepare(store: Store, profile: Profile) -> dict[str, Artefact]:
    """Everything that answering the profile's questions needs beside a model."""
    corpus = store.get_or_build(CORPUS, profile.corpus)
    tokenizer = store.get_or_build(TOKENIZER, tokenizer_config(profile), {"corpus": corpus})
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer})
    questions = store.get_or_build(QUESTIONS, profile.questions, {"corpus": corpus})
    datastore = store.get_or_build(DATASTORE, profile.datastore, {"tokens": tokens})
    searched = {"datastore": datastore, "questions": questions, "tokens": tokens}
    neighbours = store.get_or_build(QUESTION_NEIGHBOURS, profile.question_neighbours, searched)
    return {**searched, "question_neighbours": neighbours}


def bags(store: Store, inputs: dict[str, Artefact], profile: Profile) -> dict[str, Any]:
    """Metrics of the bag of words, by what it reads."""
    passages = {"passages": profile.qa.passages, "passage_chunks": profile.qa.passage_chunks}
    configs = {
        "question": BagOfWordsConfig(reads="question"),
        "found": BagOfWordsConfig(**passages),
        "own": BagOfWordsConfig(evidence="own", **passages),
    }
    return {
        name: read_json(store.get_or_build(BAG_OF_WORDS, config, inputs).file("metrics.json"))
        for name, config in configs.items()
    }


def answers(store: Store, inputs: dict[str, Artefact], profile: Profile, model: Artefact) -> dict[str, Any]:
    """Metrics of a model, by what it is shown."""
    is_retro = read_json(model.file("model/config.json")).get("model_type") == "retro"
    shown = "both" if is_retro else "prompt"
    qa = profile.qa.model_copy(update={"n_questions": None, "n_generate": 0})
    changes = {
        "closed": {"cell": "closed"},
        "placebo": {"cell": shown, "evidence": "placebo"},
        "found": {"cell": shown},
        "own": {"cell": shown, "evidence": "own"},
    }
    metrics = {}
    for name, change in changes.items():
        made = store.get_or_build(QA, qa.model_copy(update=change), {"model": model, **inputs})
        metrics[name] = read_json(made.file("metrics.json"))
    return metrics


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def table(bag: dict[str, Any], model: dict[str, Any]) -> str:
    """The table in Markdown, percentages."""
    head = ["task", "n", "groups", "chance", "words: question", "words: found", "words: own", "in found", "in own"]
    head += ["words: all options in found", "words: all options in own"]
    head += [f"model: {name}" for name in model]
    if model:
        head += ["remembered closed", "remembered own"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for task in TASKS:
        if task not in bag["found"]["by_task"]:
            continue
        found, own = (bag[name]["by_task"][task] for name in ("found", "own"))
        cells = [task, str(found["questions"]), str(found["groups"]), percent(found["chance"])]
        cells += [percent(bag[name]["by_task"][task]["accuracy"]) for name in ("question", "found", "own")]
        cells += [percent(part["answer_in_passages"]) for part in (found, own)]
        for part in (found, own):
            together = part["all_options_in_passages"]
            cells.append(f"{percent(together['accuracy'])} of {together['questions']}")
        cells += [percent(of_model["by_task"][task]["accuracy"]) for of_model in model.values()]
        if model:
            cells += [percent(model[name]["by_task"][task]["remembered"]) for name in ("closed", "own")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as `chunkwise ablate --set`")
    parser.add_argument("--store", type=Path, default=None)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--base", action="store_true", help="also ask the decoder that the profile names")
    which.add_argument("--model", help="also ask this model: folder or key")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    profile = load_profile(arguments.profile, arguments.set)
    inputs = prepare(store, profile)
    counts = inputs["questions"].counts
    print(f"packages {counts['packages']}; largest share of a package {percent(counts['largest_package_share'])} %\n")
    model: dict[str, Any] = {}
    if arguments.base:
        base = AdoptedBase(name=profile.pretrained)
        adopted = store.get_or_build(ADOPTED_BASE, base, {"tokens": inputs["tokens"]})
        model = answers(store, inputs, profile, adopted)
    elif arguments.model:
        model = answers(store, inputs, profile, store.resolve(arguments.model))
    bag = bags(store, inputs, profile)
    print(table(bag, model))
    for name, of_one in {**{f"words: {name}": part for name, part in bag.items()}, **model}.items():
        headline = ("reading_accuracy", "found_and_copied", "yes_no_accuracy", "follows_passage")
        print(f"{name}: " + ", ".join(f"{metric} {percent(of_one[metric])}" for metric in headline))


if __name__ == "__main__":
    main()
