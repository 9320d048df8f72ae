#!/usr/bin/env bash
# run.sh - the tests that touch cgroups, again, on a kernel with cgroup v2 only
# (and AppArmor): a virtual machine, because the host may have v1; those of systemd's
# scopes, in one that boots systemd; those of checkpoints and of killed monitors; those of fs-verity; and those
# of SELinux, enforcing a policy of ours.
# Slow: the machine is emulated.
set -euo pipefail
cd "$(dirname "$0")/../.."

binaries=$PWD/.work/vm
mkdir -p "$binaries"
testvm=$PWD/test/vm/testvm
passed=0 failed=0

# run PACKAGE [TESTVM OPTION...] [-- TEST FLAG...]
run() {
	local package=$1 options=() binary
	shift
	binary=$binaries/${package//\//-}.test
	while [ $# -gt 0 ] && [ "$1" != -- ]; do options+=("$1"); shift; done
	[ $# = 0 ] || shift
	echo "== $package ${options[*]} $*"
	[ -x "$binary" ] && [ "$binary" -nt "$binaries/started" ] || go test -c -o "$binary" "./$package"
	local with=()
	[[ ${options[*]} != *selinux* ]] || with=("$PWD/test/vm/with-selinux")
	if (cd "$package" && "$testvm" --timeout 900 "${options[@]}" -- "${with[@]}" "$binary" "$@"); then
		passed=$((passed + 1))
	else
		failed=$((failed + 1))
	fi
}

touch "$binaries/started"
run oci/cgroup
run oci/container
STRAKE_BIN=$PWD/bin run test/e2e/runtime -- -test.run 'Labelled|ExecAgain' # with AppArmor
run oci/container --disk 512 -- -test.run 'I[Dd][Mm]apped|MappedSource' # ext4 takes id mappings, this kernel's tmpfs not
run image --disk 1024 -- -test.run Verity # of ext4 and btrfs, which the host's kernel may lack
run test/e2e/cri --mem 2048 --disk 512 --lsm none -- -test.run '^TestCheckpoint' # with CRIU, which knows this kernel
run pod --mem 2048 -- -test.run '^TestReal.*Killed' # on a kernel that keeps no exit codes (ADR 31)
STRAKE_BIN=$PWD/bin run test/e2e/runtime --lsm selinux -- -test.run 'SELinux'
STRAKE_BIN=$PWD/bin run test/e2e/cri --lsm selinux --mem 2048 -- -test.run 'SELinux'
run oci/cgroup --systemd -- -test.run Scope
STRAKE_BIN=$PWD/bin run shim/task --systemd --mem 2048 -- -test.run Scope
echo "$passed passed, $failed failed"
[ $failed = 0 ]
