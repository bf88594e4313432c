"""The passport of a dataset: what is in it, what is wrong with it, and what must be left out, before any training.

Why: half of what goes wrong in post-training is data, and most of it is silent: a clip that cannot be read, an answer
cut off at the length limit, a test clip that stands in the training set under another name. The passport decodes every
clip, compares every sample, and names each file. Its hash goes into a run's manifest, its quarantine is honoured by
training and evaluation alike.

    reader      one clip decoded: its facts
    findings    what is wrong with it
    clips       many clips, in worker processes that may die; what was read is kept
    checks      samples and clips compared: ids, leaks, duplicates, lengths, balance
    tokens      the length of a sample, without decoding it
    dataset     all of it, into a passport
    result      the passport: tables, JSON, quarantine
    plots       its pictures
    __main__    its command

    python -m data_tools.passport FOLDER --max-length 4096 --model models/tiny-base     # exit 1 where there is an error

    found = passport({"train": samples, "test": others}, max_length=4096, count_tokens=token_counter(model))
    found.write("passport.json")
    train = found.usable({"train": samples})["train"]
"""

from data_tools.passport.dataset import passport, read_layout
from data_tools.passport.result import Passport, read_passport, read_quarantine

__all__ = ["Passport", "passport", "read_layout", "read_passport", "read_quarantine"]
