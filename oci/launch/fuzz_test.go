package launch

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/oci/plan"
	"github.com/strake-containers/strake/oci/spec"
)

// FuzzProgram: a program from a file is laid out or refused, and what is laid out
// touches nothing but its own memory and registers.
func FuzzProgram(f *testing.F) {
	for _, name := range seeds(f) {
		s, err := spec.Decode(readSeed(f, name))
		if err != nil {
			f.Fatal(err)
		}
		for _, p := range compiled(f, name, s) {
			data, err := json.Marshal(p)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte(`{"regs":1,"target":-1,"inputs":[{"reg":1,"kind":"sync"}],"ops":[{"do":"stdio"}]}`))
	f.Add([]byte(`{"regs":9,"inputs":[{"reg":1,"kind":"sync"}],"ops":[{"do":"skip","a":18446744073709551615}]}`))
	f.Add([]byte(`{"regs":9,"inputs":[{"reg":1,"kind":"sync"}],"ops":[{"do":"skip","a":18446744073709151619}]}`))
	f.Add([]byte(`{"regs":9223372036847575807,"target":9223372036854775807,"inputs":[{"reg":1,"kind":"sync"}]}`))
	f.Add([]byte(`{"regs":2,"inputs":[{"reg":1,"kind":"sync"}],"ops":[{"do":"ifopen","dir":1,"a":1},{"do":"exit","a":3}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p plan.Program
		if json.Unmarshal(data, &p) != nil {
			return
		}
		img, err := lower(&p, fileID{}, len(data)%2 == 0)
		if err != nil {
			return
		}
		img.keepOnly([]int{1})
		verify(t, img)
	})
}

// FuzzConfig: what is compiled of a config is laid out, and safe to run.
func FuzzConfig(f *testing.F) {
	for _, name := range seeds(f) {
		f.Add(readSeed(f, name))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := spec.Decode(data)
		if err != nil {
			return
		}
		for _, p := range compiled(t, "", s) {
			if img, err := lower(p, fileID{}, true); err == nil {
				verify(t, img)
			}
		}
	})
}

func seeds(tb testing.TB) []string {
	tb.Helper()
	names, err := filepath.Glob("../plan/testdata/*.json")
	if err != nil || len(names) == 0 {
		tb.Fatal("no configs to start from", err)
	}
	return names
}

func readSeed(tb testing.TB, name string) []byte {
	tb.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// compiled are the programs of a config, on a host of everything. Those of a seed
// must be there.
func compiled(tb testing.TB, seed string, s *specs.Spec) (list []*plan.Program) {
	tb.Helper()
	h := plan.Host{Kernel: [2]int{6, 18}, Arch: "SCMP_ARCH_X86_64", Capabilities: 1<<41 - 1, AppArmor: true, SELinux: true, CgroupV2: true}
	process := s.Process
	for _, compile := range []func() (*plan.Program, error){
		func() (*plan.Program, error) {
			return plan.Create(s, h, plan.Config{ID: "f", Bundle: "/b", ExtraFiles: 2})
		},
		func() (*plan.Program, error) { return plan.Exec(s, process, h, plan.Config{ID: "f", Bundle: "/b"}) },
	} {
		p, err := compile()
		if err == nil {
			list = append(list, p)
		} else if seed != "" {
			tb.Fatalf("%s: %v", seed, err)
		}
	}
	return list
}

// verify checks every instruction of an image: registers, jumps and addresses
// are the image's own, and what addresses need to have behind them is there.
func verify(t *testing.T, m *image) {
	t.Helper()
	base := uintptr(unsafe.Pointer(unsafe.SliceData(m.mem)))
	end := base + uintptr(len(m.mem))
	pointers := map[ptrArg]bool{}
	for _, p := range m.ptrArgs {
		pointers[p] = true
		if a := m.code[p.instr].args[p.arg]; a < base || a > end {
			t.Fatalf("instruction %d: argument %d points out of the image", p.instr, p.arg)
		}
	}
	for _, off := range m.relocs {
		if off < 0 || off+8 > len(m.mem) {
			t.Fatalf("relocation at %d of %d bytes", off, len(m.mem))
		}
		if a := uintptr(*(*uint64)(unsafe.Pointer(&m.mem[off]))); a < base || a > end {
			t.Fatalf("word at %d points out of the image", off)
		}
	}
	if m.report < 0 || m.report+msgHeader+msgText > len(m.mem) {
		t.Fatal("no room for messages")
	}
	for i := range m.code {
		in := &m.code[i]
		fits := func(arg int, n uintptr) {
			if !pointers[ptrArg{i, arg}] || in.args[arg]+n > end {
				t.Fatalf("instruction %d (%s): argument %d has not %d bytes behind it", i, callName(int(in.code)), arg, n)
			}
		}
		jump := func(to uintptr) {
			if to > uintptr(len(m.code)) {
				t.Fatalf("instruction %d (%s): jumps to %d of %d", i, callName(int(in.code)), to, len(m.code))
			}
		}
		if int(in.out) >= len(m.regs) || int(in.text)+int(in.textLen) > len(m.mem) {
			t.Fatalf("instruction %d (%s): register %d of %d, text %d+%d of %d", i, callName(int(in.code)), in.out, len(m.regs), in.text, in.textLen, len(m.mem))
		}
		for k, a := range in.args {
			if in.isReg&(1<<k) != 0 && a >= uintptr(len(m.regs)) {
				t.Fatalf("instruction %d (%s): register %d of %d", i, callName(int(in.code)), a, len(m.regs))
			}
		}
		jump(uintptr(in.jump))
		switch in.code {
		case pJump:
			jump(in.args[0])
		case pIfOpen, pIfEmpty:
			jump(in.args[1])
		case pMakePath:
			fits(1, 1)
			fits(5, pathSize)
		case pSignals:
			fits(0, 32)
		case pStore:
			fits(1, 4)
		case pCheck:
			fits(0, in.args[1])
			if in.args[4] == checkJumpElse {
				jump(in.args[5])
			}
		case pLookup:
			fits(0, 8)
			fits(1, statxSize)
			fits(2, 16)
		case pHome:
			fits(0, homeSlot)
			fits(2, 1)
		case pFork:
			fits(0, unsafe.Sizeof(cloneArgs{}))
		case pHook:
			for k := range 3 {
				fits(k, 1)
			}
			fits(5, 14*8)
		case unix.SYS_OPENAT2:
			fits(1, 1)
			fits(2, openHowSize)
		case unix.SYS_STATX:
			fits(4, statxSize)
		case unix.SYS_FSTATFS:
			fits(1, 120)
		case unix.SYS_GETCWD:
			fits(0, in.args[1])
		case unix.SYS_WRITE:
			fits(1, in.args[2])
		case unix.SYS_MOUNT_SETATTR:
			fits(3, 32)
		case unix.SYS_PRLIMIT64:
			fits(2, 16)
		case unix.SYS_CAPSET:
			fits(0, 8)
			fits(1, 24)
		case unix.SYS_SETGROUPS:
			fits(1, 4*in.args[0])
		case unix.SYS_SECCOMP:
			fits(2, 16)
		case unix.SYS_SENDMSG:
			fits(1, 56)
		case unix.SYS_SCHED_SETATTR:
			fits(1, 48)
		case unix.SYS_SCHED_SETAFFINITY:
			fits(2, in.args[1])
		case unix.SYS_SET_MEMPOLICY:
			fits(1, (in.args[2]-1+7)/8)
		}
	}
}
