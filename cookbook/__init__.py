"""The helper package of the cookbook: what the notebooks call.

The road from a clip to a report: data/ → model/ → training/ → checkpoint/ → evaluation/, its steps in pipeline.py.
Beside it config/ (checks and plans), engine/ (cosmos-rl), doctor/ (the machine), display/ (what a person sees).
What one types stands here: new, tutorial, inference, gym, watch, lessons; jobs.py is what a notebook asks for.
"""

import warnings

# torch imports it, and says so in every process
warnings.filterwarnings("ignore", message="The pynvml package is deprecated", category=FutureWarning)
