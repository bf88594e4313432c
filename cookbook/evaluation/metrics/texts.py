"""Metrics of free text: BLEU, ROUGE, semantic similarity, and how often the words are the same.

Why: the guide asks for them, and each sees only a part. BLEU and ROUGE count shared words; the similarity compares
meanings, yet gives "stops" and "does not stop" nearly the same score. Read them beside exact match and beside what two
people would score.
"""

import logging
import re
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from cookbook.data.answers import plain
from cookbook.evaluation.metrics.choices import Row, answer_pairs

ROUGE = ("rouge1", "rouge2", "rougeL")


def relaxed(words: str) -> str:
    """Returns words for a relaxed match: no case, punctuation, markdown, articles or extra space (as SQuAD does)."""
    words = re.sub(r"[^\w\s]", " ", plain(words).lower())
    return " ".join(re.sub(r"\b(?:a|an|the)\b", " ", words).split())


def free_text(rows: Sequence[Row]) -> dict:
    """Returns n, unread, exact, relaxed, bleu, bleu_signature, rouge1, rouge2, rougeL (F, mean) and similarity.

    Shares and ROUGE are in [0, 1], BLEU (of the whole set) is in [0, 100] and compares under one signature only,
    similarity is a mean cosine in [-1, 1]. What could not be read counts as the empty text.
    """
    from rouge_score.rouge_scorer import RougeScorer
    from sacrebleu.metrics import BLEU

    wanted, told = answer_pairs(rows, unread="")
    bleu, rouge = BLEU(), RougeScorer(ROUGE, use_stemmer=True)  # Porter's stems, as published figures have it
    shared = [rouge.score(target=b, prediction=a) for a, b in zip(told, wanted)]
    return {
        "n": len(rows),
        "unread": sum(row["answer"] is None for row in rows) / len(rows),
        "exact": sum(a.strip() == b.strip() for a, b in zip(told, wanted)) / len(rows),
        "relaxed": sum(relaxed(a) == relaxed(b) for a, b in zip(told, wanted)) / len(rows),
        "bleu": bleu.corpus_score(told, [wanted]).score,
        "bleu_signature": str(bleu.get_signature()),
        **{name: float(np.mean([scores[name].fmeasure for scores in shared])) for name in ROUGE},
        "similarity": float(np.mean(similarity(told, wanted))),
    }


def similarity(told: Sequence[str], wanted: Sequence[str]) -> list[float]:
    """Returns the cosine of the embeddings of each pair; 1 for equal texts, 0 where one of them is empty."""
    a, b = (np.asarray(_wordllama()(list(words)), dtype=float) for words in (told, wanted))
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.where(norms > 0, norms, 1)
    words = [(x.strip(), y.strip()) for x, y in zip(told, wanted)]
    return [1.0 if x == y else float(c) if x and y else 0.0 for c, (x, y) in zip(cosine, words)]


@cache
def _wordllama() -> Callable[[list[str]], np.ndarray]:
    """Returns the embedding model, n texts -> (n, 256), that lies in the wheel of wordllama (16 MB)."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    import wordllama

    root.handlers[:], root.level = before, level  # its import turns on everybody's log lines
    # the wheel has its tokenizer in a folder that load() looks for in its cache only
    model = wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
    return lambda words: model.embed([w or " " for w in words])
