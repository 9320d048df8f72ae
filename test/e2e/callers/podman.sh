# shellcheck shell=bash
# Debian's Podman, with --runtime.

runtimes() { echo runc strake-runtime; }

p() {
	# conmon leaves a file in the directory where it runs.
	(cd "$WORK" && CONTAINERS_CONF=$WORK/containers.conf exec podman --root "$WORK/root" --runroot "$WORK/run" --tmpdir "$WORK/tmp" \
		--storage-driver vfs --cgroup-manager cgroupfs --events-backend file --runtime "$(command -v "$RUNTIME")" "$@")
}

setup() {
	# No limits above what a root without CAP_SYS_RESOURCE has.
	printf '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]\nnetns = "none"\n' >"$WORK/containers.conf"
	p import "$WORK/image.tar" box
}

teardown() {
	p rm -af -t 0
	p rmi -af
}

source ./docker-cli.sh
