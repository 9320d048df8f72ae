package launch

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is what the child gets of this process's memory beside its code: the program that it
// runs, and the part of the stack that it runs on. The rest, Go's heap, what its runtime keeps
// beside that, and variables, is kept from it (madvise(2), MADV_DONTFORK): the
// kernel need not copy its page tables, neither process pays for a copy of a page that
// the other one writes to, and a child that works in a container's namespaces holds
// nothing of what this process knows (docs/adr/0021).
//
// It is advice: where the kernel does not take it, or what is to be hidden is elsewhere, the
// child gets that, as from any fork. TestChildHasNoHeap says so then.
type memory struct {
	needed [6]span
}

// span is a piece of memory, of whole pages.
type span struct{ start, size uintptr }

// spanOf is the pages from start on, to end.
//
//go:nosplit
//go:norace
func spanOf(start, end uintptr) span {
	start &^= pageSize - 1
	return span{start, (end+pageSize-1)&^(pageSize-1) - start}
}

// stackRoom is more than the frames of nosplit functions may take.
const stackRoom = 4 << 10

var (
	pageSize = uintptr(os.Getpagesize())
	// hidden is what the child does not get, if it is not needed.
	hidden = findHidden()
)

// programHeader is Elf64_Phdr of elf(5).
type programHeader struct {
	kind, flags                                             uint32
	offset, address, physical, fileSize, memorySize, align_ uintptr
}

const (
	atPhdr, atPhnum, atRandom = 3, 5, 25 // of getauxval(3)
	ptLoad, ptPhdr, pfW       = 1, 6, 2  // of elf(5)

	// stackGap is what the kernel keeps free below a process's first stack, and more
	// (mmap_base in its mm/util.c). Mappings without an address are below.
	stackGap = 128 << 20
)

// findHidden finds, first, where variables are, and then all that is between them and the
// process's first stack: the heap and what was mapped without an address. In a program that is
// linked as position-independent the heap may lie below; it is not hidden then.
func findHidden() (all [2]span) {
	var headers unsafe.Pointer
	var count int
	var stack uintptr
	vector, _ := unix.Auxv() // without it headers are not found
	for i, v := range vector {
		switch v[0] {
		case atPhdr:
			headers = *(*unsafe.Pointer)(unsafe.Pointer(&vector[i][1]))
		case atPhnum:
			count = int(v[1])
		case atRandom:
			stack = v[1] // execve(2) puts it there
		}
	}
	if headers == nil {
		return all
	}
	var moved uintptr // from where it was linked to
	for _, h := range unsafe.Slice((*programHeader)(headers), count) {
		switch {
		case h.kind == ptPhdr:
			moved = uintptr(headers) - h.address
		case h.kind == ptLoad && h.flags&pfW != 0:
			end := moved + h.address + h.memorySize
			all[0] = spanOf(moved+h.address, end)
			if stack > end+stackGap {
				all[1] = spanOf(all[0].start+all[0].size, stack-stackGap)
			}
		}
	}
	return all
}

// add has the child get a piece of memory.
//
//go:nosplit
//go:norace
func (m *memory) add(i int, start, size uintptr) {
	m.needed[i] = spanOf(start, start+size)
}

// stack has the child get the arguments of fork, which end with the frame that it
// continues in, and room below them. The stack must not move any more.
//
//go:nosplit
//go:norace
func (m *memory) stack(args, size uintptr) {
	var here byte
	sp := uintptr(unsafe.Pointer(&here))
	m.add(4, sp-stackRoom, 2*stackRoom)
	m.add(5, args, size)
}

// hide keeps all from a child but what it needs.
//
//go:nosplit
//go:norace
func (m *memory) hide() {
	m.advise(unix.MADV_DONTFORK)
	for i := 0; i < len(m.needed); i++ {
		_, _, errno := syscall.RawSyscall(unix.SYS_MADVISE, m.needed[i].start, m.needed[i].size, unix.MADV_DOFORK)
		if errno != 0 { // ENOMEM: this process has as many mappings as it may have
			m.show()
			return
		}
	}
}

// show undoes hide. Where the vDSO's data lies in between (arm64) the kernel ends there
// (EINVAL): what is above was mapped before it, by execve.
//
//go:nosplit
//go:norace
func (m *memory) show() { m.advise(unix.MADV_DOFORK) }

//go:nosplit
//go:norace
func (m *memory) advise(advice uintptr) {
	for i := 0; i < len(hidden); i++ {
		// ENOMEM: some of it is not mapped.
		_, _, _ = syscall.RawSyscall(unix.SYS_MADVISE, hidden[i].start, hidden[i].size, advice)
	}
}
