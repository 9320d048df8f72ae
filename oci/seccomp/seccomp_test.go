package seccomp

import (
	"encoding/json"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

const auditX86_64, auditX86, auditARM64, auditARM = 0xc000003e, 0x40000003, 0xc00000b7, 0x40000028

func number(t testing.TB, name string, column int) uint32 {
	t.Helper()
	r, ok := lookup(name)
	if !ok || r.nr[column] < 0 {
		t.Fatalf("no %s", name)
	}
	return uint32(r.nr[column])
}

func TestTable(t *testing.T) {
	for i, r := range table {
		if i > 0 && table[i-1].name >= r.name {
			t.Errorf("%q is not before %q", table[i-1].name, r.name)
		}
		for _, nr := range r.nr {
			if nr >= privateSlot && nr < armPrivate || slotOf(nr) >= slots {
				t.Errorf("%s: number %d has no slot", r.name, nr)
			}
		}
	}
	for i := 1; i < len(multiplexed); i++ {
		if multiplexed[i-1].name >= multiplexed[i].name {
			t.Errorf("%q is not before %q", multiplexed[i-1].name, multiplexed[i].name)
		}
	}
	for _, known := range []struct {
		name   string
		column int
		nr     int32
	}{
		{"read", archX86_64, 0}, {"execve", archX86_64, 59}, {"execve", archX86, 11}, {"execve", archX32, 520},
		{"execve", archARM64, 221}, {"execve", archARM, 11}, {"clone3", archX32, 435}, {"open", archARM64, -1},
		{"set_tls", archARM, 0x0f0005}, {"socketcall", archX86, 102}, {"socketcall", archARM, -1}, {"uselib", archX32, -1},
	} {
		r, ok := lookup(known.name)
		if !ok || r.nr[known.column] != known.nr {
			t.Errorf("%s in column %d: %v, want %d", known.name, known.column, r, known.nr)
		}
	}
}

func TestActions(t *testing.T) {
	errno := func(n uint) *uint { return &n }
	for _, test := range []struct {
		action specs.LinuxSeccompAction
		errno  *uint
		want   uint32
	}{
		{specs.ActKill, nil, 0}, {specs.ActKillThread, nil, 0}, {specs.ActKillProcess, nil, 0x80000000},
		{specs.ActTrap, nil, 0x30000}, {specs.ActErrno, nil, 0x50001}, {specs.ActErrno, errno(0), 0x50000},
		{specs.ActErrno, errno(38), 0x50026}, {specs.ActTrace, nil, 0x7ff00001}, {specs.ActTrace, errno(0xabcd), 0x7ff0abcd},
		{specs.ActLog, nil, 0x7ffc0000}, {specs.ActNotify, nil, 0x7fc00000}, {specs.ActAllow, errno(0), 0x7fff0000},
	} {
		cfg := &specs.LinuxSeccomp{
			DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(7), ListenerPath: "/run/agent",
			Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: test.action, ErrnoRet: test.errno}},
		}
		p, err := Compile(cfg, specs.ArchX86_64)
		if err != nil {
			t.Errorf("%s: %v", test.action, err)
			continue
		}
		if got := p.Run(number(t, "mkdir", archX86_64), auditX86_64, [6]uint64{}); got != test.want {
			t.Errorf("%s: verdict %#x, want %#x", test.action, got, test.want)
		}
		if got := p.Run(0, auditX86_64, [6]uint64{}); got != RetErrno|7 {
			t.Errorf("%s: default verdict %#x", test.action, got)
		}
		if p.NotifyListener != (test.action == specs.ActNotify) || p.NotifyListener != (p.Flags&flagNewListener != 0) {
			t.Errorf("%s: listener %v, flags %#x", test.action, p.NotifyListener, p.Flags)
		}
	}
}

