// Package filelimit knows the limit of open files that the program was started with, which Go
// raises: package syscall does when it starts, and gives nobody but programs that are started
// by it the one of before. As this package imports nothing, the linker puts its init before
// nearly all others (go.dev/ref/spec#Program_initialization).
//
// In strake-runtime it gives the limit back, which oci/early has taken away before Go's runtime
// started (takeFiles there says why).
package filelimit

// Limit is the limit of before, as prlimit(2) has it; zero if it is not known.
var Limit limits

type limits = struct{ Soft, Hard uint64 }

// Taken says that it has to be given back.
var Taken bool

func init() {
	if Taken { // it was allowed before: this is allowed, too
		prlimit(&Limit, nil)
		return
	}
	prlimit(nil, &Limit) // cannot fail
}

// prlimit is prlimit(0, RLIMIT_NOFILE, to, was).
//
//go:noescape
func prlimit(to, was *limits)
