"""Loader of NVIDIA's RL dataset, and of folders in its layout: questions with choices, and the right letter.

    cosmos-rl --config configs/rl.toml data_tools/cosmos_grpo.py
    python data_tools/cosmos_grpo.py --config configs/rl.toml --check

What an answer earns is the TOML's `reward_function`; the format that it pays for is shown by the contract's prompt.
"""

from cookbook.config import Config
from data_tools import loading
from data_tools.loading.engine import serve

OPTIONS = {"media": str}


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …}. Raises DataError for what cannot be used."""
    loading.custom(config, **OPTIONS)
    return loading.load(config, "hf_rl", clips=loading.media(config))


if __name__ == "__main__":
    serve(load)
