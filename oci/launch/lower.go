package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/oci/plan"
)

// arg is one argument of an instruction.
type arg struct {
	v    uintptr
	kind argKind
}

type argKind uint8

const (
	argConst argKind = iota
	argReg
	argPtr // offset in image.mem
)

func num[T int | int32 | uint64 | uintptr](n T) arg { return arg{v: uintptr(n)} }
func ptr(off int) arg                               { return arg{uintptr(off), argPtr} }
func reg(r plan.Reg) arg                            { return arg{uintptr(r), argReg} }

// dir is a directory descriptor: register 0 is the working directory.
func dir(r plan.Reg) arg {
	if r == 0 {
		fd := abi.AtFDCWD
		return num(fd)
	}
	return reg(r)
}

// lowering turns a Program into an image.
type lowering struct {
	*image
	prog    *plan.Program
	cur     int   // index of the operation being lowered
	starts  []int // first instruction of each operation
	jumps   []jumpFix
	scratch plan.Reg // first register that is ours
	found   plan.Reg // what lookup found
	emptyP  int      // offset of ""
	paths   int      // offset of makePath's memory, 0 none
	allow   []int    // of the current operation
	gated   bool     // behind the gate: instructions carry text
}

// jumpFix is an argument that is to become the first instruction of an operation.
type jumpFix struct{ instr, arg, op int }

// errTooLarge is a program that does not fit the executor's fixed sizes.
var errTooLarge = errors.New("too large")

// lower lays out a program. self is the identity of our own executable, which
// no container may execute; viaStub has the process execute the stub first.
//
// Before all operations the child makes itself undumpable, so that nobody who
// shares a PID or user namespace with it can ptrace it, read its memory or reach
// what /proc/PID shows of it (CVE-2016-9962, CVE-2019-5736), and closes every
// descriptor that is not an input: keepOnly fills in the instructions for that.
func lower(p *plan.Program, self fileID, viaStub bool) (*image, error) {
	if len(p.Ops) > 0x3000 {
		return nil, fmt.Errorf("program of %d operations: %w", len(p.Ops), errTooLarge)
	}
	if err := checkRegisters(p); err != nil {
		return nil, err
	}
	const scratchRegs, most = 9, 255
	n := 1 + scratchRegs + p.Regs + p.Target
	if p.Regs < 0 || p.Target < 0 || p.Regs > most || p.Target > most || n > most {
		return nil, fmt.Errorf("program of %d registers and %d descriptors: %w", p.Regs, p.Target, errTooLarge)
	}
	// Room for what programs have: three instructions for two operations, one address and a
	// hundred bytes for each.
	l := &lowering{image: &image{mem: make([]byte, 0, 100*len(p.Ops)), code: make([]instr, 0, 2*len(p.Ops)), ptrArgs: make([]ptrArg, 0, 3*len(p.Ops)/2)},
		prog: p, jumps: make([]jumpFix, 0, len(p.Ops)/8), scratch: plan.Reg(p.Regs + 1)}
	l.found = l.scratch + 7
	if viaStub {
		l.stub = int(l.scratch) + 8
	}
	l.regs = make([]int64, n)
	for i := range l.regs {
		l.regs[i] = -1
	}
	l.report = l.space(msgHeader + msgText)
	l.emptyP, _ = l.str("")
	l.emit(unix.SYS_PRCTL, 0, num(abi.PrSetDumpable), num(0), num(0), num(0), num(0))
	l.closing = len(l.code)
	for range len(p.Inputs) + 2 { // at most one gap before each input and the stub, and one behind
		l.emit(pNothing, 0)
	}
	l.emit(pSignals, 0, ptr(l.space(32)))
	l.first = len(l.code)
	l.starts = make([]int, 0, len(p.Ops)+1)
	for i := range p.Ops {
		l.cur = i
		l.starts = append(l.starts, len(l.code))
		o := &p.Ops[i]
		l.allow = o.Allow
		if err := l.lowerOp(o, self); err != nil {
			return nil, fmt.Errorf("%s: %w", o.Where(), err)
		}
	}
	l.starts = append(l.starts, len(l.code))
	for _, j := range l.jumps { // checkRegisters has looked where they go
		l.code[j.instr].args[j.arg] = uintptr(l.starts[j.op])
	}
	if len(l.code) > 0x7fff {
		return nil, fmt.Errorf("program of %d instructions: %w", len(l.code), errTooLarge)
	}
	l.fix()
	return l.image, nil
}

