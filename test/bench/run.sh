#!/usr/bin/env bash
# run.sh - the figures of the README and of the commit messages, again, on this
# machine: the OCI runtime beside crun, runc and the floor, then straked beside
# containerd, and the monitor beside conmon. Ratios mean something; absolute times are this machine's.
set -euo pipefail
cd "$(dirname "$0")/../.."
test/bench/runtime/run.sh
go run ./test/bench/node -bin bin
go run ./test/bench/images -bin bin
go test -run '^$' -bench . -benchtime 1x -timeout 0 ./test/bench/monitor
