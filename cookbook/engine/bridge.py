"""Let cosmos-rl 0.4.7 run from a plain pip install: without flash-attn, vLLM, torchcodec and decord.

Why: the engine starts the loader file in each of its processes, so what is put right at its top is put right
everywhere, and the package itself stays as pip installed it. Every part names the line that it mends, and
`tests/engine/test_bridge.py` fails for a part that the engine no longer needs.

    attention   PyTorch's, where flash-attn is missing                  cookbook/engine/attention.py
    video       PyAV as reader, and each clip decoded once              cookbook/engine/video.py
    rollout     `backend = "transformers"`, beside the engine's vLLM    cookbook/engine/rollout.py
    names       weights of a transformers model under published names   here
    polling     colocated mode waits 0.2 s for a command, not 10 s      here
    network     redis and the controller on 127.0.0.1 only, if asked    cookbook/engine/loopback.py
    log         the engine's own format, whatever a loader sets up      here

Used by the loader files, through `data_tools.loading.engine.serve`.
"""

import logging
import re

from cookbook.engine import attention, loopback, video

log = logging.getLogger(__name__)

BACKEND = "transformers"  # the configurations' rollout.backend
POLLING_MS = 200


def install() -> dict[str, str]:
    """Put every part in place, once per process. Returns what each one is now, and logs it."""
    from cookbook.engine import rollout  # it and the engine take 13 seconds: not for those who only import this

    video.install()
    rollout.register(BACKEND)
    done = {
        "attention": attention.install(),
        "video": "PyAV",
        "rollout": BACKEND,
        "names": install_names(),
        "polling": install_polling(),
        "network": loopback.install(),
        "log": install_log(),
    }
    log.info("bridge to cosmos-rl: %s", ", ".join(f"{part}: {what}" for part, what in done.items()))
    return done


def install_log() -> str:
    """Let the engine's logger print in its own format. Returns that it does.

    Where a loader file calls `logging.basicConfig`, the engine adds no handler of its own (utils/logging.py:41), its
    lines come in another format, and whoever reads the log sees no steps.
    """
    from cosmos_rl.utils.logging import logger

    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[cosmos] %(asctime)s - %(name)s - %(levelname)s - %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
    return "the engine's"


LOOK_AHEAD = re.compile(r"\(\?[=!].*\)")  # it may hold brackets of its own


def reverse_mapping(mapping: dict[str, str]) -> dict[str, str]:
    """Returns {pattern of transformers' names: published name} of a model's `_checkpoint_conversion_mapping`.

    cosmos-rl 0.4.7 (utils/util.py:1199) takes the text of a pattern for a name. The pattern of transformers 4.57 is
    `^model(?!\\.(language_model|visual))`, so all language weights were exported, and sent to the rollouts, under names
    that nothing can load.
    """
    return {"^" + re.escape(inner): LOOK_AHEAD.sub("", outer).lstrip("^") for outer, inner in mapping.items()}


def install_names() -> str:
    """Let transformers models be exported under the published names. Returns that they are."""
    from cosmos_rl.policy.model import hf_models

    hf_models.reverse_hf_checkpoint_mapping = reverse_mapping
    return "published"


def install_polling() -> str:
    """Shorten the wait for a command. Returns how long it is.

    Colocated, one thread reads the policy's and the rollouts' commands in turn, each read blocking for 10 s when there
    is none (utils/constant.py:276, read in utils/redis_stream.py:245, in turn in colocated/controller.py:223): 10 to
    20 s of every step.
    """
    from cosmos_rl.utils.constant import RedisStreamConstant

    RedisStreamConstant.CMD_READING_TIMEOUT_MS = POLLING_MS
    return f"{POLLING_MS} ms"
