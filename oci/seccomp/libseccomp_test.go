package seccomp

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	docker "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The verdicts of our programs and of libseccomp's are the same over all system
// calls and classes of arguments. Where libseccomp or a C compiler is not there,
// this is skipped: `make test` installs both.

// operators are enum scmp_compare.
var operators = map[specs.LinuxSeccompOperator]int{
	specs.OpNotEqual: 1, specs.OpLessThan: 2, specs.OpLessEqual: 3, specs.OpEqualTo: 4,
	specs.OpGreaterEqual: 5, specs.OpGreaterThan: 6, specs.OpMaskedEqual: 7,
}

// tokens are enum scmp_arch, which is AUDIT_ARCH but for x32.
var tokens = map[specs.Arch]uint32{
	specs.ArchX86_64: 0xc000003e, specs.ArchX86: 0x40000003, specs.ArchX32: 0x4000003e,
	specs.ArchAARCH64: 0xc00000b7, specs.ArchARM: 0x40000028,
}

func buildLibseccomp(t *testing.T) string {
	t.Helper()
	cc, err := exec.LookPath("gcc")
	if err != nil {
		t.Skip("no gcc to build the libseccomp helper with")
	}
	tool := filepath.Join(t.TempDir(), "libseccomp")
	out, err := exec.CommandContext(t.Context(), cc, "-O1", "-o", tool, "testdata/libseccomp.c", "-lseccomp").CombinedOutput()
	if err != nil {
		t.Skipf("libseccomp-dev is not installed: %s", out)
	}
	return tool
}

// withLibseccomp compiles a profile as runc has libseccomp do it.
func withLibseccomp(t *testing.T, tool string, cfg *specs.LinuxSeccomp) *Program {
	t.Helper()
	fallback, err := verdict(cfg.DefaultAction, cfg.DefaultErrnoRet)
	if err != nil {
		t.Fatal(err)
	}
	var in bytes.Buffer
	fmt.Fprintf(&in, "default %d\n", fallback)
	for _, arch := range cfg.Architectures {
		fmt.Fprintf(&in, "arch %d\n", tokens[arch])
	}
	for _, s := range cfg.Syscalls {
		v, err := verdict(s.Action, s.ErrnoRet)
		if err != nil {
			t.Fatal(err)
		}
		if v == fallback {
			continue
		}
		rules := [][]specs.LinuxSeccompArg{s.Args}
		seen := map[uint]bool{}
		for _, arg := range s.Args {
			if seen[arg.Index] {
				rules = nil
				for _, one := range s.Args {
					rules = append(rules, []specs.LinuxSeccompArg{one})
				}
				break
			}
			seen[arg.Index] = true
		}
		for _, name := range s.Names {
			for _, args := range rules {
				fmt.Fprintf(&in, "rule %d %s %d", v, name, len(args))
				for _, a := range args {
					fmt.Fprintf(&in, " %d %d %d %d", a.Index, operators[a.Op], a.Value, a.ValueTwo)
				}
				fmt.Fprintln(&in)
			}
		}
	}
	cmd := exec.CommandContext(t.Context(), tool)
	cmd.Stdin, cmd.Stderr = &in, os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("libseccomp: %v", err)
	}
	p := &Program{Instructions: make([]Instruction, len(out)/8)}
	if _, err := binary.Decode(out, binary.LittleEndian, p.Instructions); err != nil {
		t.Fatal(err)
	}
	return p
}

