"""Let cosmos-rl 0.4.7 run from a plain pip install: without flash-attn, vLLM, torchcodec and decord.

Why: the engine starts the loader file in each of its processes, so what is put right at its top is put right
everywhere, and the package itself stays as pip installed it. Every part names the line that it mends, and a test in
`tests/engine/` fails for a part that the engine no longer needs. Attention, video and rollout have a module each; here
are the names of exported weights, the wait for a command, the network, and the log's format.
Used by the loader files, through `data_tools.loading.engine.serve`.
"""

import logging
import os
import re
import socket
from functools import partial
from pathlib import Path

from cookbook.engine.bridge.accumulation import install_accumulation
from cookbook.engine.bridge.attention import install_attention
from cookbook.engine.bridge.layout import install_layout
from cookbook.engine.bridge.lora import install_lora
from cookbook.engine.bridge.moments import install_moments
from cookbook.engine.bridge.packing import install_packing
from cookbook.engine.bridge.sharing import install_sharing
from cookbook.engine.bridge.video_reader import install_reader
from cookbook.engine.environment import AUTH

log = logging.getLogger(__name__)

POLLING_MS = 200
READ_ON_CPU = "COSMOS_MULTI_RANK_WEIGHT_LOADER_ON_CPU"
ASKED, SOCKET = "COOKBOOK_LOOPBACK", "COSMOS_CONTROLLER_LISTEN_FD"
HOST = "127.0.0.1"
LOOK_AHEAD = re.compile(r"\(\?[=!].*\)")  # it may hold brackets of its own


def install() -> dict[str, str]:
    """Put every part in place, once per process. Returns what each one is now, and logs it."""
    # the engine takes 13 seconds: not for those who only import this
    from cosmos_rl.policy.model import hf_models
    from cosmos_rl.utils.constant import RedisStreamConstant

    from cookbook.engine.bridge.rollout import BACKEND  # to import it is to register it

    install_reader()
    # utils/multi_rank_weight_loader.py:100: else a GPU holds all files beside the weights that are made of them
    os.environ.setdefault(READ_ON_CPU, "1")
    hf_models.reverse_hf_checkpoint_mapping = reverse_mapping
    # Colocated, one thread reads the policy's and the rollouts' commands in turn, and waits 10 s where there is none
    # (utils/constant.py:276, utils/redis_stream.py:245, colocated/controller.py:223): 10 to 20 s of every step
    RedisStreamConstant.CMD_READING_TIMEOUT_MS = POLLING_MS
    install_log()
    done = {"attention": install_attention(), "video": "PyAV", "rollout": BACKEND, "names": "published"}
    done |= {
        "packing": install_packing(),
        "weights": install_accumulation(),
        "moments": install_moments(),
        "LoRA": install_lora(),
        "mini-batches": install_layout(),
        "prompts": install_sharing(),
        "polling": f"{POLLING_MS} ms",
        "network": install_network(),
        "log": "the engine's",
    }
    log.info("bridge to cosmos-rl: %s", ", ".join(f"{part}: {what}" for part, what in done.items()))
    return done


def install_log() -> None:
    """Let the engine's logger print in its own format, also where a loader file has called `logging.basicConfig`.

    There the engine adds no handler of its own (utils/logging.py:41), and whoever reads the log sees no steps.
    """
    from cosmos_rl.utils.logging import logger

    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("[cosmos] %(asctime)s - %(name)s - %(levelname)s - %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False


def reverse_mapping(mapping: dict[str, str]) -> dict[str, str]:
    """Returns {pattern of transformers' names: published name} of a model's `_checkpoint_conversion_mapping`.

    cosmos-rl 0.4.7 (utils/util.py:1199) takes the text of a pattern for a name. The pattern of transformers 4.57 is
    `^model(?!\\.(language_model|visual))`, so all language weights were exported, and sent to the rollouts, under names
    that nothing can load.
    """
    return {"^" + re.escape(inner): LOOK_AHEAD.sub("", outer).lstrip("^") for outer, inner in mapping.items()}


def install_network() -> str:
    """Bind redis and the controller to 127.0.0.1 where COOKBOOK_LOOPBACK=1 asks for it. Returns where they are.

    cosmos-rl 0.4.7 binds both to all interfaces, without a password: redis in utils/network_util.py:381, the HTTP
    server on a socket that the launcher has opened (launcher/launch_all.py:833). Whoever can reach the machine could
    stop the training or read its data. Workers find both as `localhost`. Not covered: the ports that torch and NCCL
    open among the workers of one run. Our launcher sets the variable for one node and leaves it out for several.
    """
    if os.environ.get(ASKED) != "1":
        return "all interfaces"
    install_password()
    if os.environ.get("COSMOS_ROLE") == "Controller":
        from cosmos_rl.utils import network_util

        network_util.write_redis_config = partial(local_redis, network_util.write_redis_config)
        network_util.get_eth_ips = list  # none: workers would try these addresses too (dispatcher/controller.py:215)
        if SOCKET in os.environ:
            os.environ[SOCKET] = str(rebind(int(os.environ[SOCKET])))
    return HOST


def local_redis(write, *args, **kwargs) -> str:
    """Let the engine's `write_redis_config` write, for a redis that only this machine reaches. Returns the file's path.

    Raises RuntimeError where the engine writes another file than it did, rather than leave the server open.
    """
    path = write(*args, **kwargs)
    text = Path(path).read_text()
    if text.count("bind 0.0.0.0") != 1:
        raise RuntimeError(f"{path}: expected one line `bind 0.0.0.0`; unset {ASKED} to run without this")
    text = text.replace("bind 0.0.0.0", f"bind {HOST}").replace("protected-mode no", "protected-mode yes")
    if word := os.environ.get(AUTH):
        Path(path).chmod(0o600)
        text += f"\nrequirepass {word}\n"
    Path(path).write_text(text)
    return path


def install_password() -> None:
    """Let every connection to redis of this process give the word of REDISCLI_AUTH, where it has no password.

    The engine's clients have none (utils/redis_stream.py:66, dispatcher/controller.py:70), and none can be configured.
    Its scripts (EVAL) and `config get` are part of it (utils/redis_publication.py:134), so no command is taken away.
    """
    from redis.connection import AbstractConnection

    if (word := os.environ.get(AUTH)) and not hasattr(AbstractConnection.__init__, "bare"):
        bare = AbstractConnection.__init__

        def connect(self, *args, **kwargs) -> None:
            bare(self, *args, **kwargs)
            if self.credential_provider is None and not self.password:
                self.password = word

        connect.bare = bare
        AbstractConnection.__init__ = connect


def rebind(descriptor: int) -> int:
    """Close a listening socket, and open one on the same port for this machine only. Returns its descriptor.

    The port stays taken in between: shutting a socket down ends its listening, not its claim.
    """
    with socket.socket(fileno=descriptor) as everywhere:
        port = everywhere.getsockname()[1]
        everywhere.shutdown(socket.SHUT_RDWR)
        return socket.create_server((HOST, port), backlog=128).detach()
