#!/bin/sh
# Makes .venv from requirements.lock. `make` calls this when the lock or pyproject.toml is newer than .venv/.ready.
#
#   .ci/setup.sh [PYTHON]
#
# Whatever goes wrong, a stop too, ends in one line on stderr that says what to do; what the installers said is in the
# log, and on a terminal their progress is shown.
set -u
cd "$(dirname "$0")/.." || exit 1

uv_version=0.13.9
needed_kb=10000000 # .venv alone takes 6 GB, most of it CUDA; the rest is for unpacking and for the first runs
log=.venv-setup.log
child=''
started=$(date +%s)

stop() {
    echo "setup: $1" >&2
    exit 1
}

stopped() {
    [ -z "$child" ] || kill "$child" 2>/dev/null
    wait
    [ ! -t 2 ] || echo >&2 # progress may stand in this line
    stop "stopped; the same command goes on, with the packages that have come already"
}
trap stopped INT TERM HUP
export PIP_NO_INPUT=1 # a question would not reach a terminal that is not ours

step() { # step WHAT COMMAND...
    what=$1
    shift
    "$python" .ci/step.py "$log" "$@" </dev/null & # beside us: a shell that waits for one in front hears no signal
    child=$!
    wait "$child" && return
    if grep -qiE 'no space left|quota exceeded' "$log"; then
        stop "$what failed because a disk is full: free 10 GB, or point UV_CACHE_DIR at a larger disk (log: $log)"
    elif grep -qiE 'failed to fetch|sending request|connection|resolution|timed out|certificate|proxy' "$log"; then
        stop "$what failed, most likely for want of a network: check the connection, proxy or mirror and try again (log: $log)"
    fi
    stop "$what failed: read the end of $log, or start afresh with \`make clean\`"
}

# A name on PATH proves nothing (it may be a shim without a Python behind it), so every candidate is run.
if [ $# -eq 0 ]; then
    set -- python3.12 python3.11 python3.10 python3
    .venv/bin/python -m pip --version >/dev/null 2>&1 && set -- .venv/bin/python "$@" # keep what is there
fi
advice="install Python 3.10, 3.11 or 3.12, or name one with \`make PYTHON=/path/to/python\`"
python='' unfit='' bare=''
for candidate in "$@"; do
    version=$("$candidate" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
    case $version in
        3.10 | 3.11 | 3.12) ;;
        *) unfit="${unfit:+$unfit, }$candidate ($version)" && continue ;;
    esac
    if "$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        python=$candidate
        break
    fi
    bare=${bare:-$version}
done
if [ -z "$python" ]; then
    [ -z "$bare" ] || stop "Python $bare lacks the venv or ensurepip module: install it (Debian, Ubuntu: \`apt install python$bare-venv\`), or name another Python with \`make PYTHON=/path/to/python\`"
    [ -z "$unfit" ] || stop "only an unsuitable Python was found, $unfit: $advice"
    stop "no Python runs under the name $*: $advice"
fi

[ -w . ] || stop "this folder cannot be written to: clone the project to a folder of your own"
echo "Setting up .venv with Python $version, once (log: $log)"
: >"$log"
if [ "$python" != .venv/bin/python ]; then
    free_kb=$(df -Pk . | { read -r _ && read -r _ _ _ available _ && echo "$available"; })
    [ "$free_kb" -ge "$needed_kb" ] ||
        stop "10 GB of free disk are needed and $((free_kb / 1000000)) GB are free: make room, or clone the project to a larger disk"
    step "creating .venv" "$python" -m venv --clear .venv >/dev/null
fi
# --python: an activated conda or other environment must not become the target
step "installing uv" .venv/bin/python -m pip install "uv==$uv_version" >/dev/null
echo "Installing torch with CUDA, cosmos-rl, JupyterLab: 3.5 GB to download, 5 min at 100 Mbit/s"
# compiled here, once: without, every notebook and command waits for it where Python may not write, and the first where it may
step "installing requirements.lock" .venv/bin/uv pip install --compile-bytecode --python .venv/bin/python -r requirements.lock
step "installing the project" .venv/bin/uv pip install --python .venv/bin/python --no-deps -e . >/dev/null

seconds=$(($(date +%s) - started))
echo "$seconds" >.venv/.setup_seconds
touch .venv/.ready
echo "Set up in $seconds s"
