package container

import (
	"os"

	"github.com/strake-containers/strake/oci/launch"
)

// ErrUnsealed is a Create or Exec that would bring this process's program within
// the container's reach. It has done nothing.
var ErrUnsealed = launch.ErrUnsealed

// Seal protects the running program's file from the containers that it makes and
// joins; see launch.Seal. A program that stays calls it first in main, one that
// makes one container only when told ErrUnsealed, and keeps the descriptors that
// it has marked to close on exec and needs again.
func Seal(keep ...*os.File) error { return launch.Seal(keep...) }

// LeaveEnvironment keeps what Seal has put into the environment from hooks; see
// launch.LeaveEnvironment.
func LeaveEnvironment() { launch.LeaveEnvironment() }
