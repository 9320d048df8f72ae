package plan

import (
	"errors"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// ErrUnsupported is a wish that Strake, or this host, cannot fulfil. The error
// names the field.
var ErrUnsupported = errors.New("not supported")

// builder appends operations to a Program.
type builder struct {
	Program
	spec *specs.Spec
	host *Host
	cfg  *Config

	field, note string // of the operations being appended
	free        []Reg

	err      error       // first error of the steps that return none
	root     Reg         // the rootfs's mount
	devpts   Reg         // the container's own devpts, if it mounts one
	console  Reg         // the terminal's end for the process
	cutOff   propagation // of what is the host's: nothing unless the container's mounts are to reach it
	lateRO   []Reg       // tmpfs mounts that become read-only once all is in them
	late     func()      // what comes between the gate and execve
	ns       map[specs.LinuxNamespaceType]namespace
	env      []string
	bornLast bool // see joinAll
	rootOn   Reg  // what the rootfs is mounted on
	inUser   bool // the process is in a user namespace other than the host's
	ownNS    bool // the process has a new mount namespace
}

type namespace struct {
	path  string
	field string
}

// at sets the config field that the next operations are for.
func (b *builder) at(field, note string) { b.field, b.note = field, note }

func (b *builder) atf(format string, args ...any) { b.at(fmt.Sprintf(format, args...), "") }

// errorf is an error of the present field.
func (b *builder) errorf(format string, args ...any) error {
	where := (&Op{Field: b.field, Note: b.note}).Where()
	return fmt.Errorf("%s: %w", where, fmt.Errorf(format, args...))
}

// unsupported is an error of the present field.
func (b *builder) unsupported(what string) error {
	return b.errorf("%s: %w", what, ErrUnsupported)
}

// needs is an error of the present field on a kernel older than major.minor.
func (b *builder) needs(major, minor int) error {
	if b.host.AtLeast(major, minor) {
		return nil
	}
	return b.errorf("needs Linux %s: this is %s: %w", version(major, minor), b.host.version(), ErrUnsupported)
}

func (b *builder) op(o Op) {
	if o.Field == "" {
		o.Field, o.Note = b.field, b.note
	}
	b.Ops = append(b.Ops, o)
}

// reg takes a free register. Registers of closed descriptors are used again, so
// that a config with many mounts needs few.
func (b *builder) reg() Reg {
	if n := len(b.free); n > 0 {
		r := b.free[n-1]
		b.free = b.free[:n-1]
		return r
	}
	b.Regs++
	return Reg(b.Regs)
}

// close closes descriptors and frees their registers.
func (b *builder) close(regs ...Reg) {
	for _, r := range regs {
		b.op(Op{Do: OpClose, Dir: r, Allow: []int{abi.EBADF}})
		b.free = append(b.free, r)
	}
}

// input declares a descriptor that is there from the start: in a register that
// nothing used before.
func (b *builder) input(in Input) Reg {
	b.Regs++
	in.Reg = Reg(b.Regs)
	if in.Field == "" {
		in.Field = b.field
	}
	b.Inputs = append(b.Inputs, in)
	return in.Reg
}

// named is the input of a kind, declared at first use.
func (b *builder) named(kind string) Reg {
	if in := b.Input(kind); in != nil {
		return in.Reg
	}
	return b.input(Input{Kind: kind})
}

// unless wraps operations that are skipped when test says so: test.A becomes
// their number.
func (b *builder) guarded(test Op, body func() error) error {
	i := len(b.Ops)
	b.op(test)
	err := body()
	b.Ops[i].A = uint64(len(b.Ops) - i - 1)
	return err
}

// ifOpen appends body so that it runs only if r holds a descriptor.
func (b *builder) ifOpen(r Reg, body func() error) error {
	return b.guarded(Op{Do: OpIfOpen, Dir: r}, body)
}

// inRoot opens path inside the rootfs. Links are followed inside it, links of
// procfs never.
func (b *builder) inRoot(path string, flags uint64, allow ...int) Reg {
	r := b.reg()
	b.op(Op{Do: OpOpen, Out: r, Dir: b.root, Path: path, A: flags | abi.OPath,
		C: abi.ResolveInRoot | abi.ResolveNoMagiclinks, Allow: allow})
	return r
}

// attach moves the mount in register m onto target and closes target.
func (b *builder) attach(m, target Reg) {
	b.op(Op{Do: OpMove, Dir: m, On: target})
	b.close(target)
}

// setattr changes a mount that is held by a descriptor.
func (b *builder) setattr(m Reg, set, clear, propagation uint64, recursive bool) {
	if set|clear|propagation == 0 {
		return
	}
	flags := uint64(abi.AtEmptyPath)
	if recursive {
		flags |= abi.AtRecursive
	}
	b.op(Op{Do: OpSetattr, Dir: m, A: set, B: clear, C: propagation, D: flags})
}

// writeProc writes to a file of the host's own procfs, whose handle the parent
// has verified: what a container puts in place of its /proc is never looked at.
// "self" and "sys" there still mean this process and its namespaces.
func (b *builder) writeProc(path, value string, allow ...int) {
	b.op(Op{Do: OpWrite, Dir: b.named(InProc), Path: path, Data: value, C: abi.ResolveBeneath, Allow: allow})
}
