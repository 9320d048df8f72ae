package seccomp

import (
	"errors"

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

// Compile turns a profile into a program for a host of the given architecture.
func Compile(cfg *specs.LinuxSeccomp, native specs.Arch) (*Program, error) {
	return nil, errors.ErrUnsupported
}
