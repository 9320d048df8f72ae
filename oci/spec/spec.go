// Package spec decodes, defaults and checks OCI configs and processes.
//
// It refuses what can be seen to be wrong without looking at the host, so that
// the compiler (oci/plan) works on a config whose every value has a meaning. An
// error starts with the path of the field: `linux.namespaces[2].path: ...`.
//
// Unknown members of the JSON are ignored, as the runtime-spec demands of
// runtimes. The package is pure.
package spec

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// MaxSize is the largest config taken, in bytes. Docker's with its seccomp
// profile has about 60 KB.
const MaxSize = 16 << 20

// ErrInvalid is a config that cannot be meant.
var ErrInvalid = errors.New("invalid config")

// ErrUnsupported is a field that Strake does not carry out.
var ErrUnsupported = errors.New("not supported")

// Decode decodes, completes and checks a config.json.
func Decode(data []byte) (*specs.Spec, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrInvalid, MaxSize)
	}
	s, ok := readSpec(data)
	if !ok {
		s = new(specs.Spec)
		if err := json.Unmarshal(data, s); err != nil {
			return nil, decodeError("config.json", err)
		}
	}
	Default(s)
	if err := Validate(s); err != nil {
		return nil, err
	}
	return s, nil
}

// DecodeProcess decodes, completes and checks a process.json.
func DecodeProcess(data []byte) (*specs.Process, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrInvalid, MaxSize)
	}
	p, ok := readProcess(data)
	if !ok {
		p = new(specs.Process)
		if err := json.Unmarshal(data, p); err != nil {
			return nil, decodeError("process.json", err)
		}
	}
	if err := ValidateProcess(p); err != nil {
		return nil, err
	}
	return p, nil
}

// Default fills in what the rest of the code relies on being there.
func Default(s *specs.Spec) {
	if s.Linux == nil {
		s.Linux = &specs.Linux{}
	}
	if s.Linux.Resources == nil {
		s.Linux.Resources = &specs.LinuxResources{}
	}
	if s.Linux.Resources.Devices == nil {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{} // not nil: oci/cgroup allows the default devices only
	}
	if s.Process == nil {
		s.Process = &specs.Process{}
	}
	if s.Process.Cwd == "" {
		s.Process.Cwd = "/"
	}
}
