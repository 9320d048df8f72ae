package seccomp

import (
	"slices"
	"sort"
)

// Classic BPF, linux/bpf_common.h: the few codes that the kernel lets a seccomp
// filter use and that it can also evaluate ahead of time for its cache of calls
// that are always allowed.
const (
	codeLoad  = 0x20 // A = word at offset K of struct seccomp_data
	codeAnd   = 0x54 // A &= K
	codeJump  = 0x05 // skip K
	codeEqual = 0x15 // A == K ? skip JT : skip JF
	codeGT    = 0x25
	codeGE    = 0x35
	codeRet   = 0x06 // verdict K
)

// Offsets into struct seccomp_data, linux/seccomp.h. The words of an argument are
// in little-endian order on every architecture of table.
const (
	offsetNr   = 0
	offsetArch = 4
	offsetArgs = 16
)

// builder writes a program from its end to its beginning: jumps of classic BPF
// only go forward, so every target is known when its jump is written.
type builder struct {
	reversed []Instruction
	rets     map[uint32]label // the latest return of each verdict
}

// label is an instruction: its distance from the program's end, from 1.
type label int

// reach is how far a conditional jump may go, less some room for the jumps that
// lengthen it.
const reach = 250

func (b *builder) here() label { return label(len(b.reversed)) }

func (b *builder) distance(to label) int { return len(b.reversed) - int(to) }

func (b *builder) emit(i Instruction) label {
	b.reversed = append(b.reversed, i)
	return b.here()
}

// ret returns an instruction that returns verdict, in reach of what comes next.
func (b *builder) ret(verdict uint32) label {
	if l, ok := b.rets[verdict]; ok && b.distance(l) < reach/2 {
		return l
	}
	if b.rets == nil {
		b.rets = map[uint32]label{}
	}
	b.rets[verdict] = b.emit(Instruction{Code: codeRet, K: verdict})
	return b.rets[verdict]
}

// near brings a label into a conditional jump's reach.
func (b *builder) near(l label) label {
	if b.distance(l) < reach {
		return l
	}
	return b.emit(Instruction{Code: codeJump, K: uint32(b.distance(l))})
}

// branch compares A with k and goes on at yes or no.
func (b *builder) branch(code uint16, k uint32, yes, no label) label {
	if yes == no {
		return yes
	}
	yes = b.near(yes)
	no = b.near(no)
	return b.emit(Instruction{Code: code, K: k, JT: uint8(b.distance(yes)), JF: uint8(b.distance(no))})
}

// then writes an instruction that goes on at next.
func (b *builder) then(code uint16, k uint32, next label) label {
	if next != b.here() {
		b.emit(Instruction{Code: codeJump, K: uint32(b.distance(next))})
	}
	return b.emit(Instruction{Code: code, K: k})
}

// program writes the whole: architecture, then number. x32's calls come with
// x86_64's architecture and the tree tells them apart.
func (b *builder) program(p *profile) {
	next := b.ret(RetKillThread)
	for i := len(p.arches) - 1; i >= 0; i-- {
		arch := &p.arches[i]
		var ranges []span
		switch arch.column {
		case archX32:
			continue // in x86_64's tree
		case archX86_64:
			ranges = p.spans(nil, arch, 0, x32Bit-1)
			if j := slices.IndexFunc(p.arches, func(a archRules) bool { return a.column == archX32 }); j >= 0 {
				ranges = p.spans(ranges, &p.arches[j], x32Bit, 1<<32-1)
			} else {
				// A tracer's "skip this call" is -1 and no call of x32's.
				ranges = join(join(ranges, span{first: x32Bit, verdict: RetKillThread}), span{first: 1<<32 - 1, verdict: p.fallback})
			}
		default:
			ranges = p.spans(nil, arch, 0, 1<<32-1)
		}
		if i == 0 {
			weigh(ranges, arch.column)
		}
		body := b.then(codeLoad, offsetNr, b.tree(ranges))
		next = b.branch(codeEqual, arch.audit, body, next)
	}
	b.then(codeLoad, offsetArch, next)
}

// span is a range of call numbers, up to the next span, with one verdict or, for
// a single call, rules.
type span struct {
	first   uint32
	verdict uint32 // if no rule fits
	rules   []rule
	narrow  bool
	weight  int // how much it matters that it is found soon
}

// spans adds the numbers from base to end with an architecture's verdicts.
func (p *profile) spans(spans []span, arch *archRules, base, end uint32) []span {
	next := uint32(0) // first number without a span, less base
	limit := end - base
	rest := func(to uint32) { // what nobody named, up to and without to
		if next < min(to, arch.last) {
			spans = join(spans, span{first: base + next, verdict: p.fallback})
			next = min(to, arch.last)
		}
		if next < to {
			spans = join(spans, span{first: base + next, verdict: p.unknown()})
			next = to
		}
	}
	for slot := range arch.calls {
		c := &arch.calls[slot]
		if !c.settled && c.rules == 0 {
			continue
		}
		nr := numberOf(slot)
		rest(nr)
		s := span{first: base + nr, verdict: c.verdict, narrow: arch.narrow}
		if !c.settled {
			s.verdict, s.rules = p.fallback, arch.conditional(c)
		}
		spans = join(spans, s)
		next = nr + 1
	}
	rest(limit)
	return spans
}

