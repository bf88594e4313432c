"""Spare two of the engine's four processes its whole package, and let the others start together.

Why: cosmos_rl/__init__.py of 0.4.7 imports everything. The launcher and the parent of its workers (torchrun) train
nothing and need a few modules: `python -m cosmos_rl.launcher.torchrun --help` took 29.0 s of CPU time, and 2.9 s with
this. The launcher also waits for the controller before it starts the workers (launcher/launch_all.py:980), which take
as long to import the same; a worker asks again where nobody answers yet (dispatcher/api/client.py:199).
Python finds this at its start: `cookbook.engine.environment` puts the folder in front of PYTHONPATH. In other processes
it does nothing.
"""

import sys
from importlib.util import find_spec, module_from_spec
from types import ModuleType

started = sys.orig_argv[1:4]
launcher = any(word.endswith("/cosmos-rl") for word in started[:1])
if launcher or any(word.endswith("cosmos_rl.launcher.torchrun") for word in started):
    for name in ("cosmos_rl", "cosmos_rl.launcher"):
        if spec := find_spec(name):
            sys.modules[name] = module_from_spec(spec)  # there, and not run
if launcher and "cosmos_rl" in sys.modules:
    # only what the launcher never calls is asked of it (utils/dist_signal_handler.py:20)
    distributed = sys.modules["cosmos_rl.utils.distributed"] = ModuleType("cosmos_rl.utils.distributed")
    distributed.all_gather_object_cpu = None
    from cosmos_rl.launcher import launch_all

    launch_all.wait_for_url_ready = lambda *_: None
