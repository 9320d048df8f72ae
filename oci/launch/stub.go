package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/oci/plan"
)

// The stub is the program that a container's process executes before its own,
// unless our program is sealed (seal.go). It is a static ELF file of one page,
// made anew for each process in a sealed memfd, and does three things: it has
// the report descriptor close on exec, executes the container's program, and
// reports why that is not possible.
//
// While the kernel resolves what the container's program is, /proc/self/exe is
// then the stub: "#!/proc/self/exe", or an ELF interpreter of that name, have a
// throwaway executed inside the container, which nobody can write to and nobody
// misses, and not our program (CVE-2019-5736). docs/adr/0014 says more.
//
// Everything that makes the process a container's has been done by then: it has
// its identity, capabilities and filter, so that whoever may ptrace it while it
// executes the stub gains nothing. What must come after our last execve but one,
// the label of a security module, therefore needs the seal.

// stub is the stub's code (stub_*.s), of which stubText is the address. It is
// never called here.
func stub()

func stubText() *[stubSize - stubCode]byte

// The layout of the file, and so of the one segment that it is mapped as.
const (
	stubBase   = 0x400000 // where it is mapped
	stubParams = 0xc0     // report descriptor, length of the message, message: 64-bit words, then bytes
	stubCode   = 0x200
	stubSize   = stubCode + 0x100
)

var _ = stub // by its address only

// stubImage returns the stub for a process that reports to descriptor report,
// in the name of instruction execAt, that it cannot execute the program name.
func stubImage(report, execAt int, name string) []byte {
	const (
		headers     = 64 + 2*56
		segmentFlag = 5 // PF_R | PF_X
		align       = 0x10000
	)
	text := execName(name)
	text = text[:min(len(text), msgText)]
	b := make([]byte, 0, stubSize)
	le := binary.LittleEndian
	words := func(w ...uint64) {
		for _, v := range w {
			b = le.AppendUint64(b, v)
		}
	}
	half := func(h ...uint16) {
		for _, v := range h {
			b = le.AppendUint16(b, v)
		}
	}
	// elf(5): Elf64_Ehdr
	b = append(b, "\x7fELF\x02\x01\x01"...)
	b = append(b, make([]byte, 9)...)
	half(2, elfMachine) // ET_EXEC
	b = le.AppendUint32(b, 1)
	words(stubBase+stubCode, 64, 0)
	b = le.AppendUint32(b, 0)
	half(64, 56, 2, 0, 0, 0)
	// Elf64_Phdr: PT_LOAD of the whole file, and PT_GNU_STACK that is not executable
	words(1|segmentFlag<<32, 0, stubBase, stubBase, stubSize, stubSize, align)
	words(0x6474e551|6<<32, 0, 0, 0, 0, 0, 16)
	b = append(b, make([]byte, stubParams-headers)...)

	words(uint64(report), uint64(msgHeader+len(text)))
	b = le.AppendUint32(b, msgError)
	b = le.AppendUint32(b, uint32(execAt))
	words(0) // the errno goes here
	b = append(b, text...)

	b = append(b, make([]byte, stubCode-len(b))...)
	// What follows the code in our own text is copied too, and not executed.
	return append(b, stubText()[:]...)
}

// newStub puts a stub into a file in memory that nobody can change. ErrUnsealed
// if this system lets nobody execute such files.
func newStub(image []byte) (*os.File, error) {
	const name, flags = "strake-stub", unix.MFD_CLOEXEC | unix.MFD_ALLOW_SEALING
	fd, err := unix.MemfdCreate(name, flags|unix.MFD_EXEC)
	if err == unix.EINVAL { // before Linux 6.3 all can be executed
		fd, err = unix.MemfdCreate(name, flags)
	}
	if err == unix.EACCES {
		return nil, fmt.Errorf("memfd_create: %w: sysctl vm.memfd_noexec is 2: %w", err, ErrUnsealed)
	}
	if err != nil {
		return nil, fmt.Errorf("memfd_create: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = unix.Write(fd, image)
	if err == nil {
		_, err = unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("stub: %w", err), f.Close())
	}
	return f, nil
}

// ErrUnsealed is a program that takes more than the stub to keep our own program
// out of the container's reach. The caller executes itself again with Seal.
var ErrUnsealed = errors.New("the own program is not sealed")

// sealed says whether our own program's file is on a read-only mount.
var sealed = sync.OnceValues(func() (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs("/proc/self/exe", &fs); err != nil {
		return false, fmt.Errorf("statfs /proc/self/exe: %w", err)
	}
	return fs.Flags&unix.ST_RDONLY != 0, nil
})

// wantsStub says whether a program's process is to execute the stub first.
func wantsStub(p *plan.Program) (bool, error) {
	if len(p.Ops) == 0 || p.Ops[len(p.Ops)-1].Do != plan.OpExec {
		return false, nil
	}
	safe, err := sealed()
	if err != nil || safe {
		return false, err
	}
	if p.Seal != "" {
		return false, fmt.Errorf("%s: %w", p.Seal, ErrUnsealed)
	}
	return true, nil
}