// compare runs both programs over every call number of every architecture and
// over every class of arguments that the profile tells apart.
func compare(t *testing.T, tool string, cfg *specs.LinuxSeccomp) {
	t.Helper()
	ours, err := Compile(cfg, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	theirs := withLibseccomp(t, tool, cfg)
	p, err := newProfile(cfg, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, arch := range p.arches {
		base := uint32(0)
		if arch.column == archX32 {
			base = x32Bit
		}
		for nr := range uint32(privateSlot) {
			if nr >= arch.last && p.unknown() != p.fallback {
				break // ENOSYS: runc's addition to what libseccomp makes
			}
			if newer(nr, arch.column) {
				continue
			}
			for _, args := range argumentClasses(arch.conditional(&arch.calls[nr])) {
				compared++
				want := theirs.Run(base|nr, arch.audit, args)
				if got := ours.Run(base|nr, arch.audit, args); got != want {
					t.Fatalf("column %d, call %d (%s), arguments %#x: verdict %#x, libseccomp's %#x", arch.column, nr, nameOf(nr, arch.column), args, got, want)
				}
			}
		}
	}
	for _, foreign := range []uint32{0, 0x40000028, 0xc00000b7} {
		if got, want := ours.Run(1, foreign, [6]uint64{}), theirs.Run(1, foreign, [6]uint64{}); got != want {
			t.Errorf("architecture %#x: verdict %#x, libseccomp's %#x", foreign, got, want)
		}
	}
	t.Logf("%d verdicts equal; %d instructions, libseccomp %d", compared, len(ours.Instructions), len(theirs.Instructions))
}

// newer are calls that an old libseccomp (2.5.4 knows Linux 5.17) has no name
// for, and so leaves to the default.
func newer(nr uint32, column int) bool {
	name := nameOf(nr, column)
	return nr > 450 && column != archX32 || nr > 450 && nr < 512 || slices.Contains([]string{"uretprobe", "uprobe", "map_shadow_stack"}, name)
}

func nameOf(nr uint32, column int) string {
	for _, r := range table {
		if r.nr[column] == int32(nr) {
			return r.name
		}
	}
	return ""
}

// argumentClasses are values on, just below and just above each that the call's
// rules compare with, in each word, for one argument at a time and for all.
func argumentClasses(rules []rule) [][6]uint64 {
	classes := [][6]uint64{{}}
	perArg := [6]map[uint64]bool{}
	for _, r := range rules {
		for _, cond := range r.conditions {
			if perArg[cond.arg] == nil {
				perArg[cond.arg] = map[uint64]bool{0: true, 1<<64 - 1: true}
			}
			for _, v := range []uint64{cond.value, cond.mask, cond.value &^ cond.mask, cond.value | ^cond.mask} {
				for _, w := range []uint64{v, v - 1, v + 1, v ^ 1<<32, v + 1<<32, v - 1<<32, v | 1<<63, v ^ 1} {
					perArg[cond.arg][w] = true
				}
			}
		}
	}
	for arg, values := range perArg {
		var more [][6]uint64
		for _, v := range slices.Sorted(maps.Keys(values)) {
			for _, c := range classes {
				c[arg] = v
				more = append(more, c)
			}
		}
		if len(more) > 0 && len(more) < 200_000 {
			classes = more
		}
	}
	return classes
}

// dockerProfile is docker's default for a container with the given capabilities.
func dockerProfile(tb testing.TB, caps ...string) *specs.LinuxSeccomp {
	tb.Helper()
	cfg, err := docker.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		tb.Fatal(err)
	}
	return cfg
}

func TestSameVerdictsAsLibseccomp(t *testing.T) {
	tool := buildLibseccomp(t)
	arg := func(index uint, op specs.LinuxSeccompOperator, values ...uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: values[0], ValueTwo: append(values, 0)[1]}
	}
	rule := func(action specs.LinuxSeccompAction, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: strings.Fields(name), Action: action, Args: args}
	}
	allArches := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	profiles := map[string]*specs.LinuxSeccomp{
		"docker":          dockerProfile(t),
		"docker, admin":   dockerProfile(t, "CAP_SYS_ADMIN", "CAP_NET_ADMIN", "CAP_SYS_PTRACE", "CAP_BPF", "CAP_SYS_TIME"),
		"deny a few":      {DefaultAction: specs.ActAllow, Architectures: allArches, Syscalls: []specs.LinuxSyscall{rule(specs.ActErrno, "socket bind mount unshare"), rule(specs.ActKillProcess, "reboot"), rule(specs.ActTrap, "shmget semop")}},
		"native only":     {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{rule(specs.ActErrno, "mkdir")}},
		"every operator":  {DefaultAction: specs.ActAllow, Architectures: allArches},
		"two arguments":   {DefaultAction: specs.ActAllow, Architectures: allArches, Syscalls: []specs.LinuxSyscall{rule(specs.ActErrno, "lseek", arg(0, specs.OpEqualTo, 7), arg(2, specs.OpLessEqual, 0x100000002))}},
		"same argument":   {DefaultAction: specs.ActErrno, Architectures: allArches, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "ioctl", arg(1, specs.OpEqualTo, 5), arg(1, specs.OpEqualTo, 1<<40), arg(1, specs.OpEqualTo, 9))}},
		"settled later":   {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "read write", arg(0, specs.OpEqualTo, 5)), rule(specs.ActAllow, "read"), rule(specs.ActLog, "read")}},
		"settled earlier": {DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "read"), rule(specs.ActKill, "read", arg(0, specs.OpEqualTo, 5))}},
		"default again":   {DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{rule(specs.ActAllow, "read"), rule(specs.ActErrno, "read", arg(0, specs.OpEqualTo, 5))}},
	}
	every := profiles["every operator"]
	for i, value := range []uint64{0, 1, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 0x300000005, 1<<64 - 1} {
		names := []string{"read", "write", "close", "lseek", "fcntl", "dup", "dup2", "mprotect"}
		ops := []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterEqual, specs.OpGreaterThan}
		if op := ops[i%len(ops)]; !(value == 0 && op == specs.OpLessThan) {
			every.Syscalls = append(every.Syscalls, rule(specs.ActErrno, names[i], arg(uint(i%6), op, value)))
		}
	}
	for i, masked := range [][2]uint64{{0xff, 5}, {0xff00000000, 0x500000000}, {0xffffffffffffffff, 1 << 40}, {0xf0000000f, 3}} {
		every.Syscalls = append(every.Syscalls, rule(specs.ActErrno, []string{"open", "stat", "poll", "brk"}[i], arg(1, specs.OpMaskedEqual, masked[0], masked[1])))
	}
	for _, name := range slices.Sorted(maps.Keys(profiles)) {
		t.Run(name, func(t *testing.T) { compare(t, tool, profiles[name]) })
	}
	for _, op := range []specs.LinuxSeccompOperator{specs.OpEqualTo, specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual} {
		t.Run(string(op), func(t *testing.T) {
			cfg := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: allArches}
			names := []string{"read", "write", "close", "lseek", "fcntl", "dup"}
			for i, value := range []uint64{1, 0x80000000, 0xffffffff, 1 << 32, 0x300000005, 1<<64 - 1} {
				two := value & 0x1_0000_ffff
				cfg.Syscalls = append(cfg.Syscalls, rule(specs.ActErrno, names[i], arg(uint(i), op, value, two)))
			}
			compare(t, tool, cfg)
		})
	}
}

