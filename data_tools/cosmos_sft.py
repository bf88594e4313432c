"""Loader of NVIDIA's SFT dataset, and of folders in its layout: the guide's default.

    cosmos-rl --config configs/sft.toml data_tools/cosmos_sft.py
    python data_tools/cosmos_sft.py --config configs/sft.toml --check

Clips are unpacked to $COSMOS_CACHE (~/.cache/cosmos) once; `[custom] media` names another folder of clips.
"""

from cookbook.config import Config
from data_tools import loading
from data_tools.loading.engine import serve

OPTIONS = {"media": str}


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …}. Raises DataError for what cannot be used."""
    loading.custom(config, **OPTIONS)
    return loading.load(config, "hf_sft", clips=loading.media(config))


if __name__ == "__main__":
    serve(load)