func TestUnknownCalls(t *testing.T) {
	names := []string{"read", "mkdir", "sent_from_the_future"}
	mkdir := number(t, "mkdir", archX86_64)
	for _, test := range []struct {
		fallback specs.LinuxSeccompAction
		want     uint32
	}{
		{specs.ActErrno, RetErrno | eNoSys}, {specs.ActKillProcess, RetErrno | eNoSys},
		{specs.ActAllow, RetAllow}, {specs.ActLog, RetLog}, {specs.ActTrace, RetTrace | 1},
	} {
		p, err := Compile(&specs.LinuxSeccomp{DefaultAction: test.fallback, Syscalls: []specs.LinuxSyscall{{Names: names, Action: specs.ActTrap}}}, specs.ArchX86_64)
		if err != nil {
			t.Fatal(err)
		}
		for _, nr := range []uint32{mkdir + 1, 471, 5000} {
			if got := p.Run(nr, auditX86_64, [6]uint64{}); got != test.want {
				t.Errorf("default %s: call %d: %#x, want %#x", test.fallback, nr, got, test.want)
			}
		}
		if got := p.Run(mkdir, auditX86_64, [6]uint64{}); got != RetTrap {
			t.Errorf("default %s: mkdir: %#x", test.fallback, got)
		}
		if got := p.Run(x32Bit, auditX86_64, [6]uint64{}); got != RetKillThread {
			t.Errorf("a call of x32, not listed: %#x", got)
		}
		if got := p.Run(0, auditX86, [6]uint64{}); got != RetKillThread {
			t.Errorf("a call of x86, not listed: %#x", got)
		}
	}
}

// A filter on socket() is not avoided by way of socketcall().
func TestMultiplexed(t *testing.T) {
	cfg := &specs.LinuxSeccomp{
		DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"socket", "shmat"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpEqualTo, Value: 40}}}},
	}
	p, err := Compile(cfg, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name     string
		function uint64
		want     uint32
	}{{"socketcall", 1, RetErrno | 1}, {"socketcall", 2, RetAllow}, {"ipc", 21, RetErrno | 1}, {"ipc", 22, RetAllow}, {"socket", 40, RetErrno | 1}, {"socket", 1, RetAllow}} {
		if got := p.Run(number(t, test.name, archX86), auditX86, [6]uint64{test.function}); got != test.want {
			t.Errorf("%s(%d): %#x, want %#x", test.name, test.function, got, test.want)
		}
	}
}

func TestARM(t *testing.T) {
	cfg := &specs.LinuxSeccomp{
		DefaultAction: specs.ActErrno, Architectures: []specs.Arch{specs.ArchAARCH64, specs.ArchARM, specs.ArchMIPS},
		Syscalls: []specs.LinuxSyscall{{Names: []string{"openat", "set_tls"}, Action: specs.ActAllow}},
	}
	p, err := Compile(cfg, specs.ArchAARCH64)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ nr, arch, want uint32 }{
		{56, auditARM64, RetAllow}, {55, auditARM64, RetErrno | 1}, {322, auditARM, RetAllow}, {0x0f0005, auditARM, RetAllow},
		{0x0f0004, auditARM, RetErrno | eNoSys}, {321, auditARM, RetErrno | 1}, {0, auditX86_64, RetKillThread},
	} {
		if got := p.Run(test.nr, test.arch, [6]uint64{}); got != test.want {
			t.Errorf("call %d of %#x: %#x, want %#x", test.nr, test.arch, got, test.want)
		}
	}
}

func TestFlags(t *testing.T) {
	allow := func(flags ...specs.LinuxSeccompFlag) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: flags}
	}
	for _, test := range []struct {
		cfg  *specs.LinuxSeccomp
		want uint32
	}{
		{allow(), flagSpecAllow},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{}}, 0},
		{allow("SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog), flagLog},
		{allow(specs.LinuxSeccompFlagSpecAllow), flagSpecAllow},
	} {
		p, err := Compile(test.cfg, specs.ArchX86_64)
		if err != nil || p.Flags != test.want {
			t.Errorf("flags %v: %v, %v; want %#x", test.cfg.Flags, p, err, test.want)
		}
	}
}

