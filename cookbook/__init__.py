"""The helper package of the cookbook: what the notebooks call.

The road from a clip to a report: data/ → model/ → training/ → checkpoint/ → evaluation/, its steps in pipeline.py;
behind it deploy/.
Beside it config/ (checks and plans), engine/ (cosmos-rl), doctor/ (the machine), display/ (what a person sees).
What one types stands here: new, tutorial, inference, gym, watch, lessons; jobs.py is what a notebook asks for.
"""

import warnings

# what packages announce of each other, in every process and in every first cell: a reader can do nothing about it
for _kind in (FutureWarning, DeprecationWarning):
    warnings.filterwarnings("ignore", category=_kind, module=r"(torch|torchao|transformers|peft|cosmos_rl)\b")
