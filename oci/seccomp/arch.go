package seccomp

import (
	"sort"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

//go:generate go run gen_table.go

// row is one system call: its name and its number on each architecture.
type row struct {
	name string
	nr   [archCount]int32
}

// The columns of table.
const (
	archX86_64 = iota
	archX86
	archX32
	archARM64
	archARM
	archCount
)

// x32Bit marks x32's calls, which share AUDIT_ARCH_X86_64 (asm/unistd.h).
const x32Bit = 0x40000000

// armPrivate is where 32-bit ARM's own calls start (__ARM_NR_BASE).
const armPrivate = 0x0f0000

// Calls are kept by slot, which is the number, but for ARM's own at the end.
const (
	privateSlot = 1000
	slots       = privateSlot + 8
)

func slotOf(nr int32) int {
	if nr >= armPrivate {
		return int(nr) - armPrivate + privateSlot
	}
	return int(nr)
}

func numberOf(slot int) uint32 {
	if slot >= privateSlot {
		return uint32(slot - privateSlot + armPrivate)
	}
	return uint32(slot)
}

// architecture is one of the ways into the kernel.
type architecture struct {
	column int
	audit  uint32 // AUDIT_ARCH_*, linux/audit.h
	narrow bool   // arguments are 32 bits wide
	multi  bool   // has socketcall and ipc, one call for many
}

func architectureOf(arch specs.Arch) (architecture, bool) {
	switch arch {
	case specs.ArchX86_64:
		return architecture{column: archX86_64, audit: 0xc000003e}, true
	case specs.ArchX86:
		return architecture{column: archX86, audit: 0x40000003, narrow: true, multi: true}, true
	case specs.ArchX32:
		return architecture{column: archX32, audit: 0xc000003e, narrow: true}, true
	case specs.ArchAARCH64:
		return architecture{column: archARM64, audit: 0xc00000b7}, true
	case specs.ArchARM:
		return architecture{column: archARM, audit: 0x40000028, narrow: true}, true
	}
	return architecture{}, false
}

// family lists the architectures whose calls a kernel takes, its own first.
func family(native specs.Arch) []specs.Arch {
	switch native {
	case specs.ArchX86_64:
		return []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case specs.ArchAARCH64:
		return []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	return nil
}

// foreign are the specification's other architectures: they may be listed and
// mean nothing here, since no call of theirs reaches this kernel.
var foreign = []specs.Arch{
	specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64,
	specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390,
	specs.ArchS390X, specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64,
	specs.ArchM68K, specs.ArchSH, specs.ArchSHEB,
}

// lookup finds a system call by name.
func lookup(name string) (*row, bool) {
	i := sort.Search(len(table), func(i int) bool { return table[i].name >= name })
	if i == len(table) || table[i].name != name {
		return nil, false
	}
	return &table[i], true
}

// multiplexed are the calls that 32-bit x86 can also, or only, make as a
// function of socketcall or ipc, which its first argument selects (linux/net.h,
// linux/ipc.h). Sorted by name.
var multiplexed = [...]struct {
	name, call string
	function   uint64
}{
	{"accept", "socketcall", 5},
	{"accept4", "socketcall", 18},
	{"bind", "socketcall", 2},
	{"connect", "socketcall", 3},
	{"getpeername", "socketcall", 7},
	{"getsockname", "socketcall", 6},
	{"getsockopt", "socketcall", 15},
	{"listen", "socketcall", 4},
	{"msgctl", "ipc", 14},
	{"msgget", "ipc", 13},
	{"msgrcv", "ipc", 12},
	{"msgsnd", "ipc", 11},
	{"recv", "socketcall", 10},
	{"recvfrom", "socketcall", 12},
	{"recvmmsg", "socketcall", 19},
	{"recvmsg", "socketcall", 17},
	{"semctl", "ipc", 3},
	{"semget", "ipc", 2},
	{"semop", "ipc", 1},
	{"semtimedop", "ipc", 4},
	{"send", "socketcall", 9},
	{"sendmmsg", "socketcall", 20},
	{"sendmsg", "socketcall", 16},
	{"sendto", "socketcall", 11},
	{"setsockopt", "socketcall", 14},
	{"shmat", "ipc", 21},
	{"shmctl", "ipc", 24},
	{"shmdt", "ipc", 22},
	{"shmget", "ipc", 23},
	{"shutdown", "socketcall", 13},
	{"socket", "socketcall", 1},
	{"socketpair", "socketcall", 8},
}

// Known says whether any of the architectures here has a system call of that name.
// Compile skips the names that none has.
func Known(name string) bool {
	_, ok := lookup(name)
	return ok
}
