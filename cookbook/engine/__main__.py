"""Train with cosmos-rl from the command line, or write the files that start a training on several machines.

Why files: the engine's launcher has the flags for several machines (--num-workers, --worker-idx, --url), but the first
one's port must be known to all, its redis must not hide on loopback, and when one fails the others would wait for ever.
The first runs this command, which watches and judges; the others run plain cosmos-rl. All of them need the project at
the same path, on a disk that they share. The files stand in configs/nodes/, with @names@ for what a job fills in.

python -m cookbook.engine --config configs/sft.toml --run mine/sft data_tools/llava_sft.py
python -m cookbook.engine --config configs/sft_8gpu.toml --run mine/sft --nodes 2 --write-nodes start LOADER.py
sbatch start/job.slurm           # or: bash start/head.sh on one, bash start/worker.sh 1 FIRST_IP on the other
"""

import argparse
import logging
import re
import shlex
import sys
from pathlib import Path

import torch

from cookbook import runs
from cookbook.checkpoint import CheckpointError, last_complete
from cookbook.config import Config, ConfigError
from cookbook.engine.environment import engine_environment
from cookbook.engine.failures import FAILURES, EngineError
from cookbook.engine.launch import PORT, as_launched, as_typed, command, launch, make_room
from cookbook.engine.supervisor import Patience
from cookbook.runs import ROOT, Run, RunError, locked, require_name

LAST = Path("last")  # what a bare --resume stands for
START_FILES, PYTHON = ("head.sh", "worker.sh", "job.slurm"), ".venv/bin/python"


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 for a run that did what it was asked to, 2 for a command that asks for nonsense."""
    args = _parse(arguments)
    if args.write_nodes and args.nodes < 2:
        print("--write-nodes wants --nodes 2 or more: one machine needs no start files", file=sys.stderr)
        return 2
    if not (args.show or args.write_nodes or torch.cuda.is_available()):
        print(f"no GPU is visible here, and cosmos-rl trains on nothing else: {FAILURES['gpu'][1]}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s  %(message)s", datefmt="%H:%M:%S")
    run, port = runs.path(args.run), args.port or PORT
    try:
        config, loader = Config.load(args.config.resolve()), args.loader.resolve()
        if args.resume == LAST:
            args.resume = last_complete(run)
            if args.resume is None:
                raise EngineError("checkpoint", f"{runs.named(run)}: holds no complete checkpoint to go on from")
        if args.show:
            path = engine_environment(config, run, nodes=args.nodes)["PATH"]
            print("#", as_typed(command(run / "config.toml", loader, port, path, args.nodes)))
            print(as_launched(config, run, args.resume).text())
        elif args.write_nodes:
            print(*write_start_files(args.write_nodes, args.config, args.loader, args.run, args.nodes, port), sep="\n")
        else:
            patience = Patience(stall=args.stall, start=max(Patience.start, args.stall or 0))
            start = {"port": args.port, "resume": args.resume and args.resume.resolve(), "replace": args.replace}
            start |= {"patience": patience, "nodes": args.nodes, "node_ips": args.node_ips}
            require_name(args.run)
            with locked(run):
                make_room(run, args.resume, args.replace)  # before Run begins the folder's files anew
                begun = Run(args.run, seed=config["train.seed"] or 0, go_on=args.resume is not None)
                export = launch(config, loader, begun, **start)
            print(export or "finished; the configuration asks for no export")
    except (EngineError, ConfigError, RunError, CheckpointError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def write_start_files(folder: Path, config: Path, loader: Path, run: str, nodes: int, port: int) -> list[Path]:
    """Write head.sh, worker.sh and job.slurm for two or more machines. Returns their paths.

    Config and loader count from the project's root, as `python` does. Raises RunError for a name that no script can
    hold: quotes keep a line break out of a command, but not out of a comment.
    """
    require_name(run)
    words = {"root": ROOT, "python": PYTHON, "config": config, "run": run, "loader": loader, "nodes": nodes}
    words |= {"bin": (ROOT / PYTHON).parent, "here": folder.resolve(), "port": port}
    words["name"] = re.sub(r"[^\w.-]+", "-", run)
    if odd := [value for value in map(str, words.values()) if not value.isprintable()]:
        raise RunError(f"{odd[0]!r}: a script cannot hold such a name; rename it, in letters that can be typed")
    folder.mkdir(parents=True, exist_ok=True)
    for name in START_FILES:
        text = (ROOT / "configs/nodes" / name).read_text(encoding="utf-8")
        filled = re.sub(r"@(\w+)@", lambda match: shlex.quote(str(words[match[1]])), text)
        (folder / name).write_text(filled, encoding="utf-8")
    return [folder / name for name in START_FILES]


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cookbook.engine", description=__doc__.splitlines()[0])
    parser.add_argument("loader", type=Path, help="the loader file, such as data_tools/llava_sft.py")
    parser.add_argument("--config", type=Path, required=True, help="the TOML file")
    parser.add_argument("--run", required=True, help="the run's name: its folder below runs/")
    parser.add_argument(
        "--resume", type=Path, nargs="?", const=LAST, help="go on from the last complete checkpoint, or from this one"
    )
    parser.add_argument("--replace", action="store_true", help="delete the results of an earlier run of this name")
    parser.add_argument("--port", type=int, help=f"the controller's port (default {PORT}, or the next free one)")
    parser.add_argument("--stall", type=float, help="seconds of silence to bear after the first step")
    parser.add_argument("--show", action="store_true", help="print the command and the configuration, start nothing")
    parser.add_argument("--nodes", type=int, default=1, help="how many machines; this is the first")
    parser.add_argument("--node-ips", default="", help="their addresses, with ; between: for a replica across machines")
    parser.add_argument("--write-nodes", type=Path, metavar="FOLDER", help="write head.sh, worker.sh, job.slurm there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
