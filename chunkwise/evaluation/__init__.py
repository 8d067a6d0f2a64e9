"""What a model makes of text and questions: perplexity, question answering, overlap, and a
bag-of-words rival.

    config.py        what an evaluation is: PerplexityConfig, QuestionsEvalConfig, BagOfWordsConfig
    stages.py        PERPLEXITY, QA, BAG_OF_WORDS, GATE_OFF_CHECK
    resolve.py       what of a call makes its key
    measure_perplexity.py   the builder of perplexity
    answer_questions.py     the builders of qa and bag-of-words
    bypass.py        the builder of gate-off-check
    inference.py     a model set up for reading only, Retro or plain
    perplexity.py    loss of every token, with retrieval on, off, random, oracle, or in the prompt
    loss_tables.py   these losses per chunk, per document, and over documents
    overlap.py       longest run of tokens shared by a chunk and its neighbours; loss by overlap
    evidence.py      which chunks a question is given: found, placebo, or of other documents
    own_passage.py   the chunks of its own document that settle it, or the passage that it brings
    prompts.py       question and passages -> token ids that end on a chunk boundary
    scoring.py       one reading of a prompt -> likelihood of all its options, and the greedy answer
    questions.py     choice, answer likelihood and written answers of many questions
    records.py       a question a row, and the metrics over the rows
    answers.py       exact match and F1, as SQuAD normalises
    bag_of_words.py  the rival that only counts shared words
    chance.py        a rate against chance

Importing `stages` and `config` needs neither torch nor transformers.
"""
