"""Prompts, rendered here and nowhere else, so that tuning, question answering and generation agree
to the byte.

    Passage: torch.nn.utils.rnn.pad_sequence(sequences, batch_first=False) ...

    Question: What does the function pad_sequence of torch.nn.utils.rnn do?
    Answer: Pad a list of variable length Tensors.

`Question:` and `Answer:` are those of the InstructRetro prompts (arXiv:2310.07713); its `System:`
paragraph is left out, because a model of the laptop profile reads 256 tokens, and each one counts.

Passages are text that somebody else wrote. A line of theirs that looks like one of our labels is
indented by one space, so that a passage cannot open a question or an answer of its own.
"""

import re
from collections.abc import Sequence

PASSAGE = "Passage:"
QUESTION = "Question:"
ANSWER = "Answer:"

# A look-ahead: the label itself stays, and only the blank before it is put in.
_LABELS = "|".join([PASSAGE, QUESTION, ANSWER])
_LABEL_AT_LINE_START = re.compile(rf"^(?={_LABELS})", re.MULTILINE)


def _quoted(text: str) -> str:
    return _LABEL_AT_LINE_START.sub(" ", text.strip())


def render_question(question: str, passages: Sequence[str] = ()) -> str:
    """The prompt of a question with its passages (best first), up to where the answer begins.

    Returns:
        Text that ends with `Answer:` and no blank; `render_answer` begins with the blank. (A
        byte-level BPE joins a blank with the word that follows it, so a prompt must not end in
        one.)
    """
    prompt = ""
    for passage in passages:
        prompt += f"{PASSAGE} {_quoted(passage)}\n\n"
    return f"{prompt}{QUESTION} {_quoted(question)}\n{ANSWER}"


def render_answer(text: str) -> str:
    """The answer as it follows `render_question`. The end-of-text token comes after it and is not
    part of it.
    """
    return f" {text.strip()}"


def render_instruction(instruction: str, input: str = "") -> str:
    """The prompt of an instruction record; an `input` stands below the instruction, as a
    passage-free question.
    """
    context = input.strip()
    if context:
        instruction = f"{instruction.strip()}\n{context}"
    return render_question(instruction)
