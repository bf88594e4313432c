"""The bridge to cosmos-rl: every part does its work, and the engine that is installed still needs it.

The engine is imported once (13 s). A test called `test_the_engine_still…` that fails says: the engine has mended this
itself, so take the part out of `cookbook/engine`. Attention, rollouts and clips have tests of their own.
"""

import logging
import os
import re
import runpy
import socket
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch
from rollouts import BASE
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText

from cookbook.config import Config
from cookbook.engine import bridge
from cookbook.engine.bridge import mending
from cookbook.engine.environment import AUTH, find_redis, free_port, is_free
from cookbook.runs import ROOT

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="cosmos-rl is installed on Linux only")


def exported(model):
    """Returns a transformers model's weights under the names that the engine exports and sends."""
    return {model.weight_mapper.policy_map_local_key_to_hf_key(n): t for n, t in model.model.state_dict().items()}


def test_a_transformers_model_is_exported_under_names_that_load(engine, tmp_path):
    from cosmos_rl.policy.model.hf_models import HFModel

    model = HFModel.from_pretrained(AutoConfig.from_pretrained(BASE, trust_remote_code=False), str(BASE))
    weights, published = exported(model), load_file(BASE / "model.safetensors")
    assert set(weights) - {"lm_head.weight"} == set(published)  # the base ties it to the embedding
    save_file({key: value.clone() for key, value in weights.items()}, tmp_path / "model.safetensors", {"format": "pt"})
    (tmp_path / "config.json").write_text((BASE / "config.json").read_text())
    again, found = AutoModelForImageTextToText.from_pretrained(
        tmp_path, trust_remote_code=False, output_loading_info=True
    )
    assert not found["missing_keys"] and not found["unexpected_keys"]
    one = "model.language_model.layers.1.mlp.up_proj.weight"
    assert torch.equal(again.state_dict()[one].float(), model.model.state_dict()[one].float())


def test_the_engine_still_exports_names_that_nothing_loads(engine):
    from cosmos_rl.utils.util import reverse_hf_checkpoint_mapping

    mapping = AutoModelForImageTextToText.from_pretrained(BASE, trust_remote_code=False)._checkpoint_conversion_mapping
    assert "model(?!\\.(language_model|visual))" in reverse_hf_checkpoint_mapping(mapping).values()
    assert set(mending.reverse_mapping(mapping).values()) == {"visual", "model"}


def test_a_command_is_not_waited_for_long(engine):
    from cosmos_rl.utils import constant

    assert constant.RedisStreamConstant.CMD_READING_TIMEOUT_MS == mending.POLLING_MS
    stock = runpy.run_path(constant.__file__)["RedisStreamConstant"]
    assert stock.CMD_READING_TIMEOUT_MS == 10_000, "the engine still waits ten seconds"


def test_redis_listens_to_this_machine_only_where_asked(engine, tmp_path, monkeypatch):
    from cosmos_rl.utils import network_util

    stock = network_util.write_redis_config
    monkeypatch.setattr(network_util, "write_redis_config", stock)  # put back afterwards
    monkeypatch.setattr(network_util, "get_eth_ips", lambda: ["10.0.0.1"])
    monkeypatch.setenv("COSMOS_ROLE", "Controller")
    path = str(tmp_path / "redis.conf")
    for asked, bound in (("0", "0.0.0.0"), ("1", "127.0.0.1")):
        monkeypatch.setenv("COOKBOOK_LOOPBACK", asked)
        assert mending.install_network() == ("all interfaces" if asked == "0" else "127.0.0.1")
        assert network_util.write_redis_config(12800, "log", file_path=path, custom_config="maxmemory 1G") == path
        words = Path(path).read_text()
        assert [line for line in words.splitlines() if line.startswith("bind")] == [f"bind {bound}"]
    assert "port 12800" in words and "maxmemory 1G" in words and network_util.get_eth_ips() == []
    with pytest.raises(RuntimeError, match="expected one line `bind"):
        mending.local_redis(lambda p: p, str(ROOT / "LICENSE"))


