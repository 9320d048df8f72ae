#!/usr/bin/env bash
# run.sh [GO-TEST-FLAG...] [-pods REGEXP] - build a real kubelet, once, and let it
# drive the built straked (bin/). Needs root. `make test-kubelet` calls it. With
# -pods only the manifests whose name matches.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${KUBELET_VERSION:-v1.36.3}
export CGO_ENABLED=0 # the test is also a container's program
go run ./test/kubelet/build -version "$version" .work/kubelet
STRAKE_KUBELET=$PWD/.work/kubelet/kubelet-$version exec go test -count=1 -v -timeout 30m ./test/kubelet "$@"
