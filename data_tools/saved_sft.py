"""Loader of folders that `datasets.save_to_disk` wrote, with conversations as JSON text in one column.

    cosmos-rl --config X.toml data_tools/saved_sft.py
    python data_tools/saved_sft.py --config X.toml --check

`train_policy.conversation_column_name` is the column, `[custom] media` the folder of the clips, if not the dataset's
own. For `type = "grpo"` the same folder gives prompts; their reference is the column `answer`, else the last written
answer.
"""

from cookbook.config import Config
from data_tools import loading
from data_tools.formats.saved import COLUMN
from data_tools.loading.engine import serve

OPTIONS = {"media": str}


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …}. Raises DataError for what cannot be used."""
    loading.custom(config, **OPTIONS)
    column = config.stated.get("train.train_policy.conversation_column_name", COLUMN)
    return loading.load(config, "saved", media=loading.media(config), column=column)


if __name__ == "__main__":
    serve(load)
