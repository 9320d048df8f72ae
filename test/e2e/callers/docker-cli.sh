# shellcheck shell=bash
# What Docker and Podman have in common: p is either.

net=(--network none)
run() { p run "${net[@]}" "$@"; }
# gone NAME - remove a container whatever it does
gone() { p rm -f "$1" >/dev/null 2>&1 || true; }
inspect() { p inspect -f "$2" "$1"; }
# started NAME ARGS... - a container in the background
started() { gone "$1"; run -d --name "$@" >/dev/null; }

t_run() { same "$(run --rm box echo hello)" hello; }
t_exit_code() { local rc=0; run --rm box sh -c 'exit 42' || rc=$?; same $rc 42; }
t_no_such_program() { local rc=0; run --rm box nonesuch || rc=$?; same $rc 127; }
t_not_executable() { local rc=0; run --rm box /etc/passwd || rc=$?; same $rc 126; }
t_no_such_directory() { has "$(run --rm -w /made/by/it box pwd)" /made/by/it; }
t_stdin() { same "$(echo through | run --rm -i box cat)" through; }
t_large_output() { same "$(run --rm box sh -c 'head -c 3000000 /dev/zero' | wc -c)" 3000000; }
t_terminal() { has "$(terminal "run --rm -it box sh -c 'tty; stty size'")" /dev/pts/0; }
t_exec() { started one box sleep 1000; same "$(p exec one echo in)" in; gone one; }
t_exec_code() { started one box sleep 1000; local rc=0; p exec one sh -c 'exit 7' || rc=$?; gone one; same $rc 7; }
t_exec_terminal() {
	started one box sleep 1000
	local out
	out=$(terminal "p exec -it one tty")
	gone one
	has "$out" /dev/pts/
}
t_exec_user() { started one box sleep 1000; local out; out=$(p exec -u user one id -u); gone one; same "$out" 1000; }
t_logs() { started one box sh -c 'echo one; echo two >&2'; p wait one >/dev/null; local out; out=$(p logs one 2>&1 | sort | xargs); gone one; same "$out" "one two"; }
t_stop() { started one box sh -c 'trap "exit 3" TERM; while :; do sleep 0.1; done'; p stop -t 20 one; local out; out=$(inspect one '{{.State.ExitCode}}'); gone one; same "$out" 3; }
t_stop_kills() { started one box sleep 1000; p stop -t 1 one; local out; out=$(inspect one '{{.State.ExitCode}}'); gone one; same "$out" 137; }
t_kill_signal() { started one box sh -c 'trap "exit 9" USR1; while :; do sleep 0.1; done'; sleep 0.5; p kill -s USR1 one; local out; out=$(p wait one); gone one; same "$out" 9; }
t_oom() {
	gone one
	run --name one --memory 16m --memory-swap 16m box sh -c 'head -c 100000000 /dev/zero | tail' || true
	local out
	out=$(inspect one '{{.State.OOMKilled}}')
	gone one
	same "$out" true
}
t_restart_policy() {
	started one --restart on-failure:2 box sh -c 'exit 1'
	local i n=0
	for i in {1..100}; do n=$(inspect one '{{.RestartCount}}'); [ "$n" = 2 ] && break; sleep 0.2; done
	gone one
	same "$n" 2
}
t_restart() { started one box sleep 1000; p restart -t 0 one; local out; out=$(p exec one echo again); gone one; same "$out" again; }
t_limits() {
	started one --memory 64m --cpus 0.5 --pids-limit 50 --cpu-shares 512 box sleep 1000
	local pid out
	pid=$(inspect one '{{.State.Pid}}')
	out=$(cat "/sys/fs/cgroup/memory$(sed -n 's/.*:memory://p' "/proc/$pid/cgroup")/memory.limit_in_bytes" \
		"/sys/fs/cgroup/pids$(sed -n 's/.*:pids://p' "/proc/$pid/cgroup")/pids.max" \
		"/sys/fs/cgroup/cpu$(sed -nE 's/^[0-9]+:(cpu|cpu,cpuacct|cpuacct,cpu)://p' "/proc/$pid/cgroup")/cpu.cfs_quota_us" | xargs)
	gone one
	same "$out" "67108864 50 50000"
}
t_update() {
	started one --memory 64m --memory-swap 64m box sleep 1000
	local pid out
	p update --memory 32m one >/dev/null
	pid=$(inspect one '{{.State.Pid}}')
	out=$(cat "/sys/fs/cgroup/memory$(sed -n 's/.*:memory://p' "/proc/$pid/cgroup")/memory.limit_in_bytes")
	gone one
	same "$out" 33554432
}
t_read_only() { local out; out=$(run --rm --read-only box sh -c 'touch /x 2>&1 || echo no'); has "$out" no; }
t_tmpfs() { has "$(run --rm --tmpfs /t:size=1m,mode=700 box grep ' /t ' /proc/mounts)" size=1024k; }
t_volume() { echo there >"$WORK/volume-file"; same "$(run --rm -v "$WORK:/v:ro" box sh -c 'cat /v/volume-file; touch /v/x 2>/dev/null || echo ro' | xargs)" "there ro"; }
t_init() { has "$(run --rm --init box cat /proc/1/comm)" -init; } # docker-init or podman-init
t_privileged() { has "$(run --rm --privileged box grep CapEff /proc/self/status)" "$(awk '/CapEff/ {print $2}' /proc/self/status)"; }
t_device() { same "$(run --rm --device /dev/null:/dev/mine box sh -c 'echo x >/dev/mine && ls /dev/mine')" /dev/mine; }
t_cap_add() { local a b; a=$(run --rm --cap-drop ALL box grep CapEff /proc/self/status | awk '{print $2}'); b=$(run --rm --cap-drop ALL --cap-add NET_ADMIN box grep CapEff /proc/self/status | awk '{print $2}'); same "$a $b" "0000000000000000 0000000000001000"; }
t_seccomp_profile() {
	echo '{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":95}]}' >"$WORK/seccomp.json"
	has "$(run --rm --security-opt "seccomp=$WORK/seccomp.json" box sh -c 'mkdir /tmp/x 2>&1 || true')" "not supported"
}
t_seccomp_default() { has "$(run --rm box grep Seccomp: /proc/self/status)" 2; }
t_no_new_privileges() { has "$(run --rm --security-opt no-new-privileges box grep NoNewPrivs /proc/self/status)" 1; }
t_user() { same "$(run --rm -u 1000:1000 box id -u)" 1000; }
t_sysctl() { same "$(run --rm --sysctl net.ipv4.ip_forward=1 box cat /proc/sys/net/ipv4/ip_forward)" 1; }
t_ulimit() { same "$(run --rm --ulimit nofile=99:100 --ulimit nproc=100:100 box sh -c 'ulimit -n')" 99; }
t_hostname() { same "$(run --rm -h here box hostname)" here; }
t_shared_pid() { started one box sleep 1000; local out; out=$(run --rm --pid container:one box ps); gone one; has "$out" "sleep 1000"; }
t_host_namespaces() { same "$(run --rm --pid host --ipc host --uts host box readlink /proc/self/ns/uts)" "$(readlink /proc/self/ns/uts)"; }
t_top() { started one box sleep 1000; local out; out=$(p top one); gone one; has "$out" "sleep 1000"; }
t_stats() { started one box sleep 1000; local out; out=$(p stats --no-stream one); gone one; has "$out" "%"; }
t_pause() {
	started one box sh -c 'while :; do date +%s%N >/tmp/t; sleep 0.1; done'
	p pause one >/dev/null
	local out one two
	out=$(inspect one '{{.State.Status}}')
	p unpause one >/dev/null
	one=$(p exec one cat /tmp/t); sleep 0.5; two=$(p exec one cat /tmp/t)
	gone one
	same "$out" paused && [ "$one" != "$two" ]
}
t_copy() {
	started one box sleep 1000
	echo copied >"$WORK/in"
	p cp "$WORK/in" one:/tmp/in && p exec one cat /tmp/in && p cp one:/tmp/in "$WORK/out"
	gone one
	same "$(cat "$WORK/out")" copied
}
t_health() {
	started one --health-cmd 'test -e /tmp/well' --health-interval 1s --health-retries 1 box sh -c 'touch /tmp/well; sleep 1000'
	local i out=
	for i in {1..60}; do
		[ "$CALLER" != podman ] || p healthcheck run one || true # no systemd to do it
		out=$(inspect one '{{.State.Health.Status}}')
		[ "$out" = healthy ] && break
		sleep 0.3
	done
	gone one
	same "$out" healthy
}
t_events() {
	gone one
	local since
	since=$(date +%s)
	run --rm --name one box true
	sleep 1
	has "$(p events --since "$since" --until "$(date +%s)" --filter container=one)" start
}
t_build() {
	mkdir -p "$WORK/build"
	printf 'FROM box\nRUN echo built >/made\nCMD cat /made\n' >"$WORK/build/Dockerfile"
	if [ "$CALLER" = podman ]; then
		p build --isolation oci --network none -t made "$WORK/build"
	else
		DOCKER_BUILDKIT=0 p build --network none -t made "$WORK/build"
	fi
	same "$(run --rm made)" built
}
t_userns() {
	[ "$CALLER" = podman ] || { echo "dockerd's userns-remap is for a whole daemon"; return 1; }
	same "$(run --rm --uidmap 0:100000:65536 --gidmap 0:100000:65536 box sh -c 'id -u; awk "{print \$2}" /proc/self/uid_map' | xargs)" "0 100000"
}
t_attach_to_instant_output() {
	local i out=
	for i in 1 2 3 4 5; do out+=$(run --rm box echo hi); done
	same "$out" hihihihihi
}
