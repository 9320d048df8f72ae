package launch

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memory is what the child gets of this process's heap: the program, and the part of
// the stack that it runs on. The rest is kept from it (madvise(2), MADV_DONTFORK): the
// kernel need not copy its page tables, neither process pays for a copy of a page that
// the other one writes to, and a child that works in a container's namespaces holds
// nothing of what this process knows (docs/adr/0021).
//
// It is advice: where it does not fit Go's heap, or the kernel does not take it, the
// child gets everything, as from any fork. TestChildHasNoHeap says so then.
type memory struct {
	arenas [5]uintptr // of Go's heap, by their addresses; 0 none
	needed [5]span    // what the child gets of them
}

// span is a piece of memory, of whole pages.
type span struct{ start, size uintptr }

const (
	// arenaSize is the size and alignment of the pieces that Go's heap consists of
	// (runtime/malloc.go, heapArenaBytes of 64-bit Linux).
	arenaSize = 64 << 20
	// stackRoom is more than the frames of nosplit functions may take.
	stackRoom = 4 << 10
)

var pageSize = uintptr(os.Getpagesize())

// add has the child get a piece of memory.
//
//go:nosplit
//go:norace
func (m *memory) add(i int, start, size uintptr) {
	end := (start + size + pageSize - 1) &^ (pageSize - 1)
	start &^= pageSize - 1
	m.needed[i] = span{start, end - start}
	arena := start &^ (arenaSize - 1)
	for k := range i {
		if m.arenas[k] == arena {
			return
		}
	}
	m.arenas[i] = arena
}

// stack has the child get the arguments of fork, which end with the frame that it
// continues in, and room below them. The stack must not move any more.
//
//go:nosplit
//go:norace
func (m *memory) stack(args, size uintptr) {
	var here byte
	sp := uintptr(unsafe.Pointer(&here))
	m.add(3, sp-stackRoom, 2*stackRoom)
	m.add(4, args, size)
}

// hide keeps the heap from a child, but for what it needs.
//
//go:nosplit
//go:norace
func (m *memory) hide() {
	for i := 0; i < len(m.arenas); i++ {
		if m.arenas[i] != 0 {
			// ENOMEM: some of it is not mapped.
			_, _, _ = syscall.RawSyscall(unix.SYS_MADVISE, m.arenas[i], arenaSize, unix.MADV_DONTFORK)
		}
	}
	for i := 0; i < len(m.needed); i++ {
		_, _, errno := syscall.RawSyscall(unix.SYS_MADVISE, m.needed[i].start, m.needed[i].size, unix.MADV_DOFORK)
		if errno != 0 { // ENOMEM: this process has as many mappings as it may have
			m.show()
			return
		}
	}
}

// show undoes hide.
//
//go:nosplit
//go:norace
func (m *memory) show() {
	for i := 0; i < len(m.arenas); i++ {
		if m.arenas[i] != 0 {
			_, _, _ = syscall.RawSyscall(unix.SYS_MADVISE, m.arenas[i], arenaSize, unix.MADV_DOFORK)
		}
	}
}
