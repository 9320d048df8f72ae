#!/bin/bash
# Shows where the time of one command goes: trace.sh COMMAND [ARG...] prints, for it and all
# that it starts, system calls, page faults, switches and exits with the µs since its execve
# and the page faults so far, one a line. Needs root, and the kernel's tracefs in an instance
# of its own. What is traced takes a tenth more; with "chrt -f 1" in front it takes nearly
# what it does alone on the machine (which a container with a v1 cpu cgroup may only where
# linux.resources.cpu.realtimeRuntime is set).
set -euo pipefail
[ $# -gt 0 ] && [ "$(id -u)" = 0 ] || { echo "usage, as root: trace.sh COMMAND [ARG...]" >&2; exit 2; }
[ -n "${STRAKE_TRACE_FS:-}" ] || STRAKE_TRACE_FS=1 exec unshare --mount --propagation private "$0" "$@"

mount -t tracefs none /sys/kernel/tracing
instance=/sys/kernel/tracing/instances/strake-$$
mkdir "$instance"
trap 'rmdir "$instance"' EXIT
echo 0 > "$instance/tracing_on"
echo 8192 > "$instance/buffer_size_kb"
echo 1 > "$instance/options/event-fork"
for event in raw_syscalls/sys_enter raw_syscalls/sys_exit exceptions/page_fault_user exceptions/page_fault_kernel \
	sched/sched_process_exec sched/sched_process_fork sched/sched_process_exit sched/sched_switch; do
	[ ! -e "$instance/events/$event" ] || echo 1 > "$instance/events/$event/enable" # faults are amd64's
done
code=0
sh -c 'echo $$ > "$0/set_event_pid"; echo 1 > "$0/tracing_on"; exec "$@"' "$instance" "$@" >&2 || code=$?
echo 0 > "$instance/tracing_on"
awk '
	/^#/ { next }
	{ for (i = 1; i <= NF && $i !~ /^[0-9]+\.[0-9]+:$/; i++); at = $i * 1000000; what = $(i + 1) }
	!begin && what == "sched_process_exec:" { begin = at }
	!begin { next }
	what ~ /^page_fault/ { faults++ }
	{ task = $0; sub(/ +\[.*/, "", task); sub(/^ +/, "", task); rest = $0; sub(/^.*[0-9]+\.[0-9]+: /, "", rest)
	  printf "%9d %4d  %-24s %s\n", at - begin, faults, task, substr(rest, 1, 120) }
' "$instance/trace"
exit "$code"
