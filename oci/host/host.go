// Package host reads, once, what the compiler has to know of this machine: the
// kernel's version, the process's capabilities, the security modules and the
// cgroup mounts. Nothing of it changes while a runtime runs.
package host

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/strake-containers/strake/internal/filelimit"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/plan"
)

// Facts returns this host's facts, read at the first call. The cgroup members
// are left to the caller, who has them from oci/cgroup.
func Facts() (plan.Host, error) { return facts() }

var facts = sync.OnceValues(read)

func read() (plan.Host, error) {
	var h plan.Host
	release, err := sys.KernelRelease()
	if err != nil {
		return h, fmt.Errorf("kernel release: %w", err)
	}
	if _, err := fmt.Sscanf(release, "%d.%d", &h.Kernel[0], &h.Kernel[1]); err != nil {
		return h, fmt.Errorf("kernel release %q: %w", release, err)
	}
	h.Arch = arch
	if h.Capabilities, err = sys.Capabilities(); err != nil {
		return h, fmt.Errorf("own capabilities: %w", err)
	}
	h.NoMounts = !sys.CanMount()
	h.UserNS = sys.InUserNamespace()
	h.AppArmor = startsWith("/sys/module/apparmor/parameters/enabled", 'Y')
	_, err = os.Stat("/sys/fs/selinux/enforce")
	h.SELinux = err == nil
	_, err = os.Stat("/proc/kcore")
	h.Kcore = err == nil
	h.NoFile, err = noFile()
	return h, err
}

// noFile is the limit of open files that Go has changed: who starts a process means it to have
// the one of before.
func noFile() (plan.Limit, error) {
	was := filelimit.Limit
	if was.Soft == was.Hard {
		return plan.Limit{}, nil
	}
	if !filelimit.Taken {
		soft, hard, err := sys.NoFileLimit()
		if err != nil {
			return plan.Limit{}, fmt.Errorf("limit of open files: %w", err)
		}
		if hard != was.Hard || soft+1 != hard { // not Go's, but who has changed it since we run
			return plan.Limit{}, nil
		}
	}
	return plan.Limit{Soft: was.Soft, Hard: was.Hard}, nil
}

// Arch is this host's architecture as seccomp profiles name it.
const Arch = arch

func startsWith(path string, c byte) bool {
	data, err := sys.ReadFile(path, 64)
	return err == nil && strings.HasPrefix(string(data), string(c))
}