@pytest.mark.fault("security")
def test_the_real_redis_answers_only_those_who_have_the_word(tmp_path, monkeypatch):
    """With the server of the installed packages, a client as the engine's, and its way of stopping it."""
    redis = pytest.importorskip("redis")
    folder, port = find_redis(), free_port(23000 + os.getpid() % 9000)
    file = tmp_path / "redis.conf"
    monkeypatch.setenv(AUTH, "a" * 32)
    connection = redis.connection.AbstractConnection
    monkeypatch.setattr(connection, "__init__", connection.__init__)  # put back afterwards

    def write() -> str:
        file.write_text(f"bind 0.0.0.0\nport {port}\nprotected-mode no\ndir {tmp_path}\n")
        return str(file)

    assert mending.local_redis(write) == str(file) and file.stat().st_mode & 0o077 == 0
    server = subprocess.Popen([folder / "redis-server", file, "--save", ""], stdout=subprocess.DEVNULL)
    try:
        while is_free(port):
            time.sleep(0.02)
        client = partial(redis.Redis, port=port, socket_timeout=5, protocol=2, retry=None)
        with pytest.raises(redis.exceptions.AuthenticationError):
            client().eval("return 7", 0)
        mending.install_password()
        mending.install_password()  # a second time changes nothing
        assert client().eval("return 7", 0) == 7  # the engine needs its scripts
        with socket.socket() as outside:
            assert outside.connect_ex(("127.0.0.2", port)) != 0
        stop = [folder / "redis-cli", "-p", str(port), "shutdown", "nosave"]
        assert subprocess.run(stop, env=os.environ).returncode == 0 and server.wait(10) == 0
    finally:
        server.kill()


def test_the_controllers_socket_is_opened_again_for_this_machine_only(engine, monkeypatch):
    from cosmos_rl.utils.network_util import bind_available_port

    stock = bind_available_port(18000)
    host, port = stock.getsockname()
    assert host == "0.0.0.0", "the engine still listens on all interfaces"
    monkeypatch.setenv("COOKBOOK_LOOPBACK", "1")
    monkeypatch.setenv("COSMOS_ROLE", "Policy")
    monkeypatch.setenv("COSMOS_CONTROLLER_LISTEN_FD", str(os.dup(stock.fileno())))
    stock_number = os.environ["COSMOS_CONTROLLER_LISTEN_FD"]
    mending.install_network()
    assert os.environ["COSMOS_CONTROLLER_LISTEN_FD"] == stock_number  # only the controller has a server
    ours = socket.socket(fileno=mending.rebind(int(stock_number)))
    stock.close()  # the launcher's copy, which it closes once the controller runs
    assert ours.getsockname() == ("127.0.0.1", port)
    for name in ("localhost", "0.0.0.0"):  # as the workers call it, and as the controller calls redis
        with socket.create_connection((name, port), timeout=5) as caller:
            served, _ = ours.accept()
            caller.sendall(b"x")
            assert served.recv(1) == b"x"
            served.close()
    with socket.socket() as outside:  # every other address of this machine, such as 127.0.0.2
        assert outside.connect_ex(("127.0.0.2", port)) != 0
    ours.close()


def test_steps_are_printed_in_the_engines_format_where_a_loader_has_set_up_logging():
    """The engine adds no handler where the root has one; if it does some day, the part is not needed any more."""
    program = """
import logging
logging.basicConfig(level=logging.INFO)
from cosmos_rl.utils.logging import logger
logger.info("Step: 1/2, Loss: 3.5")
from cookbook.engine import bridge
from cookbook.engine.bridge import mending
mending.install_log()
logger.info("Step: 1/2, Loss: 3.5")
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=True)
    own, mended = [line for line in done.stderr.splitlines() if "Step: 1/2" in line]
    assert own == "INFO:cosmos:Step: 1/2, Loss: 3.5"
    assert re.fullmatch(r"\[cosmos\] \S+ \S+ - cosmos - INFO - Step: 1/2, Loss: 3.5", mended)


def test_the_bridge_says_what_it_put_in_place(engine, caplog):
    from cosmos_rl.rollout.rollout_base import RolloutRegistry

    assert set(engine) == {
        "attention",
        "video",
        "rollout",
        "names",
        "packing",
        "weights",
        "moments",
        "LoRA",
        "mini-batches",
        "prompts",
        "polling",
        "network",
        "log",
    }
    for name in ("rl_2gpu.toml",):
        settings = Config.load(ROOT / "configs" / name)
        assert RolloutRegistry.check_rollout_type_supported(settings["rollout.backend"])
    with caplog.at_level(logging.INFO):
        assert bridge.install() == engine  # a second time changes nothing
    assert "attention: torch" in caplog.text
