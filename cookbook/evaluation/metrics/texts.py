"""Metrics of free text: BLEU, ROUGE, semantic similarity, and how often the words are the same.

Why: the guide asks for them, and each sees only a part. BLEU and ROUGE count shared words; the similarity compares
meanings, yet gives "stops" and "does not stop" nearly the same score. Read them beside exact match and beside what two
people would score.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from cookbook.data.answers import LONGEST, plain
from cookbook.data.quantities import common_words, words_of
from cookbook.evaluation.metrics.choices import Row, answer_pairs

ROUGE = ("rouge1", "rouge2", "rougeL")
COMMON, ASKED = 50, 100  # training answers that are tried for all questions, and questions that choose among them


def relaxed(words: str) -> str:
    """Returns words for a relaxed match: no case, punctuation, markdown, articles or extra space (as SQuAD does).

    The sign and the point of a number stay, and a text of nothing else is taken as it is. One above LONGEST characters
    is cut, and ends in a mark that no other has.
    """
    bare = plain(words[:LONGEST]).lower()
    kept = re.sub(r"((?<!\w)-(?=\d)|(?<=\d)\.(?=\d))|[^\w\s]", lambda match: match[1] or " ", bare)
    kept = " ".join(re.sub(r"\b(?:a|an|the)\b", " ", kept).split()) or bare.strip()
    return kept + " …" * (len(words) > LONGEST)


def free_text(rows: Sequence[Row]) -> dict:
    """Returns n, unread, exact, relaxed, bleu, bleu_signature, rouge1, rouge2, rougeL (F, mean) and similarity.

    Shares and ROUGE are in [0, 1], BLEU (of the whole set) is in [0, 100] and compares under one signature only,
    similarity is a mean cosine in [-1, 1]. What could not be read counts as the empty text. Of a text above LONGEST
    characters BLEU, ROUGE and similarity see the first LONGEST.
    """
    from sacrebleu.metrics import BLEU

    whole_wanted, whole_told = answer_pairs(rows, unread="")
    wanted, told = ([words[:LONGEST] for words in texts] for texts in (whole_wanted, whole_told))
    bleu, shared = BLEU(), shared_words(rows)
    return {
        "n": len(rows),
        "unread": sum(row["answer"] is None for row in rows) / len(rows),
        "exact": sum(a.strip() == b.strip() for a, b in zip(whole_told, whole_wanted)) / len(rows),
        "relaxed": sum(relaxed(a) == relaxed(b) for a, b in zip(whole_told, whole_wanted)) / len(rows),
        "bleu": bleu.corpus_score(told, [wanted]).score,
        "bleu_signature": str(bleu.get_signature()),
        **{name: float(np.mean([scores[name] for scores in shared])) for name in ROUGE},
        "similarity": float(np.mean(similarity(told, wanted))),
    }


def shared_words(rows: Sequence[Row]) -> list[dict[str, float]]:
    """Returns ROUGE of each row, of the first LONGEST characters; what could not be read counts as the empty text."""
    return [rouge(told[:LONGEST], (wanted or "")[:LONGEST]) for wanted, told in zip(*answer_pairs(rows, unread=""))]


def best_for_all(references: Sequence[str], training: Iterable[str]) -> float:
    """Returns the mean ROUGE-L of one training answer for all questions: the best of the COMMON most frequent ones.

    Which is the best, an even sample of ASKED references tells.
    """
    common = [answer for answer, _ in Counter(training).most_common(COMMON)]
    asked = references[:: -(-len(references) // ASKED)]

    def earns(answer: str, wanted: Sequence[str]) -> float:
        return float(np.mean([rouge(answer[:LONGEST], words[:LONGEST])["rougeL"] for words in wanted]))

    best = max(common, key=lambda answer: earns(answer, asked), default="")
    return earns(best, references)


def rouge(told: str, wanted: str) -> dict[str, float]:
    """Returns F of rouge1, rouge2 and rougeL, as the package rouge-score has them with Porter's stems.

    Its own rougeL compares all pairs of words, its stemmer takes a word of "y" letter by letter on the stack, and of
    other letters than a to z it sees none: words are those of `words_of` here.
    """
    from rouge_score.scoring import fmeasure

    scorer, tokens = _rouge()
    found = {name: score.fmeasure for name, score in scorer.score(target=wanted, prediction=told).items()}
    a, b = tokens(told), tokens(wanted)
    common = common_words(a, b)
    return found | {"rougeL": fmeasure(common / len(a), common / len(b)) if a and b else 0.0}


@cache
def _rouge() -> tuple:
    """Returns the scorer of rouge1 and rouge2, and what makes words of a text: Porter's stems of English ones."""
    from nltk.stem.porter import PorterStemmer
    from rouge_score import rouge_scorer

    stem = lru_cache(100_000)(PorterStemmer().stem)

    def tokens(text: str) -> list[str]:
        return [stem(word) if word.isascii() and 3 < len(word) < 100 else word for word in words_of(text)]

    return rouge_scorer.RougeScorer(ROUGE[:2], tokenizer=SimpleNamespace(tokenize=tokens)), tokens


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
