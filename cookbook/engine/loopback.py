"""Keep redis and the controller of a one-node training on 127.0.0.1, where COOKBOOK_LOOPBACK=1 asks for it.

Why: cosmos-rl 0.4.7 binds both to all interfaces, without a password: redis in utils/network_util.py:381
(`bind 0.0.0.0`, `protected-mode no`), the HTTP server on a socket that the launcher has opened
(launcher/launch_all.py:833). On a machine that others can reach, they could stop the training or read its data.
Workers find both as `localhost`. Not covered: the ports that torch and NCCL open among the workers of one run.

The launcher sets the variable for one node and leaves it out for several. Used by `cookbook.engine.bridge` in the
controller's process, before the engine starts.

    install()
"""

import os
import socket
from pathlib import Path

ASKED, SOCKET = "COOKBOOK_LOOPBACK", "COSMOS_CONTROLLER_LISTEN_FD"
HOST = "127.0.0.1"


def install() -> str:
    """Bind to loopback, in the controller's process and if asked. Returns which interfaces are used."""
    if os.environ.get(ASKED) != "1":
        return "all interfaces"
    if os.environ.get("COSMOS_ROLE") == "Controller":
        from cosmos_rl.utils import network_util

        network_util.write_redis_config = local_redis(network_util.write_redis_config)
        network_util.get_eth_ips = list  # none: workers would try these addresses too (dispatcher/controller.py:215)
        if SOCKET in os.environ:
            os.environ[SOCKET] = str(rebind(int(os.environ[SOCKET])))
    return HOST


def local_redis(write):
    """Returns the engine's `write_redis_config`, for a redis that only this machine reaches.

    Raises RuntimeError where the engine writes another file than it did, rather than leave the server open.
    """

    def write_redis_config(*args, **kwargs):
        path = write(*args, **kwargs)
        text = Path(path).read_text()
        if text.count("bind 0.0.0.0") != 1:
            raise RuntimeError(f"{path}: expected one line `bind 0.0.0.0`; unset {ASKED} to run without this")
        Path(path).write_text(text.replace("bind 0.0.0.0", f"bind {HOST}"))
        return path

    return write_redis_config


def rebind(descriptor: int) -> int:
    """Close a listening socket, and open one on the same port for this machine only. Returns its descriptor.

    The port stays taken in between: shutting a socket down ends its listening, not its claim.
    """
    with socket.socket(fileno=descriptor) as everywhere:
        port = everywhere.getsockname()[1]
        everywhere.shutdown(socket.SHUT_RDWR)
        local = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        local.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        local.bind((HOST, port))
        local.listen(128)
    return local.detach()
