# shellcheck shell=bash
# Debian's containerd by ctr: its own shim with strake-runtime for runc, and our
# monitor in the place of both. CONTAINERD and CTR name others to test.

runtimes() { echo runc strake-runtime io.containerd.strake.v2; }

c() { "${CTR:-/usr/bin/ctr}" -a "$WORK/containerd.sock" "$@"; }

setup() {
	printf 'version = 2\nroot = "%s"\nstate = "%s"\ndisabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "%s"\n' \
		"$WORK/data" "$WORK/state" "$WORK/containerd.sock" >"$WORK/containerd.toml"
	"${CONTAINERD:-/usr/bin/containerd}" -c "$WORK/containerd.toml" </dev/null >"$WORK/containerd.log" 2>&1 &
	echo $! >"$WORK/containerd.pid"
	until_ok c version || { tail -20 "$WORK/containerd.log"; return 1; }
}

teardown() {
	local id pid
	for id in $(c c ls -q); do gone "$id"; done
	pid=$(cat "$WORK/containerd.pid")
	kill "$pid" && tail --pid="$pid" -f /dev/null
}

# run ARGS... - ctr run of busybox with the runtime that is tested
run() {
	local runtime=(--runtime io.containerd.runc.v2)
	case $RUNTIME in
	io.*) runtime=(--runtime "$RUNTIME") ;;
	strake-runtime) runtime+=(--runc-binary "$BIN/strake-runtime") ;;
	esac
	local args=() rest=()
	while [ "$1" != box ]; do args+=("$1"); shift; done
	shift
	rest=("$@")
	c run --env PATH=/bin "${runtime[@]}" "${args[@]}" --rootfs "$WORK/image" "${rest[@]}"
}
gone() {
	{ c t kill -s KILL "$1"; c t rm -f "$1"; c c rm "$1"; } >/dev/null 2>&1 || true
}
status() { c t ls | awk -v id="$1" '$1 == id { print $3 }'; }

t_run() { same "$(run --rm box a echo hello)" hello; }
t_exit_code() { local rc=0; run --rm box a sh -c 'exit 42' || rc=$?; same $rc 42; }
t_no_such_program() { local out; out=$(run --rm box a nonesuch 2>&1) && return 1; gone a; has "$out" nonesuch; }
t_terminal() { has "$(terminal "run --rm -t box a tty")" /dev/pts/0; }
t_exec() { gone a; run -d box a sleep 1000; local out; out=$(c t exec --exec-id e a echo in); gone a; same "$out" in; }
t_exec_code() { gone a; run -d box a sleep 1000; local rc=0; c t exec --exec-id e a sh -c 'exit 7' || rc=$?; gone a; same $rc 7; }
t_exec_terminal() { gone a; run -d box a sleep 1000; local out; out=$(terminal "c t exec -t --exec-id e a tty"); gone a; has "$out" /dev/pts/; }
t_status() { gone a; run -d box a sleep 1000; local out; out=$(status a); c t pause a; out+=" $(status a)"; c t resume a; out+=" $(status a)"; gone a; same "$out" "RUNNING PAUSED RUNNING"; }
t_kill() { gone a; run -d box a sleep 1000; c t kill -s KILL a; until [ "$(status a)" = STOPPED ]; do sleep 0.1; done; gone a; }
t_ps() { gone a; run -d box a sleep 1000; local out; out=$(c t ps a | wc -l); gone a; same "$out" 2; }
t_metrics() { gone a; run -d box a sleep 1000; local out; out=$(c t metrics a); gone a; has "$out" memory; }
t_checkpoint() {
	gone a
	run -d box a sleep 1000
	mkdir -p "$WORK/checkpoint"
	c t checkpoint --image-path "$WORK/checkpoint" a >/dev/null
	local out
	out="$(status a) $(find "$WORK/checkpoint" -name 'core-*.img' | wc -l)"
	rm -r "$WORK/checkpoint"
	gone a
	same "$out" "RUNNING 1"
}
t_checkpoint_exit() {
	gone a
	run -d box a sleep 1000
	mkdir -p "$WORK/checkpoint"
	c t checkpoint --exit --image-path "$WORK/checkpoint" a >/dev/null
	until [ "$(status a)" = STOPPED ]; do sleep 0.1; done
	local out
	out=$(find "$WORK/checkpoint" -name 'core-*.img' | wc -l)
	rm -r "$WORK/checkpoint"
	gone a
	same "$out" 1
}
t_memory_limit() {
	gone a
	run -d --memory-limit 16777216 box a sleep 1000
	local pid out
	pid=$(c t ls | awk '$1 == "a" { print $2 }')
	out=$(cat "/sys/fs/cgroup/memory$(sed -n 's/.*:memory://p' "/proc/$pid/cgroup")/memory.limit_in_bytes")
	gone a
	same "$out" 16777216
}
t_oom_event() {
	gone a
	c events >"$WORK/events" & local watcher=$!
	sleep 1
	run --rm --memory-limit 16777216 box a sh -c 'head -c 100000000 /dev/zero | tail' || true
	sleep 1
	kill $watcher
	has "$(cat "$WORK/events")" /tasks/oom
}
t_events() {
	gone a
	c events >"$WORK/events" & local watcher=$!
	sleep 1
	run --rm box a true
	sleep 1
	kill $watcher
	same "$(grep -o '/tasks/[a-z]*' "$WORK/events" | xargs)" "/tasks/create /tasks/start /tasks/exit /tasks/delete"
}
t_read_only() { local out; out=$(run --rm --read-only box a sh -c 'touch /x 2>&1 || echo no'); has "$out" no; }
t_bind_mount() { echo there >"$WORK/volume-file"; same "$(run --rm --mount "type=bind,src=$WORK,dst=/tmp,options=rbind:ro" box a cat /tmp/volume-file)" there; }
t_privileged() { has "$(run --rm --privileged box a grep CapEff /proc/self/status)" "$(awk '/CapEff/ {print $2}' /proc/self/status)"; }
t_seccomp() { has "$(run --rm --seccomp box a grep Seccomp: /proc/self/status)" 2; }
t_host_network() { same "$(run --rm --net-host box a readlink /proc/self/ns/net)" "$(readlink /proc/self/ns/net)"; }
t_detached_restart() { gone a; run -d box a sleep 1000; gone a; run -d box a sleep 1000; local out; out=$(status a); gone a; same "$out" RUNNING; }