// keepOnly has the child close every descriptor but those in keep (ascending). It needs
// no Go runtime.
func (m *image) keepOnly(keep []int) {
	i, next := m.closing, 0
	for _, fd := range keep {
		if fd > next {
			m.code[i].closeRange(uintptr(next), uintptr(fd-1))
			i++
		}
		next = fd + 1
	}
	m.code[i].closeRange(uintptr(next), uintptr(^uint32(0)))
}

func (in *instr) closeRange(first, last uintptr) {
	in.code, in.args = unix.SYS_CLOSE_RANGE, [6]uintptr{first, last}
}

// checkRegisters makes sure that a program, which may come from a file, touches
// no memory but its registers and goes nowhere but on.
func checkRegisters(p *plan.Program) error {
	bad := func(r plan.Reg) bool { return r < 0 || int(r) > p.Regs }
	if sync := p.Input(plan.InSync); sync == nil || sync.Reg == 0 {
		return errors.New("program has no register for the parent")
	}
	for i := range p.Inputs {
		if r := p.Inputs[i].Reg; bad(r) {
			return fmt.Errorf("%s: register %d of %d", p.Inputs[i].Field, r, p.Regs)
		}
	}
	for i := range p.Ops {
		o := &p.Ops[i]
		if r := plan.Reg(max(uint(o.Out), uint(o.Dir), uint(o.On))); bad(r) {
			return fmt.Errorf("%s: register %d of %d", o.Where(), r, p.Regs)
		}
		if slices.ContainsFunc(o.Regs, bad) {
			return fmt.Errorf("%s: registers %v of %d", o.Where(), o.Regs, p.Regs)
		}
		wrong := ""
		switch o.Do {
		case plan.OpStdio:
			if len(o.Regs) != p.Target {
				wrong = fmt.Sprintf("%d descriptors, %d announced", len(o.Regs), p.Target)
			}
		case plan.OpLookup, plan.OpExec, plan.OpHook:
			if len(o.Args) == 0 {
				wrong = "no arguments"
			}
		case plan.OpSkip, plan.OpIfOpen, plan.OpIsDir:
			if o.A > uint64(len(p.Ops)-i-1) {
				wrong = "jump behind the end"
			}
		case plan.OpMount:
			if len(o.Args) != 2 {
				wrong = "mount wants a type and options"
			}
		case plan.OpSetattr:
			if len(o.Nums) != 0 && len(o.Nums) != 2 {
				wrong = fmt.Sprintf("setattr wants two numbers for its second attempt, has %d", len(o.Nums))
			}
		}
		if wrong != "" {
			return fmt.Errorf("%s: %s", o.Where(), wrong)
		}
	}
	if bad(p.PidNS) {
		return fmt.Errorf("namespace: register %d of %d", p.PidNS, p.Regs)
	}
	return nil
}

// emit appends an instruction and returns its index.
func (l *lowering) emit(code int, out plan.Reg, args ...arg) int {
	in := instr{code: uint16(code), op: uint16(l.cur), out: uint8(out)}
	i := len(l.code)
	for k, a := range args {
		in.args[k] = a.v
		switch a.kind {
		case argReg:
			in.isReg |= 1 << k
		case argPtr:
			l.ptrArgs = append(l.ptrArgs, ptrArg{i, k})
		}
	}
	if l.gated {
		o := &l.prog.Ops[l.cur]
		text := o.Where() + ": " + callName(code)
		switch o.Do {
		case plan.OpExec:
			text = execName(o.Args[0])
		case plan.OpHook:
			text = o.Where() + ": " + o.Data
		}
		if len(text) > msgText {
			text = text[:msgText]
		}
		in.text, in.textLen = uint32(len(l.mem)), uint32(len(text))
		l.mem = append(l.mem, text...)
	}
	l.code = append(l.code, in)
	return i
}

// main emits the instruction whose errors the operation may allow.
func (l *lowering) main(code int, out plan.Reg, args ...arg) int {
	i := l.emit(code, out, args...)
	l.tolerate(i, l.allow...)
	if l.prog.Ops[l.cur].Warn {
		l.code[i].flags |= flagWarn
	}
	return i
}

func (l *lowering) tolerate(i int, errnos ...int) {
	for k, e := range errnos {
		if k < len(l.code[i].allow) {
			l.code[i].allow[k] = uint8(e)
		}
	}
}

// jumpHere makes instruction i, one that jumps with args[k], jump to what comes next.
func (l *lowering) jumpHere(i, k int) { l.code[i].args[k] = uintptr(len(l.code)) }

func (l *lowering) jumpOps(i, k, ops int) {
	l.jumps = append(l.jumps, jumpFix{i, k, l.cur + 1 + ops})
}

