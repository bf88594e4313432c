"""What all loader files share.

samples   from a training configuration to the samples of both splits
splits    split by clip, balance, take a part
engine    the engine's view of the samples
"""

from data_tools.loading.samples import (  # noqa: F401
    LOADERS,
    PASSPORT,
    TRAIN,
    Splits,
    contract,
    custom,
    finish,
    held_out,
    load,
    loader,
    loader_for,
    media,
    require_step,
)
