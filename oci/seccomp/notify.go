package seccomp

import (
	"fmt"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Notify returns a copy of a profile whose forbidden calls wait for a listener instead of
// failing, and the profile itself, compiled: Forbids says by it what to answer. They are
// those whose verdict is an errno, by a rule or by default, but for ENOSYS: that says that
// there is no such call, and programs then use another.
//
// Calls that end the process do so as before, and write, by which the listener is handed
// over, keeps its verdict. The copy has no listener path: that is its user's to set.
func Notify(cfg *specs.LinuxSeccomp, native specs.Arch) (*specs.LinuxSeccomp, *Program, error) {
	original, err := Compile(cfg, native)
	if err != nil {
		return nil, nil, err
	}
	if original.NotifyListener {
		return nil, nil, fmt.Errorf("linux.seccomp: an action of the profile is %s already: a process has one listener", specs.ActNotify)
	}
	fallback, err := verdict(cfg.DefaultAction, cfg.DefaultErrnoRet)
	if err != nil {
		return nil, nil, err // Compile has said so
	}
	c := *cfg
	c.Syscalls = nil
	for _, s := range cfg.Syscalls {
		v, err := verdict(s.Action, s.ErrnoRet)
		if err != nil {
			return nil, nil, err // likewise
		}
		if !reported(v) || v == fallback { // what repeats the default is no rule, see Compile
			c.Syscalls = append(c.Syscalls, s)
			continue
		}
		notify := s
		notify.Action, notify.ErrnoRet, notify.Names = specs.ActNotify, nil, nil
		for _, name := range s.Names {
			if name != handOver {
				notify.Names = append(notify.Names, name)
			}
		}
		if len(notify.Names) > 0 {
			c.Syscalls = append(c.Syscalls, notify)
		}
		if len(notify.Names) < len(s.Names) {
			s.Names = []string{handOver}
			c.Syscalls = append(c.Syscalls, s)
		}
	}
	if reported(fallback) {
		// An action that notifies cannot be the default, which write has, too. A rule
		// without arguments settles its call whatever came before: a call that has others
		// gets one that always fits.
		rest := specs.LinuxSyscall{Action: specs.ActNotify}
		last := specs.LinuxSyscall{Action: specs.ActNotify, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0, Op: specs.OpGreaterEqual}}}
		for i := range table {
			switch name := table[i].name; {
			case name == handOver:
			case slices.ContainsFunc(cfg.Syscalls, func(s specs.LinuxSyscall) bool { return len(s.Args) > 0 && slices.Contains(s.Names, name) }):
				last.Names = append(last.Names, name)
			default:
				rest.Names = append(rest.Names, name)
			}
		}
		c.Syscalls = append(c.Syscalls, rest)
		if len(last.Names) > 0 {
			c.Syscalls = append(c.Syscalls, last)
		}
	}
	return &c, original, nil
}

// handOver is the call by which a process says that it has a listener.
const handOver = "write"

// reported says whether a verdict forbids a call that exists.
func reported(v uint32) bool { return v&0xffff0000 == RetErrno && v != RetErrno|eNoSys }

// Forbids is what the program makes of a call that waits for a listener of Notify's copy:
// the errno that it fails with, and whether that means that it is forbidden.
func (p *Program) Forbids(nr, arch uint32, args [6]uint64) (errno int, forbidden bool) {
	v := p.Run(nr, arch, args)
	if v&0xffff0000 != RetErrno {
		return eNoSys, false // it is not one of those
	}
	return int(v & 0xffff), reported(v)
}

// Name is the name of a call as seccomp_data has it: its number, and an architecture
// (AUDIT_ARCH_*, linux/audit.h). Of a call that is not known it is both of these.
func Name(nr, arch uint32) string {
	for _, name := range []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM} {
		a, _ := architectureOf(name) // each has one
		number := nr
		if name == specs.ArchX32 {
			number ^= x32Bit
		}
		for i := range table {
			if has := table[i].nr[a.column]; a.audit == arch && has >= 0 && uint32(has) == number {
				return table[i].name
			}
		}
	}
	return fmt.Sprintf("%#x/%d", arch, nr)
}
