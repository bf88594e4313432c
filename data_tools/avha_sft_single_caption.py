"""Loader of the guide's own folder: `videos/ID.camera_front_wide_120fov.mp4` with `metas/ID.label.json`.

    cosmos-rl --config configs/avha_sft.toml data_tools/avha_sft_single_caption.py
    python data_tools/avha_sft_single_caption.py --config configs/avha_sft.toml --check

`[custom]` takes `question`, `drop_fields` (fields of the label that the prompt does not ask for), `video_suffix` and
`label_suffix`.
"""

from cookbook.config import Config
from data_tools import loading
from data_tools.loading.engine import serve

OPTIONS = {"question": str, "drop_fields": list, "video_suffix": str, "label_suffix": str}


def load(config: Config) -> loading.Splits:
    """Returns {"train": …, "validation": …}. Raises DataError for what cannot be used."""
    stated = loading.custom(config, **OPTIONS)
    return loading.load(config, "av_folder", **{key: stated[key] for key in OPTIONS if key in stated})


if __name__ == "__main__":
    serve(load)