func openFlags(a uint64) uint64 {
	f := a&^uint64(plan.FlagDirectory|plan.FlagNofollow) | abi.OCloexec
	if a&plan.FlagDirectory != 0 {
		f |= unix.O_DIRECTORY
	}
	if a&plan.FlagNofollow != 0 {
		f |= unix.O_NOFOLLOW
	}
	return f
}

const openHowSize = 24

func (l *lowering) openat2(out plan.Reg, at arg, path int, flags, mode, resolve uint64) int {
	return l.emit(unix.SYS_OPENAT2, out, at, ptr(path), ptr(l.words(openFlags(flags), mode, resolve)), num(openHowSize))
}

// lowerOp emits the instructions of one operation.
func (l *lowering) lowerOp(o *plan.Op, self fileID) error {
	path, data := l.emptyP, l.emptyP
	var err error
	if o.Path != "" {
		if path, err = l.str(o.Path); err != nil {
			return err
		}
	}
	if o.Data != "" {
		if data, err = l.str(o.Data); err != nil {
			return err
		}
	}
	switch o.Do {
	case plan.OpOpen:
		l.main(unix.SYS_OPENAT2, o.Out, dir(o.Dir), ptr(path),
			ptr(l.words(openFlags(o.A), o.B, o.C)), num(openHowSize))
	case plan.OpMkpath:
		l.mkpath(o)
	case plan.OpMkdir:
		l.main(unix.SYS_MKDIRAT, 0, dir(o.Dir), ptr(path), num(o.A))
	case plan.OpSymlink:
		l.main(unix.SYS_SYMLINKAT, 0, ptr(data), dir(o.Dir), ptr(path))
	case plan.OpUnlink:
		l.main(unix.SYS_UNLINKAT, 0, dir(o.Dir), ptr(path), num(0))
	case plan.OpMknod:
		l.main(unix.SYS_MKNODAT, 0, dir(o.Dir), ptr(path), num(o.A), num(o.B))
	case plan.OpChown:
		l.main(unix.SYS_FCHOWNAT, 0, dir(o.Dir), ptr(path), num(o.A), num(o.B), num(abi.AtSymlinkNofollow))
	case plan.OpChmod:
		l.main(unix.SYS_FCHMODAT, 0, dir(o.Dir), ptr(path), num(o.A))
	case plan.OpClose:
		l.main(unix.SYS_CLOSE, 0, reg(o.Dir))
		l.emit(pEmpty, o.Dir)
	case plan.OpWrite:
		l.writeFile(o, path)
	case plan.OpIsDir:
		st := l.statx(reg(o.Dir))
		j := l.emit(pCheck, 0, ptr(st+statxMode), num(2), num(abi.SIFMT), num(abi.SIFDIR), num(checkJumpElse), num(0))
		l.jumpOps(j, 5, int(o.A))
	case plan.OpIfOpen:
		l.jumpOps(l.emit(pIfEmpty, 0, reg(o.Dir), num(0)), 1, int(o.A))
	case plan.OpSkip:
		l.jumpOps(l.emit(pJump, 0, num(0)), 0, int(o.A))
	case plan.OpCheckFS:
		buf := l.space(128)
		l.emit(unix.SYS_FSTATFS, 0, reg(o.Dir), ptr(buf))
		mode := uint64(checkEqual)
		if o.B != 0 {
			mode = checkDiffer
		}
		l.emit(pCheck, 0, ptr(buf), num(8), num(^uint64(0)), num(o.A), num(mode), num(int(unix.EPERM)))
	case plan.OpCheckDev:
		st := l.statx(reg(o.Dir))
		l.emit(pCheck, 0, ptr(st+statxMode), num(2), num(abi.SIFMT), num(o.A), num(checkEqual), num(int(unix.ENODEV)))
		dev := uint64(unix.Major(o.B)) | uint64(unix.Minor(o.B))<<32
		l.emit(pCheck, 0, ptr(st+statxRdev), num(8), num(^uint64(0)), num(dev), num(checkEqual), num(int(unix.ENODEV)))
	case plan.OpFsopen:
		l.main(unix.SYS_FSOPEN, o.Out, ptr(path), num(abi.FsopenCloexec))
	case plan.OpFsset:
		cmd, val := abi.FsconfigSetString, ptr(data)
		if o.A == 1 {
			cmd, val = abi.FsconfigSetFlag, num(0)
		}
		i := l.main(unix.SYS_FSCONFIG, 0, reg(o.Dir), num(cmd), ptr(path), val, num(0))
		l.code[i].flags |= flagFsLog
	case plan.OpFsmount:
		i := l.emit(unix.SYS_FSCONFIG, 0, reg(o.Dir), num(abi.FsconfigCreate), num(0), num(0), num(0))
		l.code[i].flags |= flagFsLog
		i = l.main(unix.SYS_FSMOUNT, o.Out, reg(o.Dir), num(abi.FsmountCloexec), num(o.A))
		l.code[i].flags |= flagFsLog
		l.emit(unix.SYS_CLOSE, 0, reg(o.Dir))
		l.emit(pEmpty, o.Dir)
	case plan.OpOpenTree:
		l.main(unix.SYS_OPEN_TREE, o.Out, dir(o.Dir), ptr(path), num(o.A|abi.OpenTreeCloexec))
	case plan.OpSetattr:
		attr := l.words(o.A, o.B, o.C, 0)
		if o.On != 0 {
			l.emit(pStore, 0, reg(o.On), ptr(attr+24))
		}
		i := l.main(unix.SYS_MOUNT_SETATTR, 0, dir(o.Dir), ptr(path), num(o.D), ptr(attr), num(32))
		if len(o.Nums) == 0 {
			return nil
		}
		l.tolerate(i, append(slices.Clone(l.allow), abi.EPERM)...)
		done := l.emit(pJump, 0, num(0))
		l.code[i].jump = uint16(len(l.code))
		l.main(unix.SYS_MOUNT_SETATTR, 0, dir(o.Dir), ptr(path), num(o.D), ptr(l.words(o.Nums[0], o.Nums[1], o.C, 0)), num(32))
		l.jumpHere(done, 0)
	case plan.OpFsmode:
		st := l.statx(reg(o.On))
		mode := l.space(8)
		l.emit(pOctal, 0, ptr(st+statxMode), ptr(mode))
		i := l.main(unix.SYS_FSCONFIG, 0, reg(o.Dir), num(abi.FsconfigSetString), ptr(l.mustStr("mode")), ptr(mode), num(0))
		l.code[i].flags |= flagFsLog
	case plan.OpCopyUp:
		l.copyUp(o)
	case plan.OpLabel:
		root := l.scratch
		l.openat2(root, reg(o.Dir), l.mustStr("."), plan.FlagDirectory, 0, 0)
		l.main(unix.SYS_FSETXATTR, 0, reg(root), ptr(l.mustStr("security.selinux")), ptr(data), num(len(o.Data)), num(0))
		l.emit(unix.SYS_CLOSE, 0, reg(root))
	case plan.OpMove:
		l.main(unix.SYS_MOVE_MOUNT, 0, reg(o.Dir), ptr(l.emptyP), dir(o.On), ptr(path),
			num(moveFlags(o)))
	case plan.OpMount:
		l.main(unix.SYS_MOUNT, 0, ptr(data), ptr(path), ptr(l.mustStr(o.Args[0])), num(o.A), ptr(l.mustStr(o.Args[1])))
	case plan.OpUmount:
		l.main(unix.SYS_UMOUNT2, 0, ptr(path), num(o.A))
	case plan.OpPivot:
		l.main(unix.SYS_PIVOT_ROOT, 0, ptr(l.mustStr(".")), ptr(l.mustStr(".")))
	case plan.OpChroot:
		l.main(unix.SYS_CHROOT, 0, ptr(l.mustStr(".")))
	case plan.OpChdir:
		l.main(unix.SYS_CHDIR, 0, ptr(path))
	case plan.OpFchdir:
		l.main(unix.SYS_FCHDIR, 0, reg(o.Dir))
	case plan.OpCheckCwd:
		buf := l.space(4096)
		l.emit(unix.SYS_GETCWD, 0, ptr(buf), num(4096))
		l.emit(pCheck, 0, ptr(buf), num(1), num(0xff), num('/'), num(checkEqual), num(int(unix.EXDEV)))
	case plan.OpUnshare:
		l.main(unix.SYS_UNSHARE, 0, num(o.A))
	case plan.OpSetns:
		i := l.main(unix.SYS_SETNS, 0, reg(o.Dir), num(o.A))
		l.emit(unix.SYS_CLOSE, 0, reg(o.Dir))
		l.emit(pEmpty, o.Dir)
		l.code[i].jump = uint16(len(l.code))
	case plan.OpFork:
		// The sibling's pidfd lands where the message carries it.
		msg, fd := l.message(msgFork, 0)
		// Its pid lands where the parent sees it (c.fork), whoever dies next.
		args := l.words(o.A|unix.CLONE_PARENT|unix.CLONE_PIDFD|unix.CLONE_PARENT_SETTID, uint64(fd), 0, 0, 0, 0, 0, 0, 0, 0, 0)
		l.relocs = append(l.relocs, args+8)
		l.forkArgs = args
		l.forkAt = l.emit(pFork, 0, ptr(args), num(88), ptr(msg))
	case plan.OpSync:
		l.emit(pSync, 0, num(o.A))
	case plan.OpLoopback:
		l.loopback()
	case plan.OpHostname:
		l.main(unix.SYS_SETHOSTNAME, 0, ptr(data), num(len(o.Data)))
	case plan.OpDomain:
		l.main(unix.SYS_SETDOMAINNAME, 0, ptr(data), num(len(o.Data)))
	case plan.OpPause:
		l.emit(pPause, 0)
	case plan.OpExit:
		l.emit(unix.SYS_EXIT_GROUP, 0, num(o.A))
	default:
		return l.lowerProcess(o, self)
	}
	return nil
}

