package container

import "github.com/strake-containers/strake/oci/launch"

// Seal protects the running program's file from the containers that it makes and
// joins; see launch.Seal. Programs call it first in main, before Create and Exec.
func Seal() error { return launch.Seal() }
