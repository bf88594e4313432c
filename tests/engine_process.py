"""A fresh process that has imported cosmos-rl already: a worker of the tests pays the seconds for it once.

Why: what looks at the installed engine patches it, so each program gets a process of its own.
"""

import contextlib
import json
import multiprocessing
import sys
import traceback
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "cosmos_rl.dispatcher.data.packer", "cosmos_rl.policy.config"])


def in_engine(program: str, *words: Any) -> Any:
    """Run a program with its words. Returns the JSON that it prints behind RESULT. Fails with its output."""
    with TemporaryDirectory() as folder:
        said = Path(folder) / "said"
        process = CONTEXT.Process(target=_run, args=(program, [str(word) for word in words], said))
        process.start()
        process.join(300)
        assert process.exitcode == 0, said.read_text()[-3000:]
        return json.loads(said.read_text().partition("RESULT")[2].splitlines()[0])


def _run(program: str, words: list[str], said: Path) -> None:
    sys.argv[1:] = words
    with said.open("w") as out, contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            exec(compile(program, "program", "exec"), {"__name__": "__main__"})
        except BaseException:
            traceback.print_exc()
            raise