// loopback sets the interface lo up.
func (l *lowering) loopback() {
	sock := l.scratch
	l.emit(unix.SYS_SOCKET, sock, num(unix.AF_INET), num(unix.SOCK_DGRAM|unix.SOCK_CLOEXEC), num(0))
	request := make([]byte, 40) // struct ifreq: the name, then the flags
	copy(request, "lo")
	binary.NativeEndian.PutUint16(request[unix.IFNAMSIZ:], unix.IFF_UP|unix.IFF_RUNNING)
	l.main(unix.SYS_IOCTL, 0, reg(sock), num(unix.SIOCSIFFLAGS), ptr(l.bytes(request)))
	l.emit(unix.SYS_CLOSE, 0, reg(sock))
}

func (l *lowering) mustStr(s string) int {
	off, err := l.str(s)
	if err != nil {
		return l.emptyP
	}
	return off
}

func moveFlags(o *plan.Op) int {
	if o.Path == "" {
		return abi.MoveMountFEmptyPath | abi.MoveMountTEmptyPath
	}
	return abi.MoveMountFEmptyPath
}

// Offsets in struct statx.
const (
	statxSize = 256
	statxMode = 28
	statxRdev = 128 // major and minor, 32 bits each
)

// statx emits a statx of a descriptor and returns the offset of its result.
func (l *lowering) statx(fd arg) int {
	buf := l.space(statxSize)
	l.emit(unix.SYS_STATX, 0, fd, ptr(l.emptyP), num(abi.AtEmptyPath), num(unix.STATX_BASIC_STATS), ptr(buf))
	return buf
}

