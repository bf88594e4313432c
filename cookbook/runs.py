"""The run folder: everything that one run leaves, under one name, in files that any tool can read.

Why: a curve that cannot be traced to its seed, versions and configuration teaches nothing, and two runs with one seed
can only be compared when their figures hold no clock. Training loops write it; plots, evaluation and report read it.

    run = Run("tutorial/sft", seed=0)               # starts runs/tutorial/sft
    run.write_manifest(config=config, clips=480)    # manifest.json: what went in
    run.log_metrics(step, loss=loss)                # metrics.jsonl: numbers only, the same for the same seed
    run.log("step 20: saved the checkpoint")        # log.txt: words, with the time of day
    run.keep_generations(rows)                      # generations.jsonl: what the model wrote

    read_metrics("tutorial/sft")                    # reads a run without starting it again
"""

import hashlib
import json
import logging
import os
import platform
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, BinaryIO

ROOT = Path(__file__).resolve().parents[1]
JOBS = ROOT / "jobs"  # of those that `cookbook.new` writes
FOLDER = "COOKBOOK_RUNS"  # the variable that names another folder for all runs than runs/

MANIFEST, METRICS, GENERATIONS, LOG = "manifest.json", "metrics.jsonl", "generations.jsonl", "log.txt"
BEST, STATE, LOCK, EXPORTS = "best.json", "state.pt", ".lock", "safetensors"
FINISHED = "finished"  # the `outcome` of a manifest; else "running", "stopped" or what the engine says
BOM = b"\xef\xbb\xbf"  # which some editors put before UTF-8
KL_ALARM = 0.1  # nats a token: the line in the curves of a run, and where `training.alarms` warns
PACKAGES = {"cookbook": "cosmos-reason1-cookbook", "torch": "torch", "transformers": "transformers"}

logger = logging.getLogger(__name__)


class RunError(RuntimeError):
    """A run that may not begin: its name, its folder or its settings belong to another one; the message says what."""


