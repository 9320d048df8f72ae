package launch

import (
	"encoding/binary"
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/oci/plan"
)

// fileID identifies a file: device and inode as statx(2) tells them.
type fileID struct {
	devMajor, devMinor uint32
	ino                uint64
}

// lowerProcess emits the operations that are about the process itself.
func (l *lowering) lowerProcess(o *plan.Op, self fileID) error {
	switch o.Do {
	case plan.OpKeyring:
		const joinSession = 1
		l.main(unix.SYS_KEYCTL, 0, num(joinSession), ptr(l.mustStr(o.Data)))
	case plan.OpSetsid:
		l.main(unix.SYS_SETSID, 0)
	case plan.OpPty:
		l.pty(o)
	case plan.OpSendFD:
		l.sendFD(o)
	case plan.OpChownFD:
		l.main(unix.SYS_FCHOWNAT, 0, reg(o.Dir), ptr(l.emptyP), num(o.A), num(uint64(^uint32(0))), num(abi.AtEmptyPath))
	case plan.OpCtty:
		l.main(unix.SYS_IOCTL, 0, reg(o.Dir), num(unix.TIOCSCTTY), num(0))
	case plan.OpStdio:
		l.stdio(o)
	case plan.OpRlimit:
		l.main(unix.SYS_PRLIMIT64, 0, num(0), num(o.A), ptr(l.words(o.B, o.C)), num(0))
	case plan.OpPrctl:
		l.main(unix.SYS_PRCTL, 0, num(o.A), num(o.B), num(o.C), num(0), num(0))
	case plan.OpCapset:
		l.capset(o)
	case plan.OpGroups:
		var list []byte
		for _, g := range o.Nums {
			list = binary.NativeEndian.AppendUint32(list, uint32(g))
		}
		l.main(unix.SYS_SETGROUPS, 0, num(len(o.Nums)), ptr(l.bytes(list)))
	case plan.OpSetgid:
		l.main(unix.SYS_SETRESGID, 0, num(o.A), num(o.A), num(o.A))
	case plan.OpSetuid:
		l.main(unix.SYS_SETRESUID, 0, num(o.A), num(o.A), num(o.A))
	case plan.OpSeccomp:
		filter := l.bytes(o.Raw)
		prog := l.words(uint64(len(o.Raw)/8), uint64(filter))
		l.relocs = append(l.relocs, prog+8)
		const setModeFilter = 1
		l.main(unix.SYS_SECCOMP, o.Out, num(setModeFilter), num(o.A), ptr(prog))
	case plan.OpListener:
		l.emit(pListen, 0, reg(o.Dir))
	case plan.OpUmask:
		l.main(unix.SYS_UMASK, 0, num(o.A))
	case plan.OpPersona:
		l.main(unix.SYS_PERSONALITY, 0, num(o.A))
	case plan.OpSched:
		return l.sched(o)
	case plan.OpIoprio:
		const whoProcess = 1
		l.main(unix.SYS_IOPRIO_SET, 0, num(whoProcess), num(0), num(o.A))
	case plan.OpAffinity:
		l.main(unix.SYS_SCHED_SETAFFINITY, 0, num(0), num(len(o.Raw)), ptr(l.bytes(o.Raw)))
	case plan.OpMempolicy:
		l.main(unix.SYS_SET_MEMPOLICY, 0, num(o.A), ptr(l.bytes(o.Raw)), num(8*len(o.Raw)+1))
	case plan.OpHome:
		slot := l.space(homeSlot)
		copy(l.mem[slot:], "HOME=/")
		l.home = slot
		l.emit(pHome, 0, ptr(slot), num(o.A), ptr(l.mustStr("/etc/passwd")))
	case plan.OpLookup:
		cands, err := l.pointers(o.Env)
		if err != nil {
			return err
		}
		buf := l.space(statxSize)
		id := l.words(uint64(self.devMajor)|uint64(self.devMinor)<<32, self.ino)
		l.emit(pLookup, l.found, ptr(cands), ptr(buf), ptr(id))
	case plan.OpGate:
		// Who hears that it is ready may stop it.
		if o.Dir != 0 {
			l.stoppable()
		}
		l.emit(pReady, 0)
		if o.Dir == 0 {
			return nil
		}
		l.gated = true
		conn := l.scratch + 6
		l.emit(unix.SYS_ACCEPT4, conn, reg(o.Dir), num(0), num(0), num(unix.SOCK_CLOEXEC))
		l.emit(pReport, 0, reg(conn))
		l.reportAt(conn)
		l.emit(unix.SYS_CLOSE, 0, reg(o.Dir))
	case plan.OpHook:
		if l.gated {
			l.emit(pAt, 0) // for AwaitExec
		}
		argv, err := l.pointers(o.Args)
		if err != nil {
			return err
		}
		environ := l.pointers
		if o.B == 1 {
			environ = l.environ
		}
		env, err := environ(o.Env)
		if err != nil {
			return err
		}
		timeout := int64(-1)
		if o.A > 0 {
			timeout = int64(o.A) * 1000
		}
		block := l.words(uint64(unix.CLONE_PIDFD), 0, 0, 0, uint64(unix.SIGCHLD), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
		if o.On != 0 {
			l.emit(pStore, 0, reg(o.On), ptr(block+hookOutput))
		}
		l.emit(pHook, 0, ptr(l.mustStr(o.Path)), ptr(argv), ptr(env), reg(o.Dir), num(uintptr(timeout)), ptr(block))
	case plan.OpExec:
		args := o.Args
		if l.stub != 0 {
			args = append([]string{""}, args...) // the program's path comes first
		}
		argv, err := l.pointers(args)
		if err != nil {
			return err
		}
		env, err := l.environ(o.Env)
		if err != nil {
			return err
		}
		if l.stub == 0 {
			l.execAt = l.emit(unix.SYS_EXECVE, 0, reg(l.found), ptr(argv), ptr(env))
			return nil
		}
		l.emit(pStore64, 0, reg(l.found), ptr(argv))
		l.execAt = l.emit(unix.SYS_EXECVEAT, 0, reg(plan.Reg(l.stub)), ptr(l.emptyP), ptr(argv), ptr(env), num(abi.AtEmptyPath))
	default:
		return fmt.Errorf("unknown operation %q", o.Do)
	}
	return nil
}

// stoppable has SIGTERM end the process while it waits at its gate. The first
// process of a PID namespace has no default action for signals, and who stops a
// container does not care that its program has not been started yet. The execve
// puts the default back.
func (l *lowering) stoppable() {
	const restorer = 0x04000000 // SA_RESTORER: amd64 takes no handler without one
	handler := uint64(stopHandler())
	action := l.words(handler, restorer, handler, 0)
	l.emit(unix.SYS_RT_SIGACTION, 0, num(int(unix.SIGTERM)), ptr(action), num(0), num(8))
}

// stopHandler is the address of onStop.
func stopHandler() uintptr

// environ lays out the environment, with the slot for HOME at its end if a step
// before filled one.
func (l *lowering) environ(env []string) (int, error) {
	if l.home == 0 {
		return l.pointers(env)
	}
	off, err := l.pointers(append(env[:len(env):len(env)], ""))
	if err != nil {
		return 0, err
	}
	binary.NativeEndian.PutUint64(l.mem[off+8*len(env):], uint64(l.home))
	return off, nil
}

func (l *lowering) pty(o *plan.Op) {
	const flags = abi.ORdWr | abi.ONoCTTY
	l.openat2(o.Out, reg(o.Dir), l.mustStr("ptmx"), flags, 0, abi.ResolveBeneath|abi.ResolveNoSymlinks)
	l.emit(unix.SYS_IOCTL, 0, reg(o.Out), num(unix.TIOCSPTLCK), ptr(l.words(0)))
	l.emit(unix.SYS_IOCTL, o.On, reg(o.Out), num(unix.TIOCGPTPEER), num(flags|abi.OCloexec))
	if o.A|o.B != 0 {
		size := binary.NativeEndian.AppendUint16(nil, uint16(o.A))
		size = binary.NativeEndian.AppendUint16(size, uint16(o.B))
		l.emit(unix.SYS_IOCTL, 0, reg(o.Out), num(unix.TIOCSWINSZ), ptr(l.bytes(append(size, 0, 0, 0, 0))))
	}
}

// sendFD sends a descriptor to the parent.
func (l *lowering) sendFD(o *plan.Op) {
	msg, fd := l.message(msgFD, uint32(o.A))
	l.emit(pStore, 0, reg(o.Dir), ptr(fd))
	sync := l.prog.Input(plan.InSync)
	l.main(unix.SYS_SENDMSG, 0, reg(sync.Reg), ptr(msg), num(unix.MSG_NOSIGNAL))
}

// message lays out the msghdr of a message with one descriptor, which is to be
// put at fd, with the number n.
func (l *lowering) message(kind, n uint32) (msg, fd int) {
	head := binary.NativeEndian.AppendUint32(nil, kind)
	head = binary.NativeEndian.AppendUint32(head, uint32(len(l.code)))
	head = binary.NativeEndian.AppendUint32(head, n)
	head = binary.NativeEndian.AppendUint32(head, 0)
	data := l.bytes(head)
	iov := l.words(uint64(data), msgHeader)
	const cmsgLen, cmsgSpace = 16 + 4, 24
	control := l.words(cmsgLen, uint64(unix.SOL_SOCKET)|uint64(unix.SCM_RIGHTS)<<32, 0)
	msg = l.words(0, 0, uint64(iov), 1, uint64(control), cmsgSpace, 0)
	l.relocs = append(l.relocs, iov, msg+16, msg+32)
	return msg, control + 16
}

// stdio moves descriptors to 0, 1, 2, …. They go above the targets first, since
// one's place may be another's present number.
func (l *lowering) stdio(o *plan.Op) {
	first := l.scratch + 9
	for i, r := range o.Regs {
		l.emit(unix.SYS_FCNTL, first+plan.Reg(i), reg(r), num(unix.F_DUPFD_CLOEXEC), num(len(o.Regs)))
	}
	for i := range o.Regs {
		l.emit(unix.SYS_DUP3, 0, reg(first+plan.Reg(i)), num(i), num(0))
	}
	const cloexec = 4
	l.emit(unix.SYS_CLOSE_RANGE, 0, num(len(o.Regs)), num(uint64(^uint32(0))), num(cloexec))
	l.reportAt(l.prog.Input(plan.InSync).Reg)
}

// reportAt has the stub report to a socket: it looks for it behind the standard
// descriptors. That place is taken as soon as they are there, so that nothing
// that is opened later gets it.
func (l *lowering) reportAt(r plan.Reg) {
	if l.stub != 0 {
		l.emit(unix.SYS_DUP3, 0, reg(r), num(l.prog.Target), num(0))
	}
}

func (l *lowering) capset(o *plan.Op) {
	const version3 = 0x20080522
	head := l.words(version3)
	var data []byte
	for shift := 0; shift < 64; shift += 32 {
		for _, set := range []uint64{o.A, o.B, o.C} {
			data = binary.NativeEndian.AppendUint32(data, uint32(set>>shift))
		}
	}
	l.main(unix.SYS_CAPSET, 0, ptr(head), ptr(l.bytes(data)))
}

// sched lays out a struct sched_attr.
func (l *lowering) sched(o *plan.Op) error {
	if len(o.Nums) != 7 {
		return fmt.Errorf("sched wants 7 numbers, has %d", len(o.Nums))
	}
	const size = 56 // with the clamps of utilisation, which stay 0
	b := binary.NativeEndian.AppendUint32(nil, size)
	b = binary.NativeEndian.AppendUint32(b, uint32(o.Nums[0]))
	b = binary.NativeEndian.AppendUint64(b, o.Nums[1])
	b = binary.NativeEndian.AppendUint32(b, uint32(o.Nums[2]))
	b = binary.NativeEndian.AppendUint32(b, uint32(o.Nums[3]))
	for _, n := range append(o.Nums[4:7:7], 0) {
		b = binary.NativeEndian.AppendUint64(b, n)
	}
	l.main(unix.SYS_SCHED_SETATTR, 0, num(0), ptr(l.bytes(b)), num(0))
	return nil
}

func quote(s string) string { return strconv.Quote(s) }
