package seccomp

import (
	"fmt"
	"slices"
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// profile is a checked LinuxSeccomp, with names resolved for each architecture.
type profile struct {
	fallback uint32 // verdict of the default action
	flags    uint32
	notify   bool
	arches   []archRules
}

// archRules is what the profile says of one architecture.
type archRules struct {
	architecture
	calls []call   // by slot
	rules [][]rule // with conditions, in order: of those calls that have some
	last  uint32   // highest number that the profile names, plus one
}

// call is what the profile says of one system call: nothing, rules, or a verdict. There
// are thousands, and few with rules: the smaller, the less memory a start has to touch.
type call struct {
	verdict uint32 // if settled
	rules   uint16 // place in archRules.rules, from 1; 0 is none
	settled bool   // by a rule without conditions
}

type rule struct {
	verdict    uint32
	conditions []condition
}

type condition struct {
	arg   uint
	op    operator
	value uint64
	mask  uint64 // of opMasked
}

type operator uint8

const (
	opEqual operator = iota
	opNotEqual
	opLess
	opLessEqual
	opGreaterEqual
	opGreater
	opMasked
)

// maxNames bounds the names of a profile, repetitions included.
const maxNames = 100_000

func newProfile(cfg *specs.LinuxSeccomp, native specs.Arch) (*profile, error) {
	p := &profile{}
	var err error
	if p.fallback, err = verdict(cfg.DefaultAction, cfg.DefaultErrnoRet); err != nil {
		return nil, fmt.Errorf("defaultAction: %w", err)
	}
	if p.fallback == RetNotify {
		return nil, fmt.Errorf("defaultAction: %s is for single calls only: the listener could not be handed over", cfg.DefaultAction)
	}
	if err := p.setArches(cfg.Architectures, native); err != nil {
		return nil, err
	}
	names := 0
	for i, s := range cfg.Syscalls {
		if names += len(s.Names); names > maxNames {
			return nil, fmt.Errorf("syscalls[%d]: more than %d names", i, maxNames)
		}
		if err := p.add(s); err != nil {
			return nil, fmt.Errorf("syscalls[%d].%w", i, err)
		}
	}
	if err := p.setFlags(cfg); err != nil {
		return nil, err
	}
	return p, nil
}

func verdict(action specs.LinuxSeccompAction, errno *uint) (uint32, error) {
	var v uint32
	limit := uint(0) // of errnoRet
	switch action {
	case specs.ActKill, specs.ActKillThread:
		v = RetKillThread
	case specs.ActKillProcess:
		v = RetKillProcess
	case specs.ActTrap:
		v = RetTrap
	case specs.ActErrno:
		v, limit = RetErrno, maxErrno
	case specs.ActTrace:
		v, limit = RetTrace, 0xffff
	case specs.ActAllow:
		v = RetAllow
	case specs.ActLog:
		v = RetLog
	case specs.ActNotify:
		v = RetNotify
	default:
		return 0, fmt.Errorf("%.60q is not an action such as SCMP_ACT_ERRNO", action)
	}
	switch {
	case limit == 0 && errno != nil && *errno != 0:
		return 0, fmt.Errorf("%s returns no errno, so errnoRet cannot be %d", action, *errno)
	case limit > 0 && errno == nil:
		v |= ePerm
	case limit > 0 && *errno > limit:
		return 0, fmt.Errorf("errnoRet %d is more than %d", *errno, limit)
	case limit > 0:
		v |= uint32(*errno)
	}
	return v, nil
}

// setArches takes the native architecture and those listed that the kernel has
// too.
func (p *profile) setArches(listed []specs.Arch, native specs.Arch) error {
	all := family(native)
	if all == nil {
		return fmt.Errorf("architectures: no system call table for this host's %s", native)
	}
	for i, arch := range listed {
		_, ours := architectureOf(arch)
		if !ours && !slices.Contains(foreign, arch) {
			return fmt.Errorf("architectures[%d]: %.60q is not an architecture such as %s", i, arch, native)
		}
	}
	for _, arch := range all {
		if arch == native || slices.Contains(listed, arch) {
			a, _ := architectureOf(arch)
			p.arches = append(p.arches, archRules{architecture: a, calls: make([]call, slots)})
		}
	}
	return nil
}

// add takes one entry of syscalls.
func (p *profile) add(s specs.LinuxSyscall) error {
	v, err := verdict(s.Action, s.ErrnoRet)
	if err != nil {
		return fmt.Errorf("action: %w", err)
	}
	rules, err := rulesOf(v, s.Args)
	if err != nil {
		return err
	}
	for i, name := range s.Names {
		if v == RetNotify && name == "write" {
			return fmt.Errorf("names[%d]: %s cannot be used for the write syscall: handing over the listener needs it", i, specs.ActNotify)
		}
		found, ok := lookup(name)
		for a := range p.arches {
			arch := &p.arches[a]
			if ok && found.nr[arch.column] >= 0 {
				slot := slotOf(found.nr[arch.column])
				if slot < privateSlot {
					arch.last = max(arch.last, uint32(slot)+1)
				}
				if v != p.fallback {
					arch.add(slot, v, rules)
				}
			}
			if arch.multi && v != p.fallback {
				arch.addMultiplexed(name, v)
			}
		}
	}
	if len(s.Names) == 0 {
		return fmt.Errorf("names: is empty")
	}
	p.notify = p.notify || v == RetNotify
	return nil
}

// rulesOf makes the rules of an entry with arguments; none if it has none.
func rulesOf(v uint32, args []specs.LinuxSeccompArg) ([]rule, error) {
	conditions := make([]condition, 0, len(args))
	twice := false
	for i, arg := range args {
		if arg.Index > 5 {
			return nil, fmt.Errorf("args[%d].index: %d: a call has arguments 0 to 5", i, arg.Index)
		}
		c := condition{arg: arg.Index, value: arg.Value}
		switch arg.Op {
		case specs.OpEqualTo:
			c.op = opEqual
		case specs.OpNotEqual:
			c.op = opNotEqual
		case specs.OpLessThan:
			c.op = opLess
		case specs.OpLessEqual:
			c.op = opLessEqual
		case specs.OpGreaterEqual:
			c.op = opGreaterEqual
		case specs.OpGreaterThan:
			c.op = opGreater
		case specs.OpMaskedEqual:
			c.op, c.mask, c.value = opMasked, arg.Value, arg.ValueTwo
		default:
			return nil, fmt.Errorf("args[%d].op: %.60q is not an operator such as SCMP_CMP_EQ", i, arg.Op)
		}
		twice = twice || slices.ContainsFunc(conditions, func(o condition) bool { return o.arg == c.arg })
		conditions = append(conditions, c)
	}
	switch {
	case len(conditions) == 0:
		return nil, nil
	case !twice:
		return []rule{{v, conditions}}, nil
	}
	rules := make([]rule, len(conditions))
	for i, c := range conditions {
		rules[i] = rule{v, []condition{c}}
	}
	return rules, nil
}

func (a *archRules) add(slot int, v uint32, rules []rule) {
	c := &a.calls[slot]
	switch {
	case c.settled:
	case len(rules) == 0:
		*c = call{settled: true, verdict: v}
	case c.rules == 0:
		a.rules = append(a.rules, slices.Clip(rules)) // other calls may have the same
		c.rules = uint16(len(a.rules))
	default:
		a.rules[c.rules-1] = append(a.rules[c.rules-1], rules...)
	}
}

// conditional are the rules of a call, all with conditions.
func (a *archRules) conditional(c *call) []rule {
	if c.rules == 0 {
		return nil
	}
	return a.rules[c.rules-1]
}

// addMultiplexed gives name's verdict to socketcall or ipc when asked for it.
func (a *archRules) addMultiplexed(name string, v uint32) {
	i := sort.Search(len(multiplexed), func(i int) bool { return multiplexed[i].name >= name })
	if i == len(multiplexed) || multiplexed[i].name != name {
		return
	}
	if found, ok := lookup(multiplexed[i].call); ok {
		function := condition{op: opEqual, value: multiplexed[i].function}
		a.add(slotOf(found.nr[a.column]), v, []rule{{v, []condition{function}}})
	}
}

func (p *profile) setFlags(cfg *specs.LinuxSeccomp) error {
	if cfg.Flags == nil {
		p.flags = flagSpecAllow // as runc: the mitigation costs far more than it brings
	}
	for i, flag := range cfg.Flags {
		switch flag {
		case "SECCOMP_FILTER_FLAG_TSYNC":
			// The filter is loaded while there is one thread.
		case specs.LinuxSeccompFlagLog:
			p.flags |= flagLog
		case specs.LinuxSeccompFlagSpecAllow:
			p.flags |= flagSpecAllow
		case specs.LinuxSeccompFlagWaitKillableRecv:
			p.flags |= flagWaitKillableRecv
		default:
			return fmt.Errorf("flags[%d]: %.60q is not a flag such as %s", i, flag, specs.LinuxSeccompFlagLog)
		}
	}
	switch {
	case p.notify && cfg.ListenerPath == "":
		return fmt.Errorf("listenerPath: is empty, but an action is %s", specs.ActNotify)
	case p.notify:
		p.flags |= flagNewListener
	case p.flags&flagWaitKillableRecv != 0:
		return fmt.Errorf("flags: %s needs an action %s", specs.LinuxSeccompFlagWaitKillableRecv, specs.ActNotify)
	}
	return nil
}

// unknown is the verdict on a call above all that the profile names.
func (p *profile) unknown() uint32 {
	switch p.fallback & 0xffff0000 {
	case RetAllow, RetLog, RetTrace: // these let a newer call pass, or a tracer judge it
		return p.fallback
	}
	return RetErrno | eNoSys
}
