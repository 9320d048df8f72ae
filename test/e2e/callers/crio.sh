# shellcheck shell=bash
# CRI-O, which Debian has not: CRIO, PINNS and CRICTL name its programs and crictl,
# and without them it is left out. Pods are on the host's network (here a namespace
# with nothing but lo), the image comes from Debian's docker-registry.

runtimes() { echo runc strake-runtime; }

needs() { [ -n "${CRIO-}" ] && [ -n "${PINNS-}" ] && [ -n "${CRICTL-}" ] || echo "CRIO, PINNS and CRICTL do not say where they are"; }

k() { "$CRICTL" -c /dev/null -t 60s -r "unix://$WORK/crio.sock" -i "unix://$WORK/crio.sock" "$@"; }

setup() {
	mkdir -p "$WORK"/{image-archive,hooks,cni}
	cp "$WORK/image.tar" "$WORK/image-archive/layer.tar"
	printf '{"architecture":"%s","os":"linux","config":{"Env":["PATH=/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
		"$(dpkg --print-architecture)" "$(sha256sum <"$WORK/image.tar" | cut -d' ' -f1)" >"$WORK/image-archive/config.json"
	echo '[{"Config":"config.json","RepoTags":["box:1"],"Layers":["layer.tar"]}]' >"$WORK/image-archive/manifest.json"
	tar -C "$WORK/image-archive" -cf "$WORK/docker-archive.tar" config.json layer.tar manifest.json
	printf 'version: 0.1\nstorage: {filesystem: {rootdirectory: %s}}\nhttp: {addr: "127.0.0.1:5000"}\n' "$WORK/registry" >"$WORK/registry.yml"
	docker-registry serve "$WORK/registry.yml" </dev/null >"$WORK/registry.log" 2>&1 &
	echo $! >"$WORK/registry.pid"
	echo '{"default":[{"type":"insecureAcceptAnything"}]}' >"$WORK/policy.json"
	until_ok skopeo --policy "$WORK/policy.json" copy --dest-tls-verify=false "docker-archive:$WORK/docker-archive.tar" docker://127.0.0.1:5000/box:1

	cat >"$WORK/crio.conf" <<-END
	[crio]
	root = "$WORK/root"
	runroot = "$WORK/run"
	storage_driver = "vfs"
	version_file = "$WORK/version"
	version_file_persist = ""
	clean_shutdown_file = "$WORK/clean"
	log_dir = "$WORK/logs"
	[crio.api]
	listen = "$WORK/crio.sock"
	[crio.runtime]
	cgroup_manager = "cgroupfs"
	conmon_cgroup = "pod"
	default_runtime = "tested"
	container_exits_dir = "$WORK/exits"
	container_attach_socket_dir = "$WORK/attach"
	namespaces_dir = "$WORK/ns"
	pinns_path = "$PINNS"
	hooks_dir = ["$WORK/hooks"]
	apparmor_profile = "unconfined"
	default_ulimits = ["nofile=1024:1024"]
	[crio.runtime.runtimes.tested]
	runtime_path = "$(command -v "$RUNTIME")"
	runtime_root = "$WORK/runtime"
	runtime_type = "oci"
	monitor_path = "$(command -v conmon)"
	[crio.image]
	pause_image = "127.0.0.1:5000/box:1"
	signature_policy = "$WORK/policy.json"
	[crio.network]
	network_dir = "$WORK/cni/"
	plugin_dirs = ["$WORK/cni/"]
	[crio.nri]
	enable_nri = false
	END
	printf '[[registry]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n' >"$WORK/registries.conf"
	TMPDIR=$WORK CONTAINER_REGISTRIES_CONF=$WORK/registries.conf "$CRIO" -c "$WORK/crio.conf" -d '' </dev/null >"$WORK/crio.log" 2>&1 &
	echo $! >"$WORK/crio.pid"
	until_ok k version || { tail -20 "$WORK/crio.log"; return 1; }
	k pull 127.0.0.1:5000/box:1
}

teardown() {
	k rmp -fa
	local pid name
	for name in crio registry; do
		pid=$(cat "$WORK/$name.pid")
		kill "$pid" && tail --pid="$pid" -f /dev/null
	done
}

# pod NAME - run a pod
pod() {
	rm -rf "$WORK/logs/$1" && mkdir -p "$WORK/logs/$1"
	jq -n --arg name "$1" --arg logs "$WORK/logs/$1" '{
		metadata: {$name, uid: $name, namespace: "test"}, log_directory: $logs, hostname: "here",
		linux: {cgroup_parent: "/crio-test", security_context: {namespace_options: {network: 2, pid: 1}}}}' >"$WORK/$1.pod.json"
	k runp "$WORK/$1.pod.json" >"$WORK/$1.pod"
}
# container POD JSON COMMAND... - create and start it, JSON being what else its config has; prints its id
container() {
	local pod=$1 extra=$2 id
	shift 2
	jq -n --argjson extra "$extra" '{
		metadata: {name: "c"}, image: {image: "127.0.0.1:5000/box:1"}, log_path: "c.log", command: $ARGS.positional,
		linux: {security_context: {namespace_options: {network: 2, pid: 1}}}} * $extra' --args -- "$@" >"$WORK/$pod.c.json"
	id=$(k create "$(cat "$WORK/$pod.pod")" "$WORK/$pod.c.json" "$WORK/$pod.pod.json") && k start "$id" >/dev/null && echo "$id"
}
# A shell or a sleep as PID 1 heeds no SIGTERM: they are not asked.
gone() {
	local pod id
	pod=$(cat "$WORK/$1.pod")
	for id in $(k ps -q -p "$pod"); do k stop -t 0 "$id"; done >/dev/null
	k rmp -f "$pod" >/dev/null
}
field() { k inspect "$1" | jq -r "$2"; }
exited() { until [ "$(field "$1" .status.state)" = CONTAINER_EXITED ]; do sleep 0.1; done; }
# logged POD - what its container has written, without the log's own columns
logged() { cut -d' ' -f4- "$WORK/logs/$1/c.log"; }

