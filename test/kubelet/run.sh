#!/usr/bin/env bash
# run.sh [--v2] [GO-TEST-FLAG...] [-pods REGEXP] - build a real kubelet, once, and let
# it drive the built straked (bin/). Needs root. `make test-kubelet` calls it. With
# -pods only the manifests whose name matches.
#
# --v2 runs the static pods in the virtual machine of test/vm, on cgroup v2 alone, with
# systemd as PID 1 and the maker of all cgroups: `make test-kubelet-v2`. Others, as
# those of an API server, run with -run.
set -euo pipefail
cd "$(dirname "$0")/../.."
version=${KUBELET_VERSION:-v1.36.3}
export CGO_ENABLED=0 # the test is also a container's program
go run ./test/kubelet/build -version "$version" .work/kubelet
export STRAKE_KUBELET=$PWD/.work/kubelet/kubelet-$version
if [ "${1-}" != --v2 ]; then
	exec go test -count=1 -v -timeout 30m ./test/kubelet "$@"
fi
shift
go test -c -o .work/kubelet/kubelet.test ./test/kubelet
binary=$PWD/.work/kubelet/kubelet.test
export STRAKE_BIN=$PWD/bin
cd test/kubelet
# ext4, which takes id mappings; the machine is emulated, so all takes its time.
exec ../vm/testvm --systemd --mem 3072 --disk 2048 --timeout 3700 -- "$binary" \
	-test.v -test.timeout 60m -test.run 'TestStaticPod|TestManifests' -cgroup-driver systemd -patience 20m "${@/#-run/-test.run}"
