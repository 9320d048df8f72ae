package bundle

import (
	"errors"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ErrNoDefaultProfile is a host that cannot load the default AppArmor profile for want
// of a program: containers that ask for none get none there.
var ErrNoDefaultProfile = errors.New("no default AppArmor profile")

// Host is what of the host a spec depends on. It is gathered once per daemon.
type Host struct {
	CgroupV2     bool     // one unified hierarchy with controllers
	Hugetlb      bool     // there is a hugetlb controller
	SwapLimit    bool     // the memory controller limits swap
	AppArmor     bool     // enabled in the kernel
	Layered      bool     // overlays can be mounted from any number of layers: Linux 6.8
	UserNS       bool     // pods can have user namespaces, and their overlays idmapped layers: Linux 6.8
	Capabilities []string // that the daemon can give, "CAP_…"; none means all that are known
	// DefaultAppArmor loads the default profile and returns its name, or
	// ErrNoDefaultProfile.
	DefaultAppArmor func() (string, error)
	// AppArmorLoaded says whether the kernel has a profile of that name, or could not be
	// asked.
	AppArmorLoaded func(name string) bool
	// Seccomp makes the filter of a profile that is not Unconfined, for a process
	// whose bounding set this is.
	Seccomp func(p Profile, bounding []string) (*specs.LinuxSeccomp, error)
}
