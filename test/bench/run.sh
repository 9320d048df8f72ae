#!/usr/bin/env bash
# run.sh - the figures of the README and of the commit messages, again, on this
# machine: the OCI runtime beside crun, runc and the floor, then straked beside
# containerd, and the monitor beside conmon. Ratios mean something; absolute times are this machine's.
set -euo pipefail
cd "$(dirname "$0")/../.."
test/bench/runtime/run.sh
go run ./test/bench/node -bin bin
go run ./test/bench/images -bin bin
mkdir -p .work
go test -c -o .work/monitor.test ./test/bench/monitor
test/bench/with-crun .work/monitor.test -test.run '^$' -test.bench . -test.benchtime 1x -test.timeout 0
