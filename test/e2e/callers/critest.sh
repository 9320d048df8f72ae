#!/usr/bin/env bash
# critest.sh [CRITEST OPTION...] - cri-tools' critest on containerd 2, with its own shim
# and runc, and then with our monitor in the place of both: fails if a spec passes with
# runc and not with us. Debian has neither program; these say where they are:
#
#   CONTAINERD  containerd 2; containerd-shim-runc-v2 is beside it, runc in PATH
#   CRITEST     critest
#   IMAGES      a directory with certs.d, which mirrors critest's registries on
#               loopback, and registry.yml, with which Debian's docker-registry serves that
#
# Needs root and Debian's CNI plugins. All state is in a directory of its own, and the
# network a namespace with nothing but lo.
set -euo pipefail
cd "$(dirname "$0")"
repo=$(cd ../../.. && pwd)
if [ "${IN_NETNS-}" = '' ]; then
	IN_NETNS=1 exec unshare --net --mount --propagation private ./critest.sh "$@"
fi
ip link set lo up
PATH=$repo/bin:$(dirname "$CONTAINERD"):$PATH:/usr/sbin:/sbin

WORK=$(mktemp -d /run/strake-critest.XXXXXX)
daemon=''
docker-registry serve "$IMAGES/registry.yml" </dev/null >"$WORK/registry.log" 2>&1 &
registry=$!

stop() {
	[ -z "$daemon" ] || { kill "$daemon"; wait "$daemon" || true; }
	daemon=''
}
cleanup() {
	stop
	kill "$registry" && wait "$registry" || true
	[ "${KEEP-}" ] || rm -rf --one-file-system "$WORK"
}
trap cleanup EXIT

mkdir "$WORK/cni"
cat >"$WORK/cni/10-critest.conflist" <<-END
	{"cniVersion": "1.0.0", "name": "critest", "plugins": [
	  {"type": "bridge", "bridge": "critest0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
	   "ipam": {"type": "host-local", "dataDir": "$WORK/ipam", "ranges": [[{"subnet": "10.85.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
	  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END

# containerd may lose containers that are made while an NRI plugin comes: these two are
# skipped when it does, whatever is below it.
lottery='NRI plugin synchronization .* (during the Synchronize call|without the race condition)'

# specs RUNTIME_TYPE - runs them; prints each one's result and name
specs() {
	local dir=$WORK/$1
	mkdir "$dir"
	cat >"$dir/config.toml" <<-END
	version = 3
	root = "$dir/root"
	state = "$dir/state"
	oom_score = 0
	[grpc]
	address = "$dir/containerd.sock"
	[ttrpc]
	address = "$dir/containerd.sock.ttrpc"
	[plugins.'io.containerd.cri.v1.images'.registry]
	config_path = "$IMAGES/certs.d"
	[plugins.'io.containerd.cri.v1.runtime']
	restrict_oom_score_adj = true
	disable_apparmor = true
	[plugins.'io.containerd.cri.v1.runtime'.cni]
	bin_dirs = ["/usr/lib/cni"]
	conf_dir = "$WORK/cni"
	[plugins.'io.containerd.cri.v1.runtime'.containerd]
	default_runtime_name = "tested"
	[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.tested]
	runtime_type = "$1"
	[plugins.'io.containerd.nri.v1.nri']
	socket_path = "$dir/nri.sock"
	plugin_path = "$dir/nri-plugins"
	plugin_config_path = "$dir/nri-conf"
	END
	"$CONTAINERD" -c "$dir/config.toml" </dev/null >"$dir/log" 2>&1 &
	daemon=$!
	local i
	for i in {1..300}; do # it tells nobody when it is there
		[ ! -S "$dir/containerd.sock" ] || break
		sleep 0.2
	done
	"$CRITEST" --runtime-endpoint "unix://$dir/containerd.sock" --image-endpoint "unix://$dir/containerd.sock" \
		--nri-socket "$dir/nri.sock" --ginkgo.skip "$lottery" --ginkgo.no-color --ginkgo.json-report "$dir/report.json" "${@:2}" >"$dir/critest.log" 2>&1 || true
	stop
	python3 - "$dir/report.json" <<-'END'
	import json, sys
	for suite in json.load(open(sys.argv[1])):
	    for s in suite["SpecReports"]:
	        if s["LeafNodeType"] == "It":
	            print(s["State"], " ".join((s["ContainerHierarchyTexts"] or []) + [s["LeafNodeText"]]))
	END
}

for of in runc strake; do
	specs "io.containerd.$of.v2" "$@" >"$WORK/$of" # in this shell: the trap knows the daemon
	sort -k2 -o "$WORK/$of" "$WORK/$of"
	echo "$of: $(cut -d' ' -f1 "$WORK/$of" | sort | uniq -c | xargs)"
done
[ -s "$WORK/runc" ] && [ "$(wc -l <"$WORK/runc")" = "$(wc -l <"$WORK/strake")" ]
diff "$WORK/runc" "$WORK/strake" || true
! comm -23 <(grep '^passed ' "$WORK/runc" | sort) <(grep '^passed ' "$WORK/strake" | sort) | grep .
