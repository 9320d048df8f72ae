package task

import (
	"os"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

// shm is the key by which a sandbox's namespaces have its /dev/shm.
const shm specs.LinuxNamespaceType = "shm"

// makeShm makes the /dev/shm that the pod's containers share, if its spec has
// one: a tmpfs that is mounted nowhere on the host and that containers bind by
// its path below /proc. It is nil where the kernel cannot do that (before 6.15);
// straked then has another way.
func makeShm(spec *specs.Spec) (*os.File, error) {
	for _, m := range spec.Mounts {
		if m.Destination != "/dev/shm" || m.Type != "tmpfs" {
			continue
		}
		f, err := sys.NewTmpfs(m.Options)
		if err != nil {
			return nil, err
		}
		if ok, err := sys.CanClone(f); err != nil || !ok {
			_ = f.Close() // never mounted
			return nil, err
		}
		return f, nil
	}
	return nil, nil
}
