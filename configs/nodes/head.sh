#!/usr/bin/env bash
# The first of @nodes@ machines: controller, redis, its share of the workers, and the verdict on the run.
# usage: bash head.sh [IP;IP;…]   the addresses of all machines, only where one replica spans several
set -euo pipefail
cd @root@
exec @python@ -m cookbook.engine --config @config@ --run @run@ --nodes @nodes@ --port @port@ \
    ${1:+--node-ips "$1"} @loader@
