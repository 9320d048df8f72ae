#!/usr/bin/env bash
# run.sh - the tests that touch cgroups, again, on a kernel with cgroup v2 only
# (and AppArmor): a virtual machine, because the host may have v1. Slow: the
# machine is emulated.
set -euo pipefail
cd "$(dirname "$0")/../.."

packages=(oci/cgroup oci/container)
binaries=$PWD/.work/vm
mkdir -p "$binaries"
for p in "${packages[@]}"; do
	go test -c -o "$binaries/${p//\//-}.test" "./$p"
done
failed=0
for p in "${packages[@]}"; do
	echo "== $p"
	(cd "$p" && ../../test/vm/testvm --timeout 900 -- "$binaries/${p//\//-}.test") || failed=$((failed + 1))
done
echo "$((${#packages[@]} - failed)) passed, $failed failed"
[ $failed = 0 ]