func TestErrors(t *testing.T) {
	many := uint(5000)
	rule := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActErrno}, s}}
	}
	arg := func(a specs.LinuxSeccompArg) *specs.LinuxSeccomp {
		return rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{a}})
	}
	long := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for i := range uint64(2000) {
		long.Syscalls = append(long.Syscalls, specs.LinuxSyscall{Names: []string{"ioctl"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 1, Op: specs.OpEqualTo, Value: i}}})
	}
	for _, test := range []struct {
		cfg  *specs.LinuxSeccomp
		want string
	}{
		{&specs.LinuxSeccomp{}, "linux.seccomp.defaultAction"},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, "linux.seccomp.defaultAction"},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: &many}, "linux.seccomp.defaultAction"},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_Z80"}}, "linux.seccomp.architectures[0]"},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"X"}}, "linux.seccomp.flags[0]"},
		{&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}}, "linux.seccomp.flags"},
		{rule(specs.LinuxSyscall{Names: []string{"read"}, Action: "SCMP_ACT_SHRUG"}), "linux.seccomp.syscalls[1].action"},
		{rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActKill, ErrnoRet: &many}), "linux.seccomp.syscalls[1].action"},
		{rule(specs.LinuxSyscall{Action: specs.ActErrno}), "linux.seccomp.syscalls[1].names"},
		{rule(specs.LinuxSyscall{Names: []string{"read", "write"}, Action: specs.ActNotify}), "linux.seccomp.syscalls[1].names[1]"},
		{rule(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActNotify}), "linux.seccomp.listenerPath"},
		{arg(specs.LinuxSeccompArg{Index: 6, Op: specs.OpEqualTo}), "linux.seccomp.syscalls[1].args[0].index"},
		{arg(specs.LinuxSeccompArg{Op: "SCMP_CMP_ALMOST"}), "linux.seccomp.syscalls[1].args[0].op"},
		{long, "instructions"},
	} {
		if _, err := Compile(test.cfg, specs.ArchX86_64); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("error %v does not name %s", err, test.want)
		}
	}
	if _, err := Compile(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow}, specs.ArchMIPS); err == nil {
		t.Error("compiled for MIPS")
	}
}

// Long programs need jumps beyond a conditional jump's reach.
func TestLongProgram(t *testing.T) {
	cfg := &specs.LinuxSeccomp{DefaultAction: specs.ActErrno}
	for i, r := range table[:300] {
		s := specs.LinuxSyscall{Names: []string{r.name}, Action: specs.ActAllow}
		if i%2 == 0 {
			s.Args = []specs.LinuxSeccompArg{{Index: 0, Op: specs.OpGreaterThan, Value: uint64(i) << 30}}
		}
		cfg.Syscalls = append(cfg.Syscalls, s)
	}
	p, err := Compile(cfg, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	for i, r := range table[:300] {
		nr := r.nr[archX86_64]
		if nr < 0 {
			continue
		}
		for _, value := range []uint64{uint64(i) << 30, uint64(i)<<30 + 1} {
			want := RetAllow
			if i%2 == 0 && value <= uint64(i)<<30 {
				want = RetErrno | 1
			}
			if got := p.Run(uint32(nr), auditX86_64, [6]uint64{value}); got != want {
				t.Errorf("%s(%#x): %#x, want %#x", r.name, value, got, want)
			}
		}
	}
}

// Common calls have a short way through docker's profile.
func TestPathLength(t *testing.T) {
	p, err := Compile(dockerProfile(t), specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"read", "write", "futex", "epoll_wait", "openat", "close", "mmap", "clock_gettime"} {
		v, steps := p.trace(number(t, name, archX86_64), auditX86_64, [6]uint64{})
		if v != RetAllow || steps > 10 {
			t.Errorf("%s: verdict %#x after %d instructions", name, v, steps)
		}
	}
}

// FuzzCompile: any profile is compiled or refused, and a compiled one is valid:
// it ends in a verdict for every call.
func FuzzCompile(f *testing.F) {
	f.Add([]byte(`{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86"],"syscalls":[{"names":["read","clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":5,"op":"SCMP_CMP_MASKED_EQ"}]}]}`), uint32(1), uint64(5))
	f.Fuzz(func(t *testing.T, data []byte, nr uint32, arg uint64) {
		var cfg specs.LinuxSeccomp
		if json.Unmarshal(data, &cfg) != nil {
			return
		}
		p, err := Compile(&cfg, specs.ArchX86_64)
		if err != nil {
			return
		}
		for pc, i := range p.Instructions {
			last := len(p.Instructions) - 1
			switch i.Code {
			case codeEqual, codeGE, codeGT:
				if pc+1+int(max(i.JT, i.JF)) > last {
					t.Fatalf("instruction %d jumps out of the program", pc)
				}
			case codeJump:
				if pc+1+int(i.K) > last {
					t.Fatalf("instruction %d jumps out of the program", pc)
				}
			}
		}
		for _, arch := range []uint32{auditX86_64, auditX86, nr} {
			p.Run(nr, arch, [6]uint64{arg, arg, arg, arg, arg, arg})
		}
	})
}

func BenchmarkCompileDocker(b *testing.B) {
	cfg := dockerProfile(b)
	for b.Loop() {
		if _, err := Compile(cfg, specs.ArchX86_64); err != nil {
			b.Fatal(err)
		}
	}
}