// writeFile opens a file below a descriptor and writes to it in one call, as
// procfs and cgroupfs want it.
func (l *lowering) writeFile(o *plan.Op, path int) {
	if o.Path == "" {
		l.main(unix.SYS_WRITE, 0, reg(o.Dir), ptr(l.bytes([]byte(o.Data))), num(len(o.Data)))
		return
	}
	t := l.scratch
	i := l.main(unix.SYS_OPENAT2, t, dir(o.Dir), ptr(path), ptr(l.words(openFlags(o.A|abi.OWrOnly), 0, o.C)), num(openHowSize))
	val := l.bytes([]byte(o.Data))
	l.main(unix.SYS_WRITE, 0, reg(t), ptr(val), num(len(o.Data)))
	l.code[i].jump = uint16(len(l.code) + 1)
	l.emit(unix.SYS_CLOSE, 0, reg(t))
}

// mkpath opens a path inside a root and makes what is missing of it: see makePath.
func (l *lowering) mkpath(o *plan.Op) {
	const inRoot = abi.ResolveInRoot | abi.ResolveNoMagiclinks
	path := l.mustStr(o.Path)
	if o.Path == "" || o.Path[0] == '/' && strings.Trim(o.Path, "/") == "" {
		path = l.mustStr(".")
	}
	i := l.openat2(o.Out, reg(o.Dir), path, abi.OPath, 0, inRoot|o.C)
	l.tolerate(i, abi.ENOENT)
	have := l.emit(pIfOpen, 0, reg(o.Out), num(0))
	kind := num(abi.SIFREG)
	switch o.A {
	case plan.KindDir:
		kind = num(abi.SIFDIR)
	case plan.KindLike:
		st := l.statx(reg(o.On))
		l.emit(pLoad, l.scratch, ptr(st+statxMode), num(2), num(abi.SIFMT))
		kind = reg(l.scratch)
	}
	if l.paths == 0 {
		l.paths = l.space(pathSize)
	}
	l.emit(pMakePath, o.Out, reg(o.Dir), ptr(path), kind, num(o.B), num(uint64(inRoot)|o.C), ptr(l.paths))
	l.jumpHere(have, 1)
}
