"""Run a command of the set-up in a session of its own: its words go to a log, its progress to the terminal, if any.

Why: uv draws its progress for a terminal only, setup.sh reads the log to tell what failed, and a stop has to end all
that an installer has started.

    python .ci/step.py LOG COMMAND...            # exits as the command does
"""

import fcntl
import os
import pty
import signal
import sys
import termios

LIST = b"Installed "  # uv's line before one a package, which are for the log
CLEAR = b"\r\x1b[0m\x1b[K"

log, command = open(sys.argv[1], "ab", buffering=0), sys.argv[2:]  # noqa: SIM115
watched = sys.stdout.isatty()
child, screen = pty.fork() if watched else (os.fork(), log.fileno())
if not child:
    if not watched:
        os.setsid()
        os.dup2(screen, 1)
        os.dup2(screen, 2)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(command[0], command)
signal.signal(signal.SIGTERM, lambda *_: os.killpg(child, signal.SIGTERM))
if watched:
    fcntl.ioctl(screen, termios.TIOCSWINSZ, fcntl.ioctl(1, termios.TIOCGWINSZ, bytes(8)))
    shown = True
    while True:
        try:
            said = os.read(screen, 4096)
        except OSError:  # the command has closed its terminal
            break
        log.write(said)
        head, *rest = said.split(LIST)
        os.write(1, (head + (CLEAR if rest else b"")) * shown)
        shown = shown and not rest
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
sys.exit(code if code >= 0 else 128 - code)