class Run:
    """A run that is being written. Creating one starts it, or goes on with it."""

    def __init__(self, name: str | Path, *, seed: int, go_on: bool = False) -> None:
        """Make the folder, begin its files and write a first manifest.

        A relative path counts from runs/, wherever the process stands. The manifest, metrics, generations, log and
        state of an earlier run in this folder are replaced, so that two runs never mix; other files stay. With `go_on`
        all of them stay.
        """
        self.path = path(name)
        self.seed = seed
        self.on_metrics: Callable[[], None] = lambda: None  # called when metrics.jsonl has new lines
        self.path.mkdir(parents=True, exist_ok=True)
        self._facts: dict[str, object] = read_manifest(self.path) if go_on else {}
        for name in () if go_on else (METRICS, GENERATIONS, LOG):
            (self.path / name).write_text("")
        for name in () if go_on else (BEST, STATE):
            (self.path / name).unlink(missing_ok=True)
        earlier = [folder.name for folder in self.path.glob(f"{EXPORTS}/*")]
        self._facts = {"earlier": earlier} | self._facts | _origin() | {"seed": seed}
        self.write_manifest()

    def write_manifest(self, **facts: object) -> None:
        """Write facts to manifest.json, beside those it has; a fact of the same name is replaced.

        What JSON does not know, such as a path, is written as text.
        """
        self._facts |= facts
        text = json.dumps(self._facts, indent=2, ensure_ascii=False, default=str)
        write_whole(self.path / MANIFEST, f"{text}\n".encode())

    def let_earlier_go(self, own: Collection[str]) -> None:
        """Delete the exports that an earlier run left here, now that `own` stand: names like step_40."""
        for name in set(self._facts["earlier"]) - set(own):
            shutil.rmtree(self.path / EXPORTS / name)
        self.write_manifest(earlier=[])

    def sizes(self) -> dict[str, int]:
        return {name: (self.path / name).stat().st_size for name in (METRICS, GENERATIONS)}

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Shorten metrics and generations to these lengths: what came after is written again.

        Raises ValueError for a file that is shorter, which would be filled with zeros, or gone.
        """
        for name, size in sizes.items():
            if not (file := self.path / name).is_file() or file.stat().st_size < size:
                raise ValueError(f"{name} is shorter than it was")
            os.truncate(file, size)

    def log_metrics(self, step: int, **values: float) -> None:
        """Append one line to metrics.jsonl: the step, then the values in the order given, floats in full.

        A tensor or array of one element is written as its number. No clock goes in here: durations belong in
        the manifest, or two runs with one seed would differ.
        """
        row = {"step": step, **values}
        self._append(METRICS, json.dumps(row, default=lambda value: value.item()))
        self.on_metrics()

    def log(self, text: str) -> None:
        """Append a line with the time of day to log.txt; programs that show `logging` at INFO show it too."""
        self._append(LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')}  {text}")
        logger.info("%s: %s", self.path.name, text)

    def keep_generations(self, rows: Iterable[dict]) -> None:
        """Append what the model wrote to generations.jsonl, one row a line."""
        for row in rows:
            self._append(GENERATIONS, json.dumps(row, ensure_ascii=False, default=str))

    def metrics(self) -> list[dict]:
        return read_metrics(self.path)

    def _append(self, name: str, line: str) -> None:
        with (self.path / name).open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def path(name: str | Path = "") -> Path:
    """Returns the folder or file of that name below runs/; an absolute path stays as it is.

    All runs lie in runs/ of the project, or where the variable COOKBOOK_RUNS says.
    """
    return ROOT / os.environ.get(FOLDER, "runs") / name


def require_name(name: str) -> None:
    """Raises RunError for a job's name that leads out of runs/, or that a script or a file could not hold."""
    parts = Path(name).parts
    if not parts or Path(name).is_absolute() or ".." in parts or not name.isprintable() or len(name) > 120:
        raise RunError(f"{name!r} is no name for a job: its folder must lie below runs/, in letters that can be typed")


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Let one process at a time write a run's folder; with `wait` the second waits. A process that died holds nothing.

    Raises RunError, naming the process that has it.
    """
    import fcntl  # POSIX only, as the engine is

    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / LOCK).open("a+", encoding="utf-8")
    except OSError as error:  # a file of that name, a link to nothing, a disk that may not be written
        helps = "move away what is there, or take another name for the job"
        raise RunError(f"{named(folder)}: no run can be written there ({error.strerror}); {helps}") from None
    with opened as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.seek(0)
            told = f"{named(folder)}: is being written by {file.read() or 'another process'}"
            raise RunError(f"{told}; wait for it, stop it, or take another name for the job") from None
        file.truncate(0)
        file.write(f"process {os.getpid()}, since {time.strftime('%H:%M:%S')}")
        file.flush()
        yield


def write_whole(file: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file so that it is there whole, or as it was before: aside, flushed, renamed.

    Raises RunError where it cannot be written; what it took of the disk is given back.
    """
    part = file.with_name(f".{file.name}.part")
    try:
        with part.open("wb") as out:
            content(out) if callable(content) else out.write(content)
            out.flush()
            os.fsync(out.fileno())
        part.replace(file)
    except (OSError, RuntimeError) as error:
        part.unlink(missing_ok=True)
        why = error if isinstance(error, OSError) else error.__context__ or error  # torch hides a full disk in its own
        raise RunError(f"{named(file)}: cannot be written ({why}); make room there, and run the same again") from None


