"""Loader of LLaVA JSON with videos or images: `dataset.name` is the file, or a folder with one, or with one a split.

    cosmos-rl --config X.toml data_tools/llava_sft.py
    python data_tools/llava_sft.py --config X.toml --check

Splits are folders, or files: `train.json`, `val.json`, `test.json`. `[custom] media` is the folder that the paths in
the file count from, if not the file's own. For `type = "grpo"` the same file gives prompts; their reference is the
item's `answer`, else its last written answer.
"""

from cookbook.config import Config
from data_tools import loading
from data_tools.loading.engine import serve

OPTIONS = {"media": str}


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …}. Raises DataError for what cannot be used."""
    loading.custom(config, **OPTIONS)
    return loading.load(config, "llava", media=loading.media(config))


if __name__ == "__main__":
    serve(load)
