package launch

import (
	"encoding/binary"
	"slices"
	"strconv"
	"unsafe"

	"github.com/strake-containers/strake/oci/plan"
)

// What is asked for again and again, such as the exec of a probe, is the same program
// each time. Keep lays it out once more, as a file for the container's state directory;
// OpenKept and Kept.Run (kept_run.go) run it from there, without decoding, compiling,
// lowering or Go's runtime (docs/adr/0045). The file is mapped where its addresses are
// right, private and writable: nobody else sees what its registers become.

// keptBase is where that is: above a program's own file, below Go's heap, on every
// 64-bit Linux.
const keptBase = 1 << 36

// maxKept bounds the size of the file, in bytes.
const maxKept = 1 << 20

// keptSlots is how many programs a container has kept at most.
const keptSlots = 4

// KeptName is the file for the program that a request, as KeepOptions has it, is for. An
// older one for another request may be there.
func KeptName(request string) string { return keptPrefix + strconv.Itoa(int(KeptSlot(request))) }

// KeptNames are all names of such files.
func KeptNames() (names [keptSlots]string) {
	for i := range names {
		names[i] = keptPrefix + strconv.Itoa(i)
	}
	return names
}

const keptPrefix = "exec."

// KeptSlot is the number at the end of KeptName, one digit. It needs no Go runtime.
func KeptSlot(request string) byte {
	// FNV-1a, 32 bits (draft-eastlake-fnv)
	const offset, prime = 2166136261, 16777619
	h := uint32(offset)
	for i := range len(request) {
		h = (h ^ uint32(request[i])) * prime
	}
	return byte(h % keptSlots)
}

// Kept is the beginning of the file. Offsets are from there.
type Kept struct {
	magic, size uint64
	caller      caller

	request, requestLen uint64
	cgroup              uint64 // path of the directory of a cgroup v2 to be born in; 0 none
	inputs, ninputs     uint64
	stub, stubLen       uint64 // 0: the program is for a process that is sealed

	code, ncode, closing    uint64
	regs                    uint64
	mem, report             uint64
	execAt, forkAt          uint64
	siblingPid              uint64 // where the address goes that the kernel is to put that to
	cloneFlags              uint64
	stubReg, syncReg, after uint64 // after: what is used late must be above this descriptor
}

const keptMagic = 0x3154_5045_4b4b_5453 // "STKKEPT1", and the byte order

// caller is what a program was compiled by and for. Any other needs another program.
type caller struct {
	device, inode, size  uint64 // of our own program's file
	changed, changedNano uint64
	userNS               uint64
	capabilities         uint64
	noFileSoft, noFile   uint64 // limits of open files; 0 if the soft one is no less
}

// keptInput is a descriptor that the program starts with.
type keptInput struct {
	kind, reg uint64
	path      uint64 // offset
}

// Kinds of keptInput.
const (
	keptSync = iota
	keptProc
	keptCgroup // path
	keptPidfd
	keptRoot
	keptStdio // and 1, 2: the descriptor
)

// KeepOptions say what a program is kept for.
type KeepOptions struct {
	// Request is all that was asked for that it depends on, but for the container: a
	// program is run again for the same request only.
	Request string
	// CgroupDir is the directory of the cgroup v2 that the process was born in, or "".
	CgroupDir string
	// NoFile is the limit of open files that the program was compiled for, as in plan.Host.
	NoFile plan.Limit
}