// join adds a span, unless the verdict goes on that is in force already.
func join(spans []span, s span) []span {
	if n := len(spans); n > 0 && len(s.rules) == 0 && len(spans[n-1].rules) == 0 && spans[n-1].verdict == s.verdict {
		return spans
	}
	return append(spans, s)
}

// common are the calls that programs make most.
var common = [...]string{
	"accept4", "brk", "clock_gettime", "close", "epoll_pwait", "epoll_wait", "fcntl", "fstat", "futex", "getpid", "gettimeofday",
	"ioctl", "lseek", "madvise", "mmap", "mprotect", "munmap", "nanosleep", "newfstatat", "openat", "poll", "ppoll", "pread64",
	"pwrite64", "read", "readv", "recvfrom", "recvmsg", "rt_sigaction", "rt_sigprocmask", "sched_yield", "sendmsg", "sendto",
	"stat", "statx", "write", "writev",
}

// weigh tells the spans with common calls of the native architecture from others.
func weigh(spans []span, column int) {
	const weight = 64
	for _, name := range common {
		r, ok := lookup(name)
		if !ok || r.nr[column] < 0 {
			continue
		}
		above := sort.Search(len(spans), func(i int) bool { return spans[i].first > uint32(r.nr[column]) })
		spans[above-1].weight += weight
	}
}

// middle is where half of the spans' weight is on either side, as near as can be.
func middle(spans []span) int {
	total := 0
	for i := range spans {
		total += spans[i].weight + 1
	}
	sum := 0
	for i := range spans[:len(spans)-1] {
		w := spans[i].weight + 1
		if sum+w >= total-sum-w { // the larger part is before what comes next: is it so without this one?
			if i > 0 && sum+w-total/2 > total/2-sum {
				return i
			}
			return i + 1
		}
		sum += w
	}
	return len(spans) - 1
}

// tree writes a search for the span of the number in A: binary, but for common
// calls, which are nearer to its root.
func (b *builder) tree(spans []span) label {
	if len(spans) == 1 {
		return b.leaf(spans[0])
	}
	half := middle(spans)
	above := b.tree(spans[half:])
	below := b.tree(spans[:half])
	return b.branch(codeGE, spans[half].first, above, below)
}

func (b *builder) leaf(s span) label {
	next := b.ret(s.verdict)
	for _, r := range slices.Backward(s.rules) {
		yes := b.ret(r.verdict)
		for _, c := range slices.Backward(r.conditions) {
			yes = b.condition(c, s.narrow, yes, next)
		}
		next = yes
	}
	return next
}

// condition writes a comparison of one argument; a narrow one has no high word.
func (b *builder) condition(c condition, narrow bool, yes, no label) label {
	switch c.op { // each pair is one comparison with its ways out exchanged
	case opNotEqual:
		c.op, yes, no = opEqual, no, yes
	case opLess:
		c.op, yes, no = opGreaterEqual, no, yes
	case opLessEqual:
		c.op, yes, no = opGreater, no, yes
	}
	low := uint32(offsetArgs + 8*c.arg)
	at := b.word(c, low, uint32(c.mask), uint32(c.value), yes, no)
	if narrow {
		return at
	}
	high, valueHigh := low+4, uint32(c.value>>32)
	if c.op == opGreaterEqual || c.op == opGreater {
		at = b.branch(codeEqual, valueHigh, at, no)
		at = b.branch(codeGT, valueHigh, yes, at)
		return b.then(codeLoad, high, at)
	}
	return b.word(c, high, uint32(c.mask>>32), valueHigh, at, no)
}

// word writes the comparison of one 32-bit word.
func (b *builder) word(c condition, offset, mask, value uint32, yes, no label) label {
	switch c.op {
	case opMasked:
		switch {
		case value&^mask != 0:
			return no // bits that the mask takes away cannot be there
		case mask == 0:
			return yes
		}
		at := b.branch(codeEqual, value, yes, no)
		return b.then(codeLoad, offset, b.then(codeAnd, mask, at))
	case opGreaterEqual:
		return b.then(codeLoad, offset, b.branch(codeGE, value, yes, no))
	case opGreater:
		return b.then(codeLoad, offset, b.branch(codeGT, value, yes, no))
	}
	return b.then(codeLoad, offset, b.branch(codeEqual, value, yes, no))
}
