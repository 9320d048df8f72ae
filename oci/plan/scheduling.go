package plan

import (
	"bytes"
	"fmt"
	"math/bits"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

var schedPolicies = map[specs.LinuxSchedulerPolicy]uint64{
	specs.SchedOther: 0, specs.SchedFIFO: 1, specs.SchedRR: 2, specs.SchedBatch: 3,
	specs.SchedISO: 4, specs.SchedIdle: 5, specs.SchedDeadline: 6,
}

var schedFlags = map[specs.LinuxSchedulerFlag]uint64{
	specs.SchedFlagResetOnFork: 0x1, specs.SchedFlagReclaim: 0x2, specs.SchedFlagDLOverrun: 0x4,
	specs.SchedFlagKeepPolicy: 0x8, specs.SchedFlagKeepParams: 0x10,
	specs.SchedFlagUtilClampMin: 0x20, specs.SchedFlagUtilClampMax: 0x40,
}

var ioClasses = map[specs.IOPriorityClass]uint64{
	specs.IOPRIO_CLASS_RT: 1, specs.IOPRIO_CLASS_BE: 2, specs.IOPRIO_CLASS_IDLE: 3,
}

var memoryModes = map[specs.MemoryPolicyModeType]uint64{
	specs.MpolDefault: 0, specs.MpolPreferred: 1, specs.MpolBind: 2, specs.MpolInterleave: 3,
	specs.MpolLocal: 4, specs.MpolPreferredMany: 5, specs.MpolWeightedInterleave: 6,
}

// memorySince are modes that came with a kernel later than the oldest we take.
var memorySince = map[specs.MemoryPolicyModeType][2]int{specs.MpolPreferredMany: {5, 15}, specs.MpolWeightedInterleave: {6, 9}}

var memoryFlags = map[specs.MemoryPolicyFlagType]uint64{
	specs.MpolFNumaBalancing: 1 << 13, specs.MpolFRelativeNodes: 1 << 14, specs.MpolFStaticNodes: 1 << 15,
}

// ownScheduler says that a child of a process with that scheduler has another
// one (sched(7)): after a fork it is SCHED_OTHER's, or there is no fork.
func ownScheduler(s *specs.Scheduler) bool {
	return s != nil && (s.Policy == specs.SchedDeadline || slices.Contains(s.Flags, specs.SchedFlagResetOnFork))
}

// scheduling compiles priorities, memory policy and personality.
func (b *builder) scheduling(p *specs.Process) error {
	if s := p.Scheduler; s != nil {
		b.at("process.scheduler", string(s.Policy))
		policy, ok := schedPolicies[s.Policy]
		if !ok {
			return b.errorf("unknown policy")
		}
		var flags uint64
		for _, f := range s.Flags {
			bit, ok := schedFlags[f]
			if !ok {
				return b.errorf("unknown flag %q", f)
			}
			flags |= bit
		}
		if s.Policy == specs.SchedDeadline {
			if err := b.deadline(s); err != nil {
				return err
			}
		}
		b.op(Op{Do: OpSched, Nums: []uint64{policy, flags, uint64(uint32(s.Nice)), uint64(uint32(s.Priority)), s.Runtime, s.Deadline, s.Period}})
	}
	if io := p.IOPriority; io != nil {
		b.at("process.ioPriority", string(io.Class))
		class, ok := ioClasses[io.Class]
		if !ok {
			return b.errorf("unknown class")
		}
		if io.Priority < 0 || io.Priority > 7 {
			return b.errorf("priority %d is not between 0 and 7", io.Priority)
		}
		b.op(Op{Do: OpIoprio, A: class<<13 | uint64(io.Priority)})
	}
	if m := b.spec.Linux.MemoryPolicy; m != nil {
		b.at("linux.memoryPolicy", string(m.Mode))
		mode, ok := memoryModes[m.Mode]
		if !ok {
			return b.errorf("invalid memory policy mode: it is unknown")
		}
		if since, ok := memorySince[m.Mode]; ok {
			if err := b.needs(since[0], since[1]); err != nil {
				return err
			}
		}
		for _, f := range m.Flags {
			bit, ok := memoryFlags[f]
			if !ok {
				return b.errorf("invalid memory policy flag %q: it is unknown", f)
			}
			mode |= bit
		}
		nodes, err := b.mask(m.Nodes)
		if err != nil {
			return fmt.Errorf("%w: invalid memory policy nodes", err)
		}
		if n := ones(nodes); n > 0 && (m.Mode == specs.MpolDefault || m.Mode == specs.MpolLocal) {
			return b.errorf("mode requires 0 nodes but got %d: leave out nodes", n)
		}
		b.op(Op{Do: OpMempolicy, A: mode, Raw: nodes})
	}
	if pe := b.spec.Linux.Personality; pe != nil {
		b.at("linux.personality", string(pe.Domain))
		const linux32 = 0x8
		var persona uint64
		if pe.Domain == specs.PerLinux32 {
			persona = linux32
		}
		b.op(Op{Do: OpPersona, A: persona})
	}
	return nil
}

// deadline checks what sched(7) says of SCHED_DEADLINE's times, in nanoseconds: of
// which one is wrong, the kernel says nothing. The words are those that crun's callers
// know.
func (b *builder) deadline(s *specs.Scheduler) error {
	const least, most = 1 << 10, 1<<63 - 1
	period := s.Period
	if period == 0 {
		period = s.Deadline
	}
	bad := func(format string, args ...any) error {
		return b.errorf("sched_setattr: `SCHED_DEADLINE` "+format, args...)
	}
	switch {
	case s.Deadline == 0:
		return bad("requires `deadline`")
	case s.Runtime == 0:
		return bad("requires `runtime`")
	case s.Runtime < least || s.Runtime > most:
		return bad("runtime %d ns must be between %d and %d", s.Runtime, uint64(least), uint64(most))
	case s.Runtime > s.Deadline:
		return bad("runtime %d ns must be <= the deadline, %d", s.Runtime, s.Deadline)
	case s.Deadline > period:
		return bad("deadline %d ns must be <= the period, %d", s.Deadline, period)
	case period > most:
		return bad("period %d ns must be <= %d", period, uint64(most))
	}
	return nil
}

// affinity compiles the CPUs that a process added to a container may use: before
// it joins the cgroup, and from then on.
func (b *builder) affinity(which, cpus string) error {
	if cpus == "" {
		return nil
	}
	b.at("process.execCPUAffinity."+which, cpus)
	raw, err := b.mask(cpus)
	if err != nil {
		return err
	}
	b.op(Op{Do: OpAffinity, Raw: raw})
	return nil
}

// allCPUs undoes an affinity that the caller happens to have: the process may run
// wherever its cpuset, which it has joined, lets it.
func (b *builder) allCPUs() error {
	b.at("process", "CPU affinity")
	b.op(Op{Do: OpAffinity, Raw: bytes.Repeat([]byte{0xff}, (maxBit+1)/8), Allow: []int{abi.EPERM, abi.EINVAL}, Warn: true})
	return nil
}

// ones counts the bits of a mask.
func ones(mask []byte) int {
	n := 0
	for _, b := range mask {
		n += bits.OnesCount8(b)
	}
	return n
}

// maxBit is the largest number in a mask of CPUs or memory nodes.
const maxBit = 8191

// mask makes a bit mask, in whole 64-bit words, of a list such as "0-3,7".
func (b *builder) mask(list string) ([]byte, error) {
	var raw []byte
	for part := range strings.SplitSeq(list, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		lo, hi, isRange := strings.Cut(part, "-")
		if !isRange {
			hi = lo
		}
		from, err1 := strconv.ParseUint(lo, 10, 32)
		to, err2 := strconv.ParseUint(hi, 10, 32)
		if err1 != nil || err2 != nil || from > to || to > maxBit {
			return nil, b.errorf("%q is not a list such as 0-3,7", list)
		}
		if need := int(to/64+1) * 8; len(raw) < need {
			raw = append(raw, make([]byte, need-len(raw))...)
		}
		for n := from; n <= to; n++ {
			raw[n/8] |= 1 << (n % 8)
		}
	}
	return slices.Clip(raw), nil
}
