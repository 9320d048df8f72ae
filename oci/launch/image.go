// Package launch makes the processes of containers: it forks, and the child runs
// a plan.Program with raw system calls and nothing else.
//
// Between fork and execve the child has one thread, a copy of the Go heap that
// nobody collects, and locks that nobody will ever release. So it must not
// allocate, grow its stack, take a lock, call through an interface, store a
// pointer or index anything that the compiler checks. Its functions are nosplit (no
// growth) and norace (no instrumentation), and call each other and bare system
// calls only, which a test looks up in the compiled code. The work is therefore
// split:
//
//	lower*.go     parent: operations → instructions, all memory laid out (image)
//	fork.go       parent and child: the clone itself
//	executor*.go  child: the loop over the instructions
//	launch.go     parent: the conversation with the child, errors, undo
//	kill.go       whoever starts or ends a process later
//	stub*         what the process executes before its program
//	kept*         a program that is kept for later, and its parent without Go's runtime
//
// An instruction is one system call with constants, addresses and registers as
// arguments, or one of a few pseudo instructions (jumps, checks of a result,
// search in $PATH).
//
// The program is never reached by way of our own: see stub.go.
//
// This is the only package that clones and, with internal/sys, the only one that
// is unsafe. It decides nothing: what is done and in which order is plan's.
package launch

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
	"unsafe"
)

// instr is one instruction. It holds no Go pointers: the child may not run
// write barriers, and addresses stay valid because image keeps the memory.
type instr struct {
	code  uint16   // number of a system call, or one of the pseudo codes
	op    uint16   // index of the operation that it belongs to
	out   uint8    // register for the result, 0 none
	flags uint8    // flag…
	isReg uint8    // bit i: args[i] is a register's number
	allow [4]uint8 // tolerated errors
	jump  uint16   // where to go after a tolerated error; 0 is the next
	args  [6]uintptr

	// text names the instruction for a reader who has no Program: the start of
	// a container, when its creator is gone. Offset and length in image.mem.
	text    uint32
	textLen uint32
}

const (
	flagWarn  = 1 << iota // tell the parent about tolerated errors
	flagFsLog             // an error has a text that can be read from args[0]
)

// Pseudo instructions.
const (
	pNothing  = 0x8000 + iota
	pJump     // to args[0]
	pIfOpen   // to args[1] if register args[0] holds a descriptor
	pIfEmpty  // to args[1] if it does not
	pEmpty    // out = no descriptor
	pMove     // out = args[0]
	pLoad     // out = value at args[0] of size args[1], and-ed with args[2]
	pCopy     // see copyTree
	pMakePath // see makePath
	pOctal    // the permissions of a mode at args[0] as octal digits to args[1]
	pStore    // 32 bits of args[0] to address args[1]
	pStore64  // args[0] to address args[1]
	pCheck    // see checkMode
	pLookup   // see lookup
	pHome     // see home
	pReport   // from here on report to args[0]
	pReady    // tell the parent: waiting at the gate
	pSync     // tell the parent: step args[0]; wait for its answer
	pFork     // go on in a sibling: see forkSibling
	pHook     // see runHook
	pListen   // tell the parent that descriptor args[0] is a seccomp listener; wait for its answer
	pPause    // wait to be killed
	pSignals  // see resetSignals
	pAt       // tell the reader at the gate which step comes next
)

// Modes of pCheck: the value at args[0] of size args[1] bytes, and-ed with
// args[2], is compared with args[3].
const (
	checkEqual    = iota // unequal fails with errno args[5]
	checkDiffer          // equal fails with errno args[5]
	checkJumpElse        // unequal jumps to args[5]
)

// image is a program ready to run: every byte the child needs, at its address.
type image struct {
	code []instr
	mem  []byte
	regs []int64 // -1 is empty

	relocs   []int // offsets in mem of words that become addresses
	ptrArgs  []ptrArg
	closing  int // index of the first instruction for keepOnly
	first    int // index of the first instruction of an operation
	report   int // offset of the buffer for messages to the parent
	home     int // offset of the HOME= variable, 0 none
	execAt   int // index of the execve
	forkAt   int // index of the clone of a sibling, 0 none
	forkArgs int // offset of its clone3 arguments
	stub     int // register with the stub, 0 none
}

const homeSlot = 512 // bytes for HOME=…, NUL included

type ptrArg struct{ instr, arg int }

// A message is what the child tells the parent, or whoever starts it, in one
// packet: four 32-bit words, then text.
const (
	msgError    = 1 + iota // instruction, errno; text
	msgWarn                // instruction, errno
	msgSync                // instruction, step: the child waits for one byte
	msgFD                  // instruction, number; the descriptor comes along
	msgAt                  // instruction; text: the step that comes next
	msgReady               // waiting at the gate
	msgListener            // instruction, number of the child's descriptor; the child waits for one byte
	msgFork                // instruction; the pidfd of the sibling that goes on comes along

	msgHeader = 16
	msgText   = 256
)

func (m *image) align(n int) {
	for len(m.mem)%n != 0 {
		m.mem = append(m.mem, 0)
	}
}

// str lays out a NUL-terminated string and returns its offset.
func (m *image) str(s string) (int, error) {
	if strings.IndexByte(s, 0) >= 0 {
		return 0, fmt.Errorf("%q contains a NUL byte", s)
	}
	off := len(m.mem)
	m.mem = append(m.mem, s...)
	m.mem = append(m.mem, 0)
	return off, nil
}

// space lays out n zero bytes, aligned for any kernel structure.
func (m *image) space(n int) int {
	m.align(8)
	off := len(m.mem)
	m.mem = slices.Grow(m.mem, n)[:off+n] // what is behind the end is zero: nobody has been there
	return off
}

func (m *image) bytes(b []byte) int {
	off := m.space(len(b))
	copy(m.mem[off:], b)
	return off
}

// words lays out 64-bit words.
func (m *image) words(w ...uint64) int {
	off := m.space(8 * len(w))
	for i, v := range w {
		binary.NativeEndian.PutUint64(m.mem[off+8*i:], v)
	}
	return off
}

// pointers lays out a NULL-terminated array of addresses of strings.
func (m *image) pointers(list []string) (int, error) {
	offs := make([]uint64, 0, len(list)+1)
	for _, s := range list {
		o, err := m.str(s)
		if err != nil {
			return 0, err
		}
		offs = append(offs, uint64(o))
	}
	off := m.words(append(offs, 0)...)
	for i := range list {
		m.relocs = append(m.relocs, off+8*i)
	}
	return off, nil
}

// fix turns offsets into addresses. After it nothing may be laid out any more.
func (m *image) fix() {
	base := uintptr(unsafe.Pointer(unsafe.SliceData(m.mem)))
	for _, off := range m.relocs {
		v := binary.NativeEndian.Uint64(m.mem[off:])
		binary.NativeEndian.PutUint64(m.mem[off:], v+uint64(base))
	}
	for _, p := range m.ptrArgs {
		m.code[p.instr].args[p.arg] += base
	}
}
