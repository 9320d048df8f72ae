package launch

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/oci/plan"
)

// keepable is a program that can be kept; its command exits with 7.
func keepable(first ...plan.Op) *plan.Program {
	p := program(append(first,
		plan.Op{Do: plan.OpFork},
		plan.Op{Do: plan.OpLookup, Args: []string{"sh"}, Env: []string{"/bin/sh"}},
		plan.Op{Do: plan.OpStdio, Regs: []plan.Reg{2, 2, 2}},
		plan.Op{Do: plan.OpExec, Args: []string{"sh", "-c", "exit $V"}, Env: []string{"V=7"}},
	)...)
	p.Target = 3
	return p
}

// keepIn keeps a program for a request, in a file whose name is returned as OpenKept
// takes it; nil if it is not kept.
func keepIn(t *testing.T, p *plan.Program, request string) []byte {
	t.Helper()
	prepared, err := Prepare(p)
	if err != nil {
		t.Fatal(err)
	}
	defer prepared.Close()
	var c caller
	if !c.learn() {
		t.Fatal("nothing is learnt of the caller")
	}
	file := Keep(prepared, p, KeepOptions{Request: request, NoFile: plan.Limit{Soft: c.noFileSoft, Hard: c.noFile}})
	if file == nil {
		return nil
	}
	name := filepath.Join(t.TempDir(), KeptName(request))
	if err := os.WriteFile(name, file, 0o600); err != nil {
		t.Fatal(err)
	}
	return append([]byte(name), 0)
}

func open(name []byte, request string) *Kept {
	return OpenKept(uintptr(unsafe.Pointer(&name[0])), request)
}

func TestKept(t *testing.T) {
	name := keepIn(t, keepable(), "request")
	if name == nil {
		t.Fatal("it is not kept")
	}
	if open(name, "requesT") != nil || open(name, "") != nil || open([]byte("/no/such\x00"), "request") != nil {
		t.Error("another request's program is taken")
	}
	for range 3 {
		k := open(name, "request")
		if k == nil {
			t.Fatal("it is not found")
		}
		pidfd, ok := k.Run(noFD, 0)
		k.Close()
		if !ok {
			t.Fatal("it does not run")
		}
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PIDFD, int(pidfd), &info, unix.WEXITED, nil)
		closeFD(pidfd)
		const statusAt = 24 // in siginfo_t, on all 64-bit Linux
		if status := *(*int32)(unsafe.Add(unsafe.Pointer(&info), statusAt)); err != nil || status != 7 {
			t.Errorf("exit status %d, %v", status, err)
		}
	}
}

// TestKeptFails: what goes wrong leaves no process and no descriptor, wherever it is.
func TestKeptFails(t *testing.T) {
	missing := plan.Op{Do: plan.OpOpen, Path: "/no/such", Out: 3}
	late := keepable()
	late.Ops = slices.Insert(late.Ops, 1, missing)
	for i := range late.Ops {
		late.Ops[i].Field = "test"
	}
	for where, p := range map[string]*plan.Program{"before the fork": keepable(missing), "behind the fork": late} {
		before := descriptors(t)
		k := open(keepIn(t, p, where), where)
		if k == nil {
			t.Fatal("it is not found")
		}
		if _, ok := k.Run(noFD, 0); ok {
			t.Errorf("%s: it runs", where)
		}
		k.Close()
		if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG, nil); err != unix.ECHILD {
			t.Errorf("%s: children are left: %v", where, err)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%s: %d descriptors, %d before", where, after, before)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// TestNotKept: what wants something of its parent, or another caller.
func TestNotKept(t *testing.T) {
	for _, do := range []plan.Code{plan.OpSync, plan.OpSendFD, plan.OpListener, plan.OpPty} {
		if keepIn(t, keepable(plan.Op{Do: do, Dir: 2, Out: 3, On: 4}), "request") != nil {
			t.Errorf("a program with %s is kept", do)
		}
	}
	gate := keepable()
	gate.Inputs = append(gate.Inputs, plan.Input{Reg: 3, Kind: plan.InGate})
	warns := keepable()
	warns.Warnings = []string{"a wish"}
	inside := keepable()
	inside.PidNS = 2
	for what, p := range map[string]*plan.Program{"a gate": gate, "a warning": warns, "another PID namespace": inside} {
		if keepIn(t, p, "request") != nil {
			t.Errorf("a program with %s is kept", what)
		}
	}

	name := keepIn(t, keepable(), "request")
	file := string(name[:len(name)-1])
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	k := (*Kept)(unsafe.Pointer(&whole[0]))
	for what, change := range map[string]func(){
		"another program's file": func() { k.caller.inode++ },
		"other capabilities":     func() { k.caller.capabilities ^= 1 },
		"another limit":          func() { k.caller.noFile += 5 },
		"no magic":               func() { k.magic++ },
		"another size":           func() { k.size-- },
		"no end":                 func() { k.requestLen = 1 << 40 },
		"another place":          func() { k.request = 1 << 40 },
	} {
		was := *k
		change()
		if err := os.WriteFile(file, whole, 0o600); err != nil {
			t.Fatal(err)
		}
		if open(name, "request") != nil {
			t.Errorf("%s: it is taken", what)
		}
		*k = was
	}
}