t_run() { pod a; local id; id=$(container a '{}' echo hello); exited "$id"; gone a; same "$(logged a)" hello; }
t_exit_code() { pod a; local id out; id=$(container a '{}' sh -c 'exit 42'); exited "$id"; out=$(field "$id" .status.exitCode); gone a; same "$out" 42; }
t_signal() { pod a; local id out; id=$(container a '{}' sh -c 'sh -c "kill -9 \$\$"; exit $?'); exited "$id"; out=$(field "$id" .status.exitCode); gone a; same "$out" 137; }
t_no_such_program() { pod a; local out; out=$(container a '{}' nonesuch 2>&1) && return 1; gone a; has "$out" nonesuch; }
t_streams() { pod a; local id; id=$(container a '{}' sh -c 'echo out; echo err >&2'); exited "$id"; gone a; same "$(cut -d' ' -f2- "$WORK/logs/a/c.log" | sort | xargs)" "stderr F err stdout F out"; }
t_exec_sync() { pod a; local id out; id=$(container a '{}' sleep 1000); out=$(k exec -s "$id" echo in); gone a; same "$out" in; }
t_exec_code() { pod a; local id out; id=$(container a '{}' sleep 1000); out=$(k exec -s "$id" sh -c 'exit 7' 2>&1) || true; gone a; has "$out" 7; }
t_exec_timeout() { pod a; local id out; id=$(container a '{}' sleep 1000); out=$(k exec -s --timeout 1 "$id" sleep 100 2>&1) || true; gone a; has "$out" "timed out"; }
t_exec_stream() { pod a; local id out; id=$(container a '{}' sleep 1000); out=$(echo through | k exec -i "$id" cat); gone a; same "$out" through; }
t_exec_terminal() { pod a; local id out; id=$(container a '{}' sleep 1000); out=$(terminal "k exec -it $id tty"); gone a; has "$out" /dev/pts/; }
t_terminal() { pod a; local id; id=$(container a '{"tty":true}' tty); exited "$id"; gone a; has "$(logged a)" /dev/pts/; }
t_stop() { pod a; local id out; id=$(container a '{}' sh -c 'trap "exit 3" TERM; while :; do sleep 0.1; done'); k stop --timeout 30 "$id"; out=$(field "$id" .status.exitCode); gone a; same "$out" 3; }
t_stop_by_force() { pod a; local id out; id=$(container a '{}' sh -c 'trap "" TERM; while :; do sleep 0.1; done'); k stop --timeout 1 "$id"; out=$(field "$id" .status.exitCode); gone a; same "$out" 137; }
t_oom() {
	pod a
	local id out
	id=$(container a '{"linux":{"resources":{"memory_limit_in_bytes":16777216,"memory_swap_limit_in_bytes":16777216}}}' sh -c 'head -c 100000000 /dev/zero | tail')
	exited "$id"
	out=$(field "$id" .status.reason)
	gone a
	same "$out" OOMKilled
}
t_limits() {
	pod a
	local id pid out
	id=$(container a '{"linux":{"resources":{"memory_limit_in_bytes":67108864,"cpu_quota":50000,"cpu_period":100000}}}' sleep 1000)
	pid=$(field "$id" .info.pid)
	out=$(cat "/sys/fs/cgroup/memory$(sed -n 's/.*:memory://p' "/proc/$pid/cgroup")/memory.limit_in_bytes")
	k update --cpu-quota 30000 "$id"
	out+=" $(cat "/sys/fs/cgroup/cpu$(sed -nE 's/^[0-9]+:(cpu|cpu,cpuacct|cpuacct,cpu)://p' "/proc/$pid/cgroup")/cpu.cfs_quota_us")"
	gone a
	same "$out" "67108864 30000"
}
t_stats() { pod a; local id out; id=$(container a '{}' sleep 1000); out=$(k stats -o json "$id" | jq -r '.stats[0].memory.workingSetBytes.value'); gone a; [ "$out" -gt 0 ]; }
t_user() { pod a; local id; id=$(container a '{"linux":{"security_context":{"run_as_user":{"value":1000},"run_as_group":{"value":1000},"supplemental_groups":[7]}}}' id); exited "$id"; gone a; same "$(logged a)" "uid=1000(user) gid=1000(user) groups=7,1000(user)"; }
t_read_only() { pod a; local id; id=$(container a '{"linux":{"security_context":{"readonly_rootfs":true}}}' sh -c 'touch /x 2>/dev/null || echo no'); exited "$id"; gone a; same "$(logged a)" no; }
t_mount() { pod a; echo there >"$WORK/file"; local id; id=$(container a "{\"mounts\":[{\"host_path\":\"$WORK/file\",\"container_path\":\"/f\",\"readonly\":true}]}" cat /f); exited "$id"; gone a; same "$(logged a)" there; }
t_restart() { pod a; local id out; id=$(container a '{}' sleep 1000); k stop -t 0 "$id" >/dev/null; k rm "$id" >/dev/null; id=$(container a '{}' sleep 1000); out=$(field "$id" .status.state); gone a; same "$out" CONTAINER_RUNNING; }
