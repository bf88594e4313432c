"""Put a recorded session of `make tutorial` into LOG.md, and the newest one there into README.md.

Why: what the README shows was seen, and is written once. tests/test_readme.py holds both together; the figure of the
result (`make figures`) reads LOG.md too.

    script -qec "make tutorial" session.txt      # in a terminal of 80 columns
    python .ci/session.py session.txt            # without a file: README.md only
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SESSION = re.compile(r"(?<=```\n)\$ make tutorial\n.*?(?=```)", re.DOTALL)


def visible(typescript: str) -> str:
    """Returns what stays on the terminal of a session that `script` has recorded, after its command."""
    lines = [line.split("\x1b[K")[-1].rstrip("\r") for line in typescript.split("\n")]
    kept = [line for line in lines if line and not line.startswith("Script ")]
    return "\n".join(["$ make tutorial", *kept]) + "\n"


def put(session: str, name: str) -> None:
    """Put a session in the place of the first one of a file."""
    file = ROOT / name
    text = SESSION.sub(lambda _: session, file.read_text(encoding="utf-8"), count=1)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for recorded in sys.argv[1:]:
        put(visible(Path(recorded).read_bytes().decode()), "LOG.md")
    put(SESSION.search((ROOT / "LOG.md").read_text(encoding="utf-8"))[0], "README.md")
