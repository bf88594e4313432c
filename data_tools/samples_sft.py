"""Loader of the project's own file, one sample a line: `dataset.name` is a folder with samples.jsonl, or the file.

    cosmos-rl --config X.toml data_tools/samples_sft.py
    python data_tools/samples_sft.py --config X.toml --check

For `type = "grpo"` the same file gives prompts; their reference is the sample's `answer`, else its written answer.
"""

from cookbook.config import Config
from data_tools import loading
from data_tools.loading.engine import serve

OPTIONS = {}


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …}. Raises DataError for what cannot be used."""
    loading.custom(config, **OPTIONS)
    return loading.load(config, "samples_jsonl")


if __name__ == "__main__":
    serve(load)
