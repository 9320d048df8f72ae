#!/bin/bash
# Measures strake-runtime beside the floor and the OCI runtimes that are
# installed, taking turns in one session. Arguments go to the Go program beside
# this script (see its -help): -n 100, -gap 10ms, -only 'run a,exec'.
# PEERS="crun runc" are those to look for; RUNTIMES="name=path ..." adds contestants,
# such as a crun that one has built.
set -euo pipefail
cd "$(dirname "$0")/../../.."
[ "$(id -u)" = 0 ] || { echo "test/bench/runtime: needs root" >&2; exit 1; }

work=$(mktemp -d /run/strake-bench.XXXXXX)
trap 'rm -rf "$work"' EXIT
cc=${CC:-gcc}
$cc -O2 -Wall -static -o "$work/floor" test/bench/runtime/floor/floor.c
$cc -O2 -Wall -static -o "$work/static" test/bench/runtime/floor/static.c
$cc -O2 -Wall -static -o "$work/rss" test/bench/runtime/floor/rss.c
CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -E main.entry' -o "$work/strake-runtime" ./cmd/strake-runtime
go build -o "$work/bench" ./test/bench/runtime

contestants=("floor=$work/floor" "strake-runtime=$work/strake-runtime")
for name in ${PEERS-crun runc}; do
	path=$(command -v "$name" || true)
	[ -z "$path" ] || contestants+=("$name=$path")
done
# shellcheck disable=SC2206 # words on purpose
contestants+=(${RUNTIMES:-})
test/bench/with-crun "$work/bench" -dir "$work" -static "$work/static" -rss "$work/rss" "$@" "${contestants[@]}"
