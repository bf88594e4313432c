"""Read the engine's log: steps, exports, dead processes, and the traceback that came first.

Why: the log is the only place where cosmos-rl tells the truth (its exit code does not), and eight ranks print one
error in eight copies, three times each, with torchrun's own traceback at the end.

    RunLog().take("… - INFO - Step: 2/12, Loss: 6.17863, …")    # Step(number=2, total=12, values={"Loss": 6.17863, …})
    root_cause(traces(lines), after=411)                        # the one traceback to show
"""

import math
import re
from collections import defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from cookbook.engine.failures import Reason, failure_kind

# torchrun puts "[rank0]:" before a worker's line, torch's own handler a second one with a space
RANK = re.compile(r"\[rank(\d+)\]:((?:\[rank\d+\]: ?)*)")
RECORD = re.compile(r"\[cosmos\] |[A-Z]+:cosmos:|INFO: |[EWI]\d{4} \d\d:|\[rank\d+\]|Exported safetensors to ")
STEP = re.compile(r"(?:^|- |:cosmos:)Step: (\d+)/(\d+), (.+)")
FIGURE = re.compile(r"([A-Za-z][\w ./]*): (-?(?:\d[\d.e+-]*|nan|inf))")
EXPORT = re.compile(r"Exported safetensors to (\S+)")
DEAD = re.compile(r"Process \S+ failed with return code (-?\d+)")
EXCEPTION = re.compile(r"[\w.]*(?:Error|Exception)\b")  # at the start of the line that names an exception
READY = "Application startup complete"  # said by the controller's web server
MILESTONE = re.compile(
    rf"{READY}|Redis server started on port \d+|Replica started at|Training epoch|Validation loss|"
    r"Exported safetensors to \S+|checkpoint saved successfully|Trying to load checkpoint|Checkpoint loaded|"
    r"Best checkpoint updated|failed with return code"
)
FATAL = {"memory", "disk", "nccl"}  # what no process of the engine survives, though it may hang
CHATTER = re.compile(r"Soft throttle still engaged|heartbeat")  # said every few seconds, also when nothing moves

TRACE_START = re.compile(r"\s*(?:Original )?Traceback \(most recent call last\):")
TRACE_END = re.compile(rf'\s*$|"""|====|----|{RECORD.pattern}|{TRACE_START.pattern}')
# what breaks because something else broke: torchrun's own, peers that vanish, wrappers around the real one
CASCADE = re.compile(
    r"ChildFailedError|SignalException|DistBackendError|DistStoreError|DistNetworkError|ConnectionError|"
    r"Connection(Refused|Reset|Aborted)|BrokenPipe|RemoteDisconnected|MaxRetryError|CancelledError|"
    r"KeyboardInterrupt|SystemExit|Caught \w+ in DataLoader worker|failed on another rank"
)
TRACE_LINES = 40  # lines of one traceback that are shown
MESSAGE = 12  # lines of one exception's own text


@dataclass(frozen=True)
class Step:
    """One step that the engine reports: its number, how many there will be, and its figures by the engine's names."""

    number: int
    total: int
    values: dict[str, float]


def split(line: str) -> tuple[str, str]:
    """Returns (rank, text) of a line; rank is "" for the launcher, the controller and redis."""
    match = RANK.match(line)
    return (match[1], line[match.end() :]) if match else ("", line)


def parse_step(line: str) -> Step | None:
    """Returns the step that a line reports, SFT's or GRPO's; None for any other line."""
    if not (match := STEP.search(split(line)[1])):
        return None
    values = {name.strip(): float(value.rstrip(".")) for name, value in FIGURE.findall(match[3])}
    return Step(int(match[1]), int(match[2]), values) if values else None


def bare_text(line: str) -> str:
    """Returns what a line says, without its rank, date and level."""
    return re.sub(r"^\[cosmos\] .*? - cosmos - [A-Z]+ - |^[A-Z]+:cosmos:", "", split(line)[1]).strip()


@dataclass
class RunLog:
    """What a log has said so far. Times are those of its lines, in seconds of the reader's clock."""

    moved: float = 0.0  # the last sign of life
    lines: int = 0
    step: Step | None = None
    step_line: int = 0  # the line of the last step
    step_times: deque[float] = field(default_factory=lambda: deque(maxlen=20))
    loss: float = 0.0
    bad_losses: int = 0  # in a row
    exported: set[str] = field(default_factory=set)
    ready: bool = False
    dead: Reason | None = None  # the first process that failed
    fatal: Reason | None = None  # an error that nothing survives, until a step follows it

    def take(self, line: str, now: float = 0.0) -> Step | None:
        """Take in one line. Returns the step that it reports, None for any other line."""
        self.lines += 1
        if not CHATTER.search(line):
            self.moved = now
        text, step = split(line)[1], parse_step(line)
        if step:
            self.step, self.step_line, self.fatal = step, self.lines, None
            self.step_times.append(now)
            self.loss = step.values.get("Loss", step.values.get("Average loss", self.loss))  # SFT's name, GRPO's name
            self.bad_losses = 0 if math.isfinite(self.loss) else self.bad_losses + 1
        elif match := EXPORT.search(line):
            self.exported.add(Path(match[1]).name)
        elif (match := DEAD.search(line)) and not self.dead:
            kind = "worker" if self.ready else "controller"
            self.dead = Reason(kind, f"a process of the engine failed with return code {match[1]}", now)
        self.ready = self.ready or READY in line
        if EXCEPTION.match(text) and (kind := failure_kind(text)) in FATAL and not self.fatal:
            self.fatal = Reason(kind, text, now)
        return step


@dataclass(frozen=True)
class Trace:
    """One traceback: the line of the log it starts on, the rank that printed it ("" for no rank), and its text."""

    at: int
    rank: str
    lines: list[str]
    error: str  # the line that names the exception

    def text(self) -> str:
        """Returns it as it was printed; the middle of a long one is left out."""
        if (over := len(self.lines) - TRACE_LINES) <= 0:
            return "\n".join(self.lines)
        return "\n".join([*self.lines[:4], f"  … {over} lines …", *self.lines[4 + over :]])


def traces(lines: Iterable[str]) -> list[Trace]:
    """Returns all tracebacks in the order in which they begin; those of ranks that talk at once are told apart."""
    ranks: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for number, (rank, text) in enumerate(map(split, lines), start=1):
        ranks[rank].append((number, text))
    found = []
    for rank, told in ranks.items():
        for start in (i for i, (_, text) in enumerate(told) if TRACE_START.match(text)):
            rest = list(takewhile(lambda text: not TRACE_END.match(text), (text for _, text in told[start + 1 :])))
            frames = list(takewhile(lambda text: text.startswith(" "), rest))
            if error := rest[len(frames) :][:MESSAGE]:
                found.append(Trace(told[start][0], rank, [told[start][1].strip(), *frames, *error], error[0]))
    return sorted(found, key=lambda trace: trace.at)


def root_cause(found: Sequence[Trace], after: int = 0) -> Trace | None:
    """Returns the traceback that came first; None where there is none.

    `after` is the line of the last step: what steps followed was survived, unless nothing came later, as when a
    rollout worker dies and the policy still trains on what is left.
    """
    real = [t for t in found if not CASCADE.search(t.error)] or list(found)
    late = [t for t in real if t.at > after]
    return next((t for t in late or real if late or t.error == real[-1].error), None)
