package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/sys"
)

// SealedEnv, with any value, tells a program that it has been executed by Seal.
const SealedEnv = "_STRAKE_SEALED"

// marked says that this program has been executed by Seal.
var marked bool

// LeaveEnvironment keeps what Seal has put into the environment from the programs that this one
// starts: a hook may be this program again. It is for main, before there is a second goroutine.
func LeaveEnvironment() {
	if _, ok := os.LookupEnv(SealedEnv); ok {
		marked = true
		_ = os.Unsetenv(SealedEnv) // fails for names with '=' only
	}
}

// Seal makes sure that nobody can ever write to this program's file through a
// process of ours: it executes the program again from a read-only mount of its
// own file, which is attached nowhere. It returns in the program so executed, or
// at once if that is so already (a read-only file system will do).
//
// A program in a container that gets hold of /proc/PID/exe of ours, by having us
// execute "/proc/self/exe" inside, then finds a file that even root cannot open
// for writing (CVE-2019-5736). It costs a second start of this program, about a
// millisecond, and, unlike a copy in memory, no memory. So it is for programs that
// start once for many containers; one that starts for each container does without
// (stub.go) and calls it only when told ErrUnsealed.
//
// Of the descriptors that close on exec, it has those in keep.
func Seal(keep ...*os.File) error {
	LeaveEnvironment()
	if marked {
		name := append([]byte(filepath.Base(os.Args[0])), 0)
		_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0) // cosmetic
	}
	if safe, err := sealed(); err != nil || safe {
		return err
	}
	if marked {
		return fmt.Errorf("seal: the own executable is still writable")
	}
	self, err := sys.ReadOnlySelf()
	if err != nil {
		return fmt.Errorf("seal: %w", err)
	}
	defer func() { _ = self.Close() }() // only if it could not be executed
	for _, f := range keep {
		if err := sys.Inherit(f); err != nil {
			return fmt.Errorf("seal: %w", err)
		}
	}
	err = syscall.Exec(sys.ExecPath(self), os.Args, append(os.Environ(), SealedEnv+"=1"))
	return fmt.Errorf("seal: exec: %w", err)
}