// Keep returns the file of a program that a Run has just started with p. It is nil for
// one that takes more of its parent than descriptors and its way into the PID namespace
// of a container: a terminal, hooks, a seccomp listener, a user namespace.
func Keep(p *Prepared, prog *plan.Program, o KeepOptions) []byte {
	m := p.img
	if prog.PidNS != 0 || prog.CloneFlags != 0 || prog.UIDMap != "" || len(prog.Warnings) > 0 {
		return nil
	}
	for i := range prog.Ops {
		switch prog.Ops[i].Do {
		case plan.OpSync, plan.OpSendFD, plan.OpListener, plan.OpGate, plan.OpHook, plan.OpPty, plan.OpPause:
			return nil
		}
	}
	k := Kept{magic: keptMagic, closing: uint64(m.closing), report: uint64(m.report), execAt: uint64(m.execAt), forkAt: uint64(m.forkAt),
		stubReg: uint64(m.stub), after: uint64(prog.Target)}
	if !k.caller.learn() {
		return nil
	}
	k.caller.noFileSoft, k.caller.noFile = o.NoFile.Soft, o.NoFile.Hard

	const rest = 8 << 10 // paths, the stub, registers
	file := make([]byte, unsafe.Sizeof(k), int(unsafe.Sizeof(k))+len(o.Request)+len(m.mem)+len(bytesOf(m.code))+rest)
	place := func(data []byte) uint64 {
		const alignment = 64
		for len(file)%alignment != 0 {
			file = append(file, 0)
		}
		at := len(file)
		file = append(file, data...)
		return uint64(at)
	}
	text := func(s string) uint64 {
		at := place(nil)
		file = append(append(file, s...), 0)
		return at
	}
	k.request, k.requestLen = text(o.Request), uint64(len(o.Request))
	if o.CgroupDir != "" {
		k.cgroup = text(o.CgroupDir)
	}
	var inputs []keptInput
	for _, in := range prog.Inputs {
		i := keptInput{reg: uint64(in.Reg)}
		switch in.Kind {
		case plan.InSync:
			i.kind, k.syncReg = keptSync, i.reg
		case plan.InProc:
			i.kind = keptProc
		case plan.InCgroup:
			i.kind, i.path = keptCgroup, text(in.Path)
		case plan.InPidfd:
			i.kind = keptPidfd
		case plan.InRoot:
			i.kind = keptRoot
		case plan.InStdin, plan.InStdout, plan.InStderr:
			i.kind = keptStdio + uint64(slices.Index([]string{plan.InStdin, plan.InStdout, plan.InStderr}, in.Kind))
		default:
			return nil
		}
		inputs = append(inputs, i)
	}
	if len(inputs) > keptInputs {
		return nil
	}
	k.inputs, k.ninputs = place(bytesOf(inputs)), uint64(len(inputs))
	if m.stub != 0 {
		stub := stubImage(prog.Target, m.execAt, prog.Ops[len(prog.Ops)-1].Args[0])
		k.stub, k.stubLen = place(stub), uint64(len(stub))
	}

	// The program, with the addresses that it will have.
	k.mem = place(m.mem)
	moved := keptBase + k.mem - uint64(uintptr(unsafe.Pointer(unsafe.SliceData(m.mem))))
	for _, off := range m.relocs {
		at := file[k.mem+uint64(off):]
		binary.NativeEndian.PutUint64(at, binary.NativeEndian.Uint64(at)+moved)
	}
	k.code, k.ncode = place(bytesOf(m.code)), uint64(len(m.code))
	code := unsafe.Slice((*instr)(unsafe.Pointer(&file[k.code])), len(m.code))
	for _, p := range m.ptrArgs {
		code[p.instr].args[p.arg] += uintptr(moved)
	}
	for i := m.closing; i < m.closing+len(prog.Inputs)+2; i++ {
		code[i].code = pNothing
	}
	regs := make([]int64, len(m.regs))
	for i := range regs {
		regs[i] = -1
	}
	if m.forkAt != 0 {
		k.siblingPid = k.mem + uint64(m.forkArgs) + parentTID
	}
	k.regs = place(bytesOf(regs))
	k.size = uint64(len(file))
	if len(file) > maxKept {
		return nil
	}
	copy(file, bytesOf([]Kept{k}))
	return file
}

// bytesOf is what a slice of plain values has in memory.
func bytesOf[T any](s []T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(s))), uintptr(len(s))*unsafe.Sizeof(s[0]))
}
