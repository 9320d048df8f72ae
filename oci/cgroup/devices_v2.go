package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// The v2 device controller is an eBPF program of type cgroup_device attached to
// the directory. It gets struct bpf_cgroup_dev_ctx and answers 1 for yes.
//
// The program is small and without maps, so it is assembled here: a loader
// library would cost strake-runtime a third of its start-up time.

// Registers, instruction codes and offsets from linux/bpf.h.
const (
	r0, r1, r2, r3, r4, r5 = 0, 1, 2, 3, 4, 5

	opLoad32   = 0x61 // dst = *(u32 *)(src + off)
	opMove     = 0xbf // dst = src
	opMove32   = 0xb4 // dst = imm, 32 bits
	opAnd32    = 0x54 // dst &= imm, 32 bits
	opShift32  = 0x74 // dst >>= imm, 32 bits
	opJumpEq32 = 0x16 // if dst == imm goto off, 32 bits
	opJumpNe32 = 0x56 // if dst != imm goto off, 32 bits
	opExit     = 0x95

	ctxAccessType = 0 // access << 16 | type
	ctxMajor      = 4
	ctxMinor      = 8

	devBlock, devChar = 1, 2 // BPF_DEVCG_DEV_*
)

// assembler collects eBPF instructions in their wire form.
type assembler struct{ code []byte }

const insnSize = 8

func (a *assembler) emit(op, dst, src byte, off int16, imm int32) {
	a.code = append(a.code, op, src<<4|dst)
	a.code = binary.NativeEndian.AppendUint16(a.code, uint16(off))
	a.code = binary.NativeEndian.AppendUint32(a.code, uint32(imm))
}

// assemble returns the filter's program.
func (f deviceFilter) assemble() []byte {
	var a assembler
	a.emit(opLoad32, r2, r1, ctxAccessType, 0)
	a.emit(opMove, r3, r2, 0, 0)
	a.emit(opAnd32, r2, 0, 0, 0xffff) // r2: block or char
	a.emit(opShift32, r3, 0, 0, 16)   // r3: access asked for
	a.emit(opLoad32, r4, r1, ctxMajor, 0)
	a.emit(opLoad32, r5, r1, ctxMinor, 0)
	for _, e := range f.exceptions {
		f.assembleException(&a, e)
	}
	a.answer(f.allow)
	return a.code
}

// assembleException answers if the exception fits and falls through otherwise.
func (f deviceFilter) assembleException(a *assembler, e exception) {
	var jumps []int // to the end of this exception
	unless := func(op byte, reg byte, imm int64) {
		jumps = append(jumps, len(a.code))
		a.emit(op, reg, 0, 0, int32(uint32(imm)))
	}
	kind := int64(devChar)
	if e.nodes.kind == 'b' {
		kind = devBlock
	}
	unless(opJumpNe32, r2, kind)
	if e.nodes.major != any64 {
		unless(opJumpNe32, r4, e.nodes.major)
	}
	if e.nodes.minor != any64 {
		unless(opJumpNe32, r5, e.nodes.minor)
	}
	if e.access != accessAll {
		a.emit(opMove, r1, r3, 0, 0)
		if f.allow { // denied if any of what is asked for is denied
			a.emit(opAnd32, r1, 0, 0, int32(e.access))
			unless(opJumpEq32, r1, 0)
		} else { // allowed if nothing else is asked for
			a.emit(opAnd32, r1, 0, 0, int32(accessAll&^e.access))
			unless(opJumpNe32, r1, 0)
		}
	}
	a.answer(!f.allow)
	for _, at := range jumps {
		off := (len(a.code)-at)/insnSize - 1
		binary.NativeEndian.PutUint16(a.code[at+2:], uint16(int16(off)))
	}
}

func (a *assembler) answer(yes bool) {
	value := int32(0)
	if yes {
		value = 1
	}
	a.emit(opMove32, r0, 0, 0, value)
	a.emit(opExit, 0, 0, 0, 0)
}

// attachDevices makes the filter the directory's only one. The new program is
// attached before the old one goes: for a moment both decide, never none.
func attachDevices(dir string, f deviceFilter, fresh bool) error {
	if fresh && f.allowsAll() {
		return nil // a new directory has no program
	}
	fd, err := openDir(dir)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	var old []uint32
	if !fresh {
		if old, err = sys.CgroupDevicePrograms(fd); err != nil {
			return fmt.Errorf("%s: list device programs: %w", dir, err)
		}
	}
	if !f.allowsAll() {
		prog, err := sys.LoadCgroupDeviceProgram(f.assemble())
		if err != nil {
			return fmt.Errorf("%s: load device program: %w", dir, err)
		}
		err = sys.AttachCgroupDevice(fd, prog)
		if err = errors.Join(err, syscall.Close(prog)); err != nil {
			return fmt.Errorf("%s: attach device program: %w", dir, err)
		}
	}
	for _, id := range old {
		if err := sys.DetachCgroupDevice(fd, id); err != nil {
			return fmt.Errorf("%s: detach device program %d: %w", dir, id, err)
		}
	}
	return nil
}
