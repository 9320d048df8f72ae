// Package boot tells this start of the machine from others.
package boot

import (
	"strings"

	"github.com/strake-containers/strake/internal/sys"
)

// ID is the kernel's id of this boot: what a file says of another one may not be on the
// disk (random(4), boot_id).
func ID() (string, error) {
	id, err := sys.ReadFile("/proc/sys/kernel/random/boot_id", 100)
	return strings.TrimSpace(string(id)), err
}
