"""Checkpoints: written, found, verified, traced, merged.

shards    what a folder holds, by names and headers alone
filled    load a model and a processor, whole and fitting, or say what is wrong
store     find one that a run has left, load it, export one
verify    whole, finite, named as published, different from its base, loadable
lineage   from a checkpoint back to its base
adapters  of LoRA: put on a model, and added to its weights
merge     an adapter of the engine into whole weights
"""

from cookbook.checkpoint.shards import last_complete  # noqa: F401
from cookbook.checkpoint.store import (  # noqa: F401
    CONTRACT,
    INDEX,
    CheckpointError,
    batch_vision,
    export,
    fetched,
    find,
    keep,
    load,
    on_disk,
    require_contract,
    require_finished,
    resolve,
    write_checkpoint,
)
