package seccomp

import (
	"strings"
	"testing"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Of each call, a profile that notifies says what the profile says, or that it notifies
// where that forbids the call.
func TestNotify(t *testing.T) {
	errno := func(n uint) *uint { return &n }
	docker, err := seccomp.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{}}})
	if err != nil {
		t.Fatal(err)
	}
	arches := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	for name, cfg := range map[string]*specs.LinuxSeccomp{
		"docker's": docker,
		"rules": {DefaultAction: specs.ActAllow, Architectures: arches, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir", "write"}, Action: specs.ActErrno},
			{Names: []string{"rmdir"}, Action: specs.ActErrno, ErrnoRet: errno(30)},
			{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: errno(38)},
			{Names: []string{"ptrace"}, Action: specs.ActKillProcess},
			{Names: []string{"socket", "personality"}, Action: specs.ActErrno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 16, Op: specs.OpEqualTo}}},
		}},
		"default": {DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(13), Architectures: arches, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"mkdir"}, Action: specs.ActErrno, ErrnoRet: errno(13)}, // repeats the default: the next rule counts
			{Names: []string{"mkdir", "read", "execve"}, Action: specs.ActAllow},
			{Names: []string{"rmdir"}, Action: specs.ActErrno, ErrnoRet: errno(1)},
		}},
		"default kills": {DefaultAction: specs.ActKillProcess, Syscalls: []specs.LinuxSyscall{
			{Names: []string{"write", "read"}, Action: specs.ActAllow}, {Names: []string{"mkdir"}, Action: specs.ActErrno},
		}},
		"default ENOSYS": {DefaultAction: specs.ActErrno, DefaultErrnoRet: errno(38), Syscalls: []specs.LinuxSyscall{
			{Names: []string{"write", "read"}, Action: specs.ActAllow}, {Names: []string{"mkdir"}, Action: specs.ActErrno},
		}},
	} {
		before := len(cfg.Syscalls)
		notify, original, err := Notify(cfg, specs.ArchX86_64)
		if err != nil {
			t.Fatal(name, err)
		}
		if len(cfg.Syscalls) != before {
			t.Errorf("%s: the profile was changed", name)
		}
		notify.ListenerPath = "/x"
		p, err := Compile(notify, specs.ArchX86_64)
		if err != nil {
			t.Fatal(name, err)
		}
		notified := 0
		for _, arch := range arches {
			a, _ := architectureOf(arch)
			for nr := range uint32(600) {
				for _, args := range [][6]uint64{{}, {16}} {
					if arch == specs.ArchX32 {
						nr |= x32Bit
					}
					was, is := original.Run(nr, a.audit, args), p.Run(nr, a.audit, args)
					fails, forbidden := original.Forbids(nr, a.audit, args)
					switch {
					case is == RetNotify && (fails != int(was&0xffff) || forbidden != reported(was)):
						t.Errorf("%s: %s fails with %d (%v), the profile says %#x", name, Name(nr, a.audit), fails, forbidden, was)
					case is == RetNotify:
						notified++
					case is != was && strings.Contains(Name(nr, a.audit), "/") && is&0xffff0000 == was&0xffff0000: // fails; no kernel has it
					case is != was:
						t.Errorf("%s: %s: %#x, the profile says %#x", name, Name(nr, a.audit), is, was)
					case reported(was) && Name(nr, a.audit) != "write" && !strings.Contains(Name(nr, a.audit), "/"):
						t.Errorf("%s: %s is forbidden and does not notify", name, Name(nr, a.audit))
					}
				}
			}
		}
		if notified == 0 {
			t.Errorf("%s: no call notifies", name)
		}
	}

	_, _, err = Notify(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x",
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir"}, Action: specs.ActNotify}}}, specs.ArchX86_64)
	if err == nil || !strings.Contains(err.Error(), "SCMP_ACT_NOTIFY") {
		t.Errorf("a profile that notifies: %v", err)
	}
}

func TestName(t *testing.T) {
	for _, c := range []struct {
		nr, arch uint32
		want     string
	}{
		{83, auditX86_64, "mkdir"}, {39, auditX86, "mkdir"}, {x32Bit | 83, auditX86_64, "mkdir"},
		{34, auditARM64, "mkdirat"}, {armPrivate + 5, auditARM, "set_tls"}, {999, auditX86_64, "0xc000003e/999"},
	} {
		if got := Name(c.nr, c.arch); got != c.want {
			t.Errorf("%d of %#x is %q, want %q", c.nr, c.arch, got, c.want)
		}
	}
}
