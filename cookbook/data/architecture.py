"""The seam between two families of models: what of Qwen2.5-VL and Qwen3-VL differs here, one record each.

Why: Cosmos-Reason1 is a Qwen2.5-VL; Cosmos-Reason2 and the reasoner of Cosmos 3 Nano are Qwen3-VL. A checkpoint's
config.json says which, and this is the one file that knows the names. Everyone else asks a record: how large a patch
is, where a clip's time stands, which names weights have. No torch: lint, plan and passport ask too.

    family = architecture("models/tiny-base")     # a folder; of_config(model.config) of a loaded one
    family.unit, family.stamped
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cookbook.runs import read_json


@dataclass(frozen=True)
class Architecture:
    """One family of models."""

    model_type: str  # as config.json names it
    models: str  # who belongs to it, for people
    processor: str  # the class of its processor in transformers
    patch: int  # pixels a side of a patch; two by two of them, in two frames, become one token
    stamped: bool  # a clip's time stands as text before each step of two frames; else in the rotary positions
    windowed: bool  # most blocks of the vision tower attend within windows; else within frames
    deepstack: bool  # the tower's inner layers are added to the language model's first ones; it has learned positions
    native: bool  # cosmos-rl 0.4.7 has a model and a packer of its own; else it trains transformers' model
    prefixes: tuple[str, ...]  # that the published names of weights begin with

    @property
    def unit(self) -> int:
        """Pixels a side of one merged vision token."""
        return 2 * self.patch

    # what qwen-vl-utils 0.0.14 does where nothing is stated

    @property
    def video_pixels(self) -> tuple[int, int]:
        """Least and most pixels of a frame; the most is never exceeded."""
        return 128 * self.unit**2, 768 * self.unit**2

    @property
    def total_pixels(self) -> int:
        """Most pixels of all frames of a clip."""
        return int(128_000 * self.unit**2 * 0.9)

    @property
    def image_pixels(self) -> tuple[int, int]:
        """Least and most pixels of an image."""
        return 4 * self.unit**2, 16384 * self.unit**2


QWEN2_5_VL = Architecture(
    "qwen2_5_vl", "Cosmos-Reason1, Qwen2.5-VL", "Qwen2_5_VLProcessor", patch=14, stamped=False, windowed=True,
    deepstack=False, native=True, prefixes=("visual.", "model.", "lm_head."),
)  # fmt: skip
QWEN3_VL = Architecture(
    "qwen3_vl", "Cosmos-Reason2, Qwen3-VL", "Qwen3VLProcessor", patch=16, stamped=True, windowed=False,
    deepstack=True, native=False, prefixes=("model.visual.", "model.language_model.", "lm_head."),
)  # fmt: skip
USUAL = QWEN2_5_VL  # where nothing says another
KNOWN = {family.model_type: family for family in (QWEN2_5_VL, QWEN3_VL)}


def architecture(folder: Path) -> Architecture:
    """Returns the family that `config_of` a folder names; Qwen2.5-VL for none known."""
    return KNOWN.get(str(config_of(folder).get("model_type")), USUAL)


def config_of(folder: Path) -> dict[str, Any]:
    """Returns the config.json of a checkpoint, or of a run's exports; {} for none, ValueError for one not readable."""
    file = next((file for place in ("", "safetensors/*/") for file in folder.glob(f"{place}config.json")), None)
    return read_json(file) if file else {}


def of_config(config: Any) -> Architecture:
    """Returns the family of a configuration of transformers. Raises ValueError for one that is not known here."""
    if config.model_type not in KNOWN:
        name = getattr(config, "name_or_path", "") or "the model"
        raise ValueError(f"{name}: is a {config.model_type}; known are {', '.join(KNOWN)}")
    return KNOWN[config.model_type]
