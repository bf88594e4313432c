"""Spare two of the engine's four processes its whole package. Python finds this at its start, through PYTHONPATH.

Why: cosmos_rl/__init__.py of 0.4.7 imports everything, 13 s of CPU time in each process, and the four start one after
the other. Its launcher and the parent of its workers (torchrun) train nothing and need a few modules.
`cookbook.engine.environment` puts this folder in front; in other processes it does nothing.
"""

import sys
from importlib.util import find_spec, module_from_spec

if any(word.endswith(("cosmos_rl.launcher.torchrun", "bin/cosmos-rl")) for word in sys.orig_argv[1:4]):
    for name in ("cosmos_rl", "cosmos_rl.launcher"):
        if spec := find_spec(name):
            sys.modules[name] = module_from_spec(spec)  # there, and not run
