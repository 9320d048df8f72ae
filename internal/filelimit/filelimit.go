// Package filelimit gives a program its limit of open files back, which oci/early has taken
// away before Go's runtime started (takeFiles there says why): before package syscall
// looks at it, to raise it and to give programs that are started the one of before. As this
// package imports nothing, the linker puts its init before nearly all others
// (go.dev/ref/spec#Program_initialization).
package filelimit

// Limit is the limit of before, as prlimit(2) has it.
var Limit struct{ Soft, Hard uint64 }

// Taken says that it has to be given back.
var Taken bool

func init() {
	if Taken { // it was allowed before: this is allowed, too
		set(&Limit)
	}
}

// set is prlimit(0, RLIMIT_NOFILE, limit, NULL).
func set(limit *struct{ Soft, Hard uint64 })
