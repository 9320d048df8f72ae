# shellcheck shell=bash
# Debian's Docker, with --add-runtime.

runtimes() { echo runc strake-runtime; }

p() { /usr/bin/docker -H "unix://$WORK/docker.sock" "$@"; }

setup() {
	mkdir -p "$WORK"/{data,exec}
	dockerd --data-root "$WORK/data" --exec-root "$WORK/exec" -H "unix://$WORK/docker.sock" --pidfile "$WORK/docker.pid" \
		--iptables=false --ip6tables=false --bridge none --storage-driver vfs --default-ulimit nofile=1024:1024 \
		--add-runtime "strake-runtime=$BIN/strake-runtime" --default-runtime "$RUNTIME" </dev/null >"$WORK/dockerd.log" 2>&1 &
	until_ok p info || { tail -20 "$WORK/dockerd.log"; return 1; }
	p import "$WORK/image.tar" box
}

teardown() {
	p ps -aq | xargs -r /usr/bin/docker -H "unix://$WORK/docker.sock" rm -f
	local pid
	pid=$(cat "$WORK/docker.pid")
	kill "$pid" && tail --pid="$pid" -f /dev/null
}

source ./docker-cli.sh
