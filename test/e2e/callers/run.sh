#!/usr/bin/env bash
# run.sh [CALLER...] - strake-runtime and its monitor below real callers: Debian's
# Podman, Docker and containerd, and CRI-O where crio.sh is told of one. Each
# assertion (a function t_* of CALLER.sh) is run with runc first, as a control: what
# fails there is said and does not count; TESTS=checkpoint runs those whose names begin so. Needs root; `make test-callers` installs
# the engines and calls it. The engines have their state in a directory of their own
# and a network namespace with nothing but lo, so nothing of the host's is touched.
set -euo pipefail
cd "$(dirname "$0")"
repo=$(cd ../../.. && pwd)
if [ "${IN_NETNS-}" = '' ]; then
	IN_NETNS=1 exec unshare --net --mount --propagation private ./run.sh "$@"
fi
ip link set lo up
export BIN=$repo/bin
PATH=$BIN:$PATH:/usr/sbin:/sbin
[ $# -gt 0 ] || set -- podman docker containerd crio

# An image with nothing in it but busybox.
make_image() {
	local root=$WORK/image a
	mkdir -p "$root"/{bin,etc,tmp}
	for a in $(/bin/busybox --list); do ln -sf busybox "$root/bin/$a"; done
	rm -f "$root/bin/busybox" && cp /bin/busybox "$root/bin/busybox"
	printf 'root:x:0:0::/:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n' >"$root/etc/passwd"
	printf 'root:x:0:\nuser:x:1000:\n' >"$root/etc/group"
	chmod 1777 "$root/tmp"
	tar -C "$root" -cf "$WORK/image.tar" .
}

# until_ok COMMAND... - wait for a daemon, which tells nobody when it is there.
until_ok() {
	local i
	for i in {1..150}; do "$@" >/dev/null 2>&1 && return; sleep 0.2; done
	echo "never succeeded: $*" >&2
	return 1
}

# same GOT WANT
same() { [ "$1" = "$2" ] || { echo "got: $1"; echo "want: $2"; return 1; }; }
# has TEXT PART
has() { [[ $1 == *"$2"* ]] || { echo "got: $1"; echo "want in it: $2"; return 1; }; }
# terminal COMMAND - the output of a command line whose streams are a real terminal
terminal() { SHELL=/bin/bash script -qec "source ./$CALLER.sh; $1" /dev/null </dev/null | tr -d "\r"; }
export -f until_ok same has terminal

failed=0 passed=0 uncontrolled=0 skipped=0
for caller in "$@"; do
	lacks=$(source "./$caller.sh" && if declare -F needs >/dev/null; then needs; fi)
	if [ -n "$lacks" ]; then
		skipped=$((skipped + 1)); echo "SKIP $caller: $lacks"
		continue
	fi
	WORK=$(mktemp -d "${TMPDIR:-/tmp}/strake-callers.XXXXXX")
	export WORK
	make_image
	declare -A control=()
	# shellcheck source=/dev/null
	for runtime in $(source "./$caller.sh" && runtimes); do
		export RUNTIME=$runtime
		if ! (set -e; source "./$caller.sh"; setup) >"$WORK/log" 2>&1; then
			echo "$caller: $runtime: setup failed:"; cat "$WORK/log"; failed=$((failed + 1))
			(source "./$caller.sh"; teardown) >/dev/null 2>&1 || true
			continue
		fi
		for t in $(source "./$caller.sh" && compgen -A function "t_${TESTS-}"); do
			result=ok
			CALLER=$caller timeout 90 bash -c "set -eu; source ./$caller.sh; $t" >"$WORK/log" 2>&1 </dev/null || result=failed
			case $runtime-$result in
			runc-*) control[$t]=$result ;;
			*-ok) passed=$((passed + 1)) ;;
			*) if [ "${control[$t]}" = ok ]; then
				failed=$((failed + 1))
				echo "FAIL $caller, $runtime: ${t#t_}"; sed 's/^/     /' "$WORK/log" | tail -n 12
			else
				uncontrolled=$((uncontrolled + 1)); echo "---- $caller, $runtime: ${t#t_}: fails with runc too"
			fi ;;
			esac
		done
		(source "./$caller.sh"; teardown) >/dev/null 2>&1 || true
	done
	unset control
	rm -rf --one-file-system "$WORK"
done
echo "$passed passed, $failed failed, $uncontrolled cannot pass here (nor with runc), $skipped callers skipped"
[ $failed = 0 ] && [ $passed -gt 0 ]
