"""Spare one of the engine's four processes its whole package. Python finds this at its start, through PYTHONPATH.

Why: cosmos_rl/__init__.py of 0.4.7 imports everything. The parent of its workers (torchrun) trains nothing and needs a
few modules: `python -m cosmos_rl.launcher.torchrun --help` took 29.0 s of CPU time, and 2.9 s with this.
`cookbook.engine.environment` puts this folder in front; in other processes it does nothing.
"""

import sys
from importlib.util import find_spec, module_from_spec

if any(word.endswith("cosmos_rl.launcher.torchrun") for word in sys.orig_argv[1:4]):
    for name in ("cosmos_rl", "cosmos_rl.launcher"):
        if spec := find_spec(name):
            sys.modules[name] = module_from_spec(spec)  # there, and not run
