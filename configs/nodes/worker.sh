#!/usr/bin/env bash
# Another of @nodes@ machines: it waits for the first one's controller, and ends with it.
# usage: bash worker.sh INDEX FIRST_IP [IP;IP;…]   INDEX counts from 1
set -euo pipefail
cd @root@
export PATH=@bin@:"$PATH" PYTHONUNBUFFERED=1 COSMOS_REDIS_NO_TLS=1
exec cosmos-rl --config @config@ --num-workers @nodes@ --worker-idx "$1" --url "$2:@port@" \
    ${3:+--node-ip-list "$3"} @loader@