// No common call runs through more instructions of docker's profile than in
// libseccomp's program, which is a list with the lowest number first; all of
// them together run through far fewer, and so do all calls.
func TestShorterThanLibseccomp(t *testing.T) {
	tool := buildLibseccomp(t)
	cfg := dockerProfile(t)
	ours, err := Compile(cfg, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	theirs := withLibseccomp(t, tool, cfg)
	steps := func(p *Program, name string) int {
		_, n := p.trace(number(t, name, archX86_64), auditX86_64, [6]uint64{})
		return n
	}
	var our, their int
	for _, name := range common {
		o, l := steps(ours, name), steps(theirs, name)
		if o > l {
			t.Errorf("%s: %d instructions, libseccomp %d", name, o, l)
		}
		our, their = our+o, their+l
	}
	if 4*our > their {
		t.Errorf("common calls: %d instructions, libseccomp %d", our, their)
	}
	t.Logf("common calls: %d instructions, libseccomp %d", our, their)
	our, their = 0, 0
	for _, r := range table {
		if r.nr[archX86_64] >= 0 && !newer(uint32(r.nr[archX86_64]), archX86_64) {
			our += steps(ours, r.name)
			their += steps(theirs, r.name)
		}
	}
	if our >= their {
		t.Errorf("all calls: %d instructions, libseccomp %d", our, their)
	}
	t.Logf("all calls once: %d instructions, libseccomp %d", our, their)
}
