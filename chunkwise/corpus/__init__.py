"""Sources -> documents -> duplicates out, split, decontaminated -> tokens, sequences, questions.

config.py          the settings of every stage here
stages.py          CORPUS, TEXTS, TOKENIZER, TOKENS, SEQUENCES, QUESTIONS, QUESTION_FILE
collect.py         the stage corpus: read, clean, split
texts.py           the stage texts: all documents as they are
sources.py         the kinds of source, each with its reader and its digest
readers.py         which files a source has; text, Markdown, source code -> documents
records.py         JSONL, Parquet, Hugging Face data sets -> documents
words.py           what a word is, in every script
ngrams.py          words and n-grams as 64-bit hashes, the ground of the next three and of questions
deduplicate.py     exact and near-duplicate removal
decontaminate.py   the rules against copies of validation documents
clean.py           what of each validation document stands elsewhere all the same
split.py           train, held, valid: by a hash of the document's group
tokens.py          the stages tokenizer and tokens
tokenizer.py       a byte-level BPE trained here, or any Hugging Face tokenizer
sequences.py       the stage sequences: flat tokens -> rows of equal length
questions.py       files of questions and instructions: their fields; the stage question-file
chat_format.py     the only place where prompts are rendered
python_docs/       what is about Python source only: the source python, the stage questions
"""