def write_jsonl(rows: Iterable[Mapping | list], file: Path) -> Path:
    """Write lines of JSON in one move, so that nobody reads half of them. Returns the file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.part")
    lines = (json.dumps(row, ensure_ascii=False, default=str) for row in rows)
    part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return part.replace(file)


def read_manifest(run: Path) -> dict[str, Any]:
    """Returns the facts of a run; {} where it has none. Raises ValueError for a file that is damaged."""
    return read_json(run / MANIFEST) if (run / MANIFEST).is_file() else {}


def code_hash() -> str:
    """Returns twelve hexadecimal digits of the sources of this project's packages."""
    found = hashlib.sha256()
    for file in sorted(file for package in ("cookbook", "data_tools") for file in (ROOT / package).rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()[:12]


def unfinished(run: Path) -> str:
    """Returns how a run stands that has not come to its end, "" for one that has, or that is none."""
    outcome = read_manifest(run).get("outcome", FINISHED)
    return "" if outcome == FINISHED else str(outcome)


def use(folder: str) -> None:
    """Let all runs of this process lie in another folder than runs/, as COOKBOOK_RUNS does; "" changes nothing."""
    if folder:
        os.environ[FOLDER] = str(Path(folder).expanduser().resolve())


def read_metrics(run: str | Path, torn: bool = False) -> list[dict]:
    """Returns the rows of a run's metrics, one dictionary a line.

    `run` is the run's folder or its metrics file; a relative one counts from runs/. With `torn`, a last line that is
    being written is left out.
    Raises FileNotFoundError where there is no run, ValueError with file and line for a line without a step.
    """
    file = path(run) if Path(run).suffix == ".jsonl" else path(run) / METRICS
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no metrics. Has this run been started?")
    rows = read_jsonl(file, torn, ("step",))
    if odd := next((n for n, row in enumerate(rows, 1) if type(row["step"]) not in (int, float)), None):
        raise ValueError(f"{file}: row {odd}: its step is no number; cut the row out, or run the step again")
    return rows


def read_jsonl(file: Path, torn: bool = False, needs: Collection[str] = ()) -> list[dict]:
    """Returns what a file has, one object of JSON a line; with `torn`, without a last line that was cut off.

    Raises ValueError with file and line for a line that is no object, or lacks one of the keys that it `needs`.
    """
    # a text may hold U+2028, where str.splitlines would break it
    lines = file.read_bytes().removeprefix(BOM).split(b"\n")
    numbered = enumerate(lines[:-1] if torn else lines, start=1)
    return [_object(line, f"{file}:{number}", "a line of JSON", needs) for number, line in numbered if line.strip()]


def read_json(file: Path, needs: Collection[str] = ()) -> dict:
    """Returns the object of JSON that a file has. Raises ValueError, in one line, where it has none or lacks a key."""
    return _object(file.read_bytes().removeprefix(BOM), str(file), "JSON", needs)


def _object(text: bytes, place: str, what: str, needs: Collection[str]) -> dict:
    try:
        found = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        why = f"not {what}; was it cut off? ({error})"
    else:
        missing = [key for key in needs if key not in found] if isinstance(found, dict) else []
        why = "" if isinstance(found, dict) else f"holds {type(found).__name__}, no object"
        why = f"has no {', '.join(missing)}" if missing else why
    if why:
        raise ValueError(f"{place}: {why}; mend it, or delete it and run again the step that writes it")
    return found


def named(place: Path) -> str:
    """Returns a path as one would write it, and a configuration does: from the project's root, where it lies below."""
    return str(place.relative_to(ROOT) if place.is_relative_to(ROOT) else place)


def installed_version(package: str) -> str | None:
    """Returns the installed version of a distribution, None where it is not installed."""
    return next((found.version for found in distributions(name=package)), None)


def _origin() -> dict:
    versions = {"python": platform.python_version()} | {n: installed_version(p) for n, p in PACKAGES.items()}
    program = Path(sys.argv[0]).name
    # a kernel's own command line is a connection file that is gone tomorrow
    command = "notebook" if program == "ipykernel_launcher.py" else shlex.join([program, *sys.argv[1:]])
    return {"versions": versions, "commit": _commit(), "platform": platform.platform(), "command": command}


def _commit() -> str | None:
    """Returns the checkout's commit, with "-dirty" where files differ from it; None without git.

    Notebooks are left out: running one writes its outputs, and what its parameters change stands in config.toml.
    """
    if not (ROOT / ".git").exists():  # or git would answer for a repository further up
        return None
    git = partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    try:
        commit = git(["git", "rev-parse", "HEAD"], check=True).stdout.strip()
        differs = git(["git", "diff", "--quiet", "HEAD", "--", ".", ":!notebooks/*.ipynb"]).returncode
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + "-dirty" * bool(differs)
