// Package seccomp compiles a seccomp profile of an OCI config into a classic BPF
// program, and can interpret one. It is pure: it makes no system call and knows
// of the host only the architecture that it is told.
//
// The program first tells the architectures apart and then finds the system
// call's number in a tree of ranges, in which common calls are near the root: one
// with a plain verdict costs five to ten instructions, any other not many more
// wherever it is in the profile. Arguments are compared in the leaf of their call.
//
// What a profile means is what it means to runc with libseccomp, because that is
// what people's profiles were tried with:
//
//   - A name that the architecture does not have, or that is not known, is
//     skipped: profiles list calls of newer kernels and of other architectures.
//   - A rule whose action is the default action adds nothing and is skipped.
//   - A rule without arguments settles its call; of several, the first counts.
//     Otherwise the rules are tried in their order and the first that fits counts.
//   - The conditions of a rule must all hold; if two are on the same argument,
//     each is a rule of its own.
//   - Above the highest number that the profile names, calls fail with ENOSYS
//     unless the default action lets them pass: software that tries a newer call
//     falls back on ENOSYS, but gives up on EPERM.
//   - A call of an architecture that the profile does not list kills the thread.
//   - 32-bit x86's socketcall and ipc are judged by the function that they are
//     asked for, where the profile has a rule for it. Its arguments lie in memory
//     that a filter cannot read, so a rule's conditions are left out there.
//
// Source: runtime-spec config-linux.md, "Seccomp"; seccomp(2); linux/seccomp.h.
package seccomp

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Instruction is one of classic BPF: struct sock_filter.
type Instruction struct {
	Code   uint16
	JT, JF uint8
	K      uint32
}

// Program is a compiled profile.
type Program struct {
	Instructions   []Instruction
	Flags          uint32 // SECCOMP_FILTER_FLAG_*, for seccomp(SECCOMP_SET_MODE_FILTER)
	NotifyListener bool   // an action notifies: Flags asks for a listener descriptor
}

// MaxInstructions is the longest program that the kernel takes (BPF_MAXINSNS).
const MaxInstructions = 4096

// Values of a verdict, linux/seccomp.h. The low 16 bits are data.
const (
	RetKillProcess uint32 = 0x80000000
	RetKillThread  uint32 = 0x00000000
	RetTrap        uint32 = 0x00030000
	RetErrno       uint32 = 0x00050000
	RetNotify      uint32 = 0x7fc00000
	RetTrace       uint32 = 0x7ff00000
	RetLog         uint32 = 0x7ffc0000
	RetAllow       uint32 = 0x7fff0000
)

// Flags of seccomp(2), linux/seccomp.h.
const (
	flagTSync            uint32 = 1 << 0
	flagLog              uint32 = 1 << 1
	flagSpecAllow        uint32 = 1 << 2
	flagNewListener      uint32 = 1 << 3
	flagWaitKillableRecv uint32 = 1 << 5
)

const (
	ePerm    = 1
	eNoSys   = 38
	maxErrno = 4095 // MAX_ERRNO: more would not be an error to the C library
)

// Compile turns a profile into a program for a host of the given architecture. An
// error names the profile's field.
func Compile(cfg *specs.LinuxSeccomp, native specs.Arch) (*Program, error) {
	p, err := newProfile(cfg, native)
	if err != nil {
		return nil, fmt.Errorf("linux.seccomp.%w", err)
	}
	var b builder
	b.program(p)
	if len(b.reversed) > MaxInstructions {
		return nil, fmt.Errorf("linux.seccomp: the profile compiles to %d instructions, and the kernel takes %d: use fewer rules with arguments", len(b.reversed), MaxInstructions)
	}
	slices.Reverse(b.reversed)
	return &Program{Instructions: b.reversed, Flags: p.flags, NotifyListener: p.notify}, nil
}
