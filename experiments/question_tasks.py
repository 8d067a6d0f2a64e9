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

Metrics = dict[str, Any]


def prepare(store: Store, profile: Profile) -> dict[str, Artefact]:
    """Everything that answering the profile's questions needs beside a model."""
    corpus = store.get_or_build(CORPUS, profile.corpus)
    tokenizer = store.get_or_build(TOKENIZER, tokenizer_config(profile), {"corpus": corpus})
    tokens = store.get_or_build(TOKENS, TokensConfig(), {"corpus": corpus, "tokenizer": tokenizer})
    questions = store.get_or_build(QUESTIONS, profile.questions, {"corpus": corpus})
    datastore = store.get_or_build(DATASTORE, profile.datastore, {"tokens": tokens})
    inputs = {"datastore": datastore, "questions": questions, "tokens": tokens}
    neighbours = store.get_or_build(QUESTION_NEIGHBOURS, profile.question_neighbours, inputs)
    return {**inputs, "question_neighbours": neighbours}


def bags(store: Store, inputs: dict[str, Artefact], profile: Profile) -> dict[str, Metrics]:
    """Metrics of the bag of words, by what it reads."""
    passages = {"passages": profile.qa.passages, "passage_chunks": profile.qa.passage_chunks}
    configs = {
        "question": BagOfWordsConfig(reads="question"),
        "found": BagOfWordsConfig(**passages),
        "own": BagOfWordsConfig(evidence="own", **passages),
    }
    metrics = {}
    for name, config in configs.items():
        artefact = store.get_or_build(BAG_OF_WORDS, config, inputs)
        metrics[name] = read_json(artefact.file("metrics.json"))
    return metrics


def answers(store: Store, inputs: dict[str, Artefact], profile: Profile, model: Artefact) -> dict[str, Metrics]:
    """Metrics of a model, by what it is shown."""
    is_retro = read_json(model.file("model/config.json")).get("model_type") == "retro"
    # A decoder without retrieval reads passages in its prompt alone.
    passages = "both" if is_retro else "prompt"
    qa = profile.qa.model_copy(update={"n_questions": None, "n_generate": 0})
    changes = {
        "closed": {"cell": "closed"},
        "placebo": {"cell": passages, "evidence": "placebo"},
        "found": {"cell": passages},
        "own": {"cell": passages, "evidence": "own"},
    }
    metrics = {}
    for name, change in changes.items():
        artefact = store.get_or_build(QA, qa.model_copy(update=change), {"model": model, **inputs})
        metrics[name] = read_json(artefact.file("metrics.json"))
    return metrics


# --- the table ----------------------------------------------------------------------------------------------------

BAG_HEADERS = (
    "task",
    "n",
    "groups",
    "chance",
    "words: question",
    "words: found",
    "words: own",
    "in found",
    "in own",
    "words: all options in found",
    "words: all options in own",
)


def table(bag: dict[str, Metrics], model: dict[str, Metrics]) -> str:
    """The table in Markdown, percentages."""
    headers = [*BAG_HEADERS, *(f"model: {name}" for name in model)]
    if model:
        headers += ["remembered closed", "remembered own"]
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    for task in TASKS:
        # Not every set of questions has every task.
        if task in bag["found"]["by_task"]:
            cells = [*bag_cells(task, bag), *model_cells(task, model)]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def bag_cells(task: str, bag: dict[str, Metrics]) -> list[str]:
    """Chance, and what counting words answers."""
    question, found, own = (bag[name]["by_task"][task] for name in ("question", "found", "own"))
    cells = [task, str(found["questions"]), str(found["groups"]), percent(found["chance"])]
    cells += [percent(metrics["accuracy"]) for metrics in (question, found, own)]
    cells += [percent(metrics["answer_in_passages"]) for metrics in (found, own)]
    for metrics in (found, own):
        together = metrics["all_options_in_passages"]
        cells.append(f"{percent(together['accuracy'])} of {together['questions']}")
    return cells


def model_cells(task: str, model: dict[str, Metrics]) -> list[str]:
    """A model's accuracy by what it is shown, and how often it says what the training text says."""
    if not model:
        return []
    by_task = {name: metrics["by_task"][task] for name, metrics in model.items()}
    cells = [percent(metrics["accuracy"]) for metrics in by_task.values()]
    return cells + [percent(by_task[name]["remembered"]) for name in ("closed", "own")]


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


HEADLINES = ("reading_accuracy", "found_and_copied", "yes_no_accuracy", "follows_passage")


def headlines(name: str, metrics: Metrics) -> str:
    """The metrics over several tasks that a study reports, as a line."""
    words = [f"{headline} {percent(metrics[headline])}" for headline in HEADLINES]
    return f"{name}: {', '.join(words)}"


# --- the command --------------------------------------------------------------------------------------------------


def model_of(arguments: argparse.Namespace, profile: Profile, store: Store, tokens: Artefact) -> Artefact | None:
    """The model that is asked beside the bag of words."""
    if arguments.base:
        return store.get_or_build(ADOPTED_BASE, AdoptedBase(name=profile.pretrained), {"tokens": tokens})
    if arguments.model:
        return store.resolve(arguments.model)
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", help="as `chunkwise ablate --set`")
    parser.add_argument("--store", type=Path, default=None)
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--base", action="store_true", help="also ask the decoder that the profile names")
    models.add_argument("--model", help="also ask this model: folder or key")
    arguments = parser.parse_args()
    store = Store(arguments.store)
    profile = load_profile(arguments.profile, arguments.set)
    inputs = prepare(store, profile)
    counts = inputs["questions"].counts
    print(f"packages {counts['packages']}; largest share of a package {percent(counts['largest_package_share'])} %\n")
    # The model first: where there is none of that name, nothing else was computed in vain.
    model = model_of(arguments, profile, store, inputs["tokens"])
    by_model = answers(store, inputs, profile, model) if model is not None else {}
    bag = bags(store, inputs, profile)
    print(table(bag, by_model))
    for name, metrics in bag.items():
        print(headlines(f"words: {name}", metrics))
    for name, metrics in by_model.items():
        print(headlines(name, metrics))


if __name__ == "__main__":
    main()
