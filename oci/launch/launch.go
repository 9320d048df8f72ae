package launch

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/plan"
)

// Request is a program to run and what it needs of this process.
type Request struct {
	Program *plan.Program
	// Prepared is what Prepare has made of Program; nil leaves that to Run.
	Prepared *Prepared
	// Files holds the descriptors for the program's inputs (but for sync). They
	// stay the caller's. A missing one leaves its register empty.
	Files map[plan.Reg]int
	// CgroupFD is the directory of a cgroup v2 to be born in, or -1.
	CgroupFD int
	// Sync is called at each step where the program waits for its parent.
	Sync func(step, pid int) error
	// Born is called as soon as the process exists, beside its work.
	Born func(pid int) error
	// Ready is called when the process has done everything but its execve. Only
	// once it has returned, and this process still lives, does the gate open for
	// anybody or, without a gate, the process go on.
	Ready func(pid int) error
	// File gets the descriptors that the program sends; it owns them.
	File func(n int, f *os.File)
	// Listener gets the listener of the process's seccomp filter, which is closed
	// after it has returned; the process waits for that.
	Listener func(pid int, f *os.File) error
	// Thaw is called when the process has been sent SIGKILL because Run's context has
	// ended: a frozen one may not die of it. It may be called again, for another pid.
	Thaw func(pid int)
}

// Process is a child of this process, which has to wait for it.
type Process struct {
	Pid      int
	PidFD    *os.File
	Warnings []string
}

// ErrKilled is a process that ended without a word: somebody killed it, or the
// kernel did for want of memory.
var ErrKilled = errors.New("process was killed")

// ErrCgroup is a cgroup that no process can be born in: one that has gone, or
// that has given its controllers to its children.
var ErrCgroup = errors.New("cannot be born in the cgroup")

// Error is an operation that failed in the child.
type Error struct {
	Op    *plan.Op
	Call  string // name of the system call
	Errno syscall.Errno
	Text  string // what the file system had to say
}

func (e *Error) Error() string {
	switch {
	case e.Op.Do == plan.OpLookup || e.Op.Do == plan.OpExec:
		return execText(e.Op, e.Errno)
	case e.Op.Do == plan.OpHook && e.Errno == unix.ETIMEDOUT:
		return fmt.Sprintf("%s: %s: still running after %d s", e.Op.Where(), e.Op.Data, e.Op.A)
	case e.Op.Do == plan.OpHook:
		return fmt.Sprintf("%s: %s: %s", e.Op.Where(), e.Op.Data, hookText(e.Errno))
	case e.Errno == unix.ELOOP && e.Op.C&abi.ResolveNoSymlinks != 0:
		return e.Op.Where() + ": must be mounted on ordinary directory or file, and this is, or is below, a symbolic link"
	case e.Op.Do == plan.OpSched && e.Errno == unix.EPERM:
		return e.Op.Where() + ": " + e.Call + ": " + e.Errno.Error() + schedulerHint(e.Op.Nums[0])
	case e.Op.Do == plan.OpSetattr && e.Op.A&abi.MountAttrIdmap != 0 && e.Errno == unix.EINVAL:
		return fmt.Sprintf("%s: idmap: %s: %s (does the source's file system take id mappings?)", e.Op.Where(), e.Call, e.Errno.Error())
	case e.Op.Do == plan.OpMove && e.Errno == unix.EINVAL: // mount(2) would say ENOTDIR, for which callers look
		return fmt.Sprintf("%s: %s: %s (is one of source and destination not a directory?)", e.Op.Where(), e.Call, e.Errno.Error())
	case e.Op.Field == "process.cwd" && e.Op.Do == plan.OpOpen: // the first half of it
		return e.Op.Where() + ": chdir: " + e.Errno.Error()
	case e.Op.Do == plan.OpCheckCwd:
		return e.Op.Where() + ": is outside of the container's root"
	case e.Text != "":
		return fmt.Sprintf("%s: %s: %s (%s)", e.Op.Where(), e.Call, e.Errno.Error(), e.Text)
	}
	return fmt.Sprintf("%s: %s: %s", e.Op.Where(), e.Call, e.Errno.Error())
}

// schedulerHint says why sched_setattr(2) may have been refused to root, too.
func schedulerHint(policy uint64) string {
	switch policy {
	case unix.SCHED_DEADLINE:
		return " (it takes CAP_SYS_NICE; and a deadline process scheduler can't be used together with AllowedCPUs, linux.resources.cpu.cpus)"
	case unix.SCHED_FIFO, unix.SCHED_RR:
		return " (it takes CAP_SYS_NICE; and on cgroup version 1 a real-time budget, linux.resources.cpu.realtimeRuntime, which the cgroups above must have too)"
	}
	return " (it takes CAP_SYS_NICE)"
}

func (e *Error) Unwrap() error { return e.Errno }

// hookText says how a hook failed.
func hookText(errno syscall.Errno) string {
	status := syscall.WaitStatus(errno &^ hookStatus)
	switch {
	case errno&hookStatus == 0:
		return errno.Error()
	case status.Signaled():
		return "signal: " + status.Signal().String()
	}
	return "exit status " + strconv.Itoa(status.ExitStatus())
}

// execText says why a program cannot be executed, in the words that callers of
// OCI runtimes look for.
func execText(o *plan.Op, errno syscall.Errno) string {
	if o.Do == plan.OpExec {
		return execName(o.Args[0]) + ": " + errno.Error()
	}
	name := quote(o.Args[0])
	switch {
	case errno == unix.ENOENT && !strings.Contains(o.Args[0], "/") && o.Do == plan.OpLookup:
		return "exec " + name + ": executable file not found in $PATH"
	}
	return "exec " + name + ": " + errno.Error()
}

// execName names the program of an execve that failed as runc does: without
// quotes, unless something in it would spoil the line.
func execName(name string) string {
	if quoted := quote(name); quoted != `"`+name+`"` {
		name = quoted
	}
	return "exec " + name
}

// Execve finds in an error what execve said of the container's program, behind a
// gate or without one; nil if it is about something else.
func Execve(err error) error {
	if e, ok := errors.AsType[*Error](err); ok && e.Op.Do == plan.OpExec {
		return e
	}
	if e, ok := errors.AsType[*GateError](err); ok && e.IsExec() {
		return e
	}
	return nil
}

// self is the identity of the running program's file.
var self = sync.OnceValues(func() (fileID, error) {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, "/proc/self/exe", 0, unix.STATX_BASIC_STATS, &st)
	if err != nil {
		return fileID{}, fmt.Errorf("identify the own executable: %w", err)
	}
	return fileID{st.Dev_major, st.Dev_minor, st.Ino}, nil
})

// Prepared is a program laid out for one process to run.
type Prepared struct {
	img  *image
	stub *os.File // or nil
}

// Prepare does what Run can do before it needs any descriptor. Its result is for
// one Run, which closes it. An error of class ErrUnsealed says that this process
// must not run the program.
func Prepare(p *plan.Program) (*Prepared, error) {
	viaStub, err := wantsStub(p)
	if err != nil {
		return nil, err
	}
	id, err := self()
	if err != nil {
		return nil, err
	}
	img, err := lower(p, id, viaStub)
	if err != nil {
		return nil, err
	}
	prepared := &Prepared{img: img}
	if viaStub {
		prepared.stub, err = newStub(stubImage(p.Target, img.execAt, p.Ops[len(p.Ops)-1].Args[0]))
	}
	return prepared, err
}

// Close gives up a Prepared that there will be no Run of.
func (p *Prepared) Close() {
	if p.stub != nil {
		_ = p.stub.Close() // an error matters to nobody: it is in memory
		p.stub = nil
	}
}

// Run makes the process and returns once the program has reached its gate or its
// execve, or, with an error, once the process is gone. If ctx ends before, the
// process is killed and the error says what it was doing.
func Run(ctx context.Context, r Request) (_ *Process, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.Prepared == nil {
		if r.Prepared, err = Prepare(r.Program); err != nil {
			return nil, err
		}
	}
	defer r.Prepared.Close()
	c, err := newConversation(ctx, r)
	if err != nil {
		return nil, err
	}
	defer c.close()
	c.img.keepOnly(c.keep)
	for r, fd := range c.files { // lower has checked the registers
		c.img.regs[r] = int64(fd)
	}
	if err := c.fork(); err != nil {
		return nil, err
	}
	given := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(given)
		c.giveUp()
	})
	err = c.talk()
	if !stop() {
		<-given // it uses the pidfd
	}
	if err == nil && ctx.Err() == nil {
		// Non-blocking, it can be waited for by Go's poller.
		if err := unix.SetNonblock(c.pidfd, true); err == nil {
			return &Process{Pid: c.pid, PidFD: os.NewFile(uintptr(c.pidfd), "pidfd"), Warnings: c.warnings}, nil
		}
	}
	at := c.where()
	c.kill()
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return nil, fmt.Errorf("%s: %w", at, cause) // else err says what this process was doing for it
	}
	return nil, err
}

// inStub is the input with the stub.
const inStub = "stub"

// conversation is the parent's side of a program that runs.
type conversation struct {
	Request
	ctx      context.Context
	img      *image
	files    map[plan.Reg]int
	keep     []int // descriptors that the child keeps, ascending
	made     []int // descriptors of ours to close
	sock     int   // our end of sync
	progress []byte
	pid      int
	pidfd    int // blocking, so that it can be waited for
	warnings []string
	followed bool // pid is the sibling's
	asked    int  // the last instruction that asked for something
}

func newConversation(ctx context.Context, r Request) (_ *conversation, err error) {
	c := &conversation{Request: r, ctx: ctx, img: r.Prepared.img, files: make(map[plan.Reg]int, len(r.Files)+1), sock: -1}
	defer func() {
		if err != nil {
			c.close()
		}
	}()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("socketpair: %w", err)
	}
	c.sock = pair[0]
	c.made = append(c.made, pair[1])
	inputs := r.Program.Inputs
	if r.Prepared.stub != nil {
		inputs = append(inputs[:len(inputs):len(inputs)], plan.Input{Kind: inStub, Reg: plan.Reg(c.img.stub)})
	}
	for _, in := range inputs {
		fd, ok := r.Files[in.Reg]
		if in.Kind == plan.InSync {
			fd, ok = pair[1], true
		}
		if in.Kind == inStub {
			fd, ok = sys.Fd(r.Prepared.stub), true
		}
		if !ok || fd < 0 {
			continue
		}
		// What the program uses after it has put the standard descriptors in
		// place must not be among them, nor in the place of the stub's report.
		after := in.Kind == plan.InSync || in.Kind == plan.InGate || in.Kind == plan.InHook || in.Kind == plan.InCreated ||
			in.Kind == plan.InHookOut || in.Kind == inStub
		if after && fd <= r.Program.Target {
			if fd, err = unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, r.Program.Target+1); err != nil {
				return nil, fmt.Errorf("dup: %w", err)
			}
			c.made = append(c.made, fd)
		}
		c.files[in.Reg] = fd
		c.keep = append(c.keep, fd)
	}
	slices.Sort(c.keep)
	c.keep = slices.Compact(c.keep)
	c.progress, err = unix.Mmap(-1, 0, os.Getpagesize(), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_ANONYMOUS)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return c, nil
}

func (c *conversation) close() {
	if c.sock >= 0 {
		_ = unix.Close(c.sock)
	}
	for _, fd := range c.made {
		_ = unix.Close(fd)
	}
	if c.progress != nil {
		_ = unix.Munmap(c.progress)
	}
}

func (c *conversation) fork() error {
	f := &forkArgs{pidNS: -1, ownPidNS: -1, timerSlack: sys.CallersSlack()}
	f.clone = cloneArgs{
		flags:      c.Program.CloneFlags | unix.CLONE_PIDFD | unix.CLONE_CLEAR_SIGHAND,
		exitSignal: uint64(unix.SIGCHLD),
	}
	if c.CgroupFD >= 0 {
		f.clone.flags |= unix.CLONE_INTO_CGROUP
		f.clone.cgroup = uint64(c.CgroupFD)
	}
	if c.Program.PidNS != 0 {
		own, err := unix.Open("/proc/self/ns/pid", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("open own PID namespace: %w", err)
		}
		defer func() { _ = unix.Close(own) }()
		f.pidNS, f.ownPidNS = c.files[c.Program.PidNS], own
	}
	m := c.img
	f.child = child{
		code:     uintptr(unsafe.Pointer(unsafe.SliceData(m.code))),
		ncode:    uintptr(len(m.code)),
		regs:     uintptr(unsafe.Pointer(unsafe.SliceData(m.regs))),
		mem:      uintptr(unsafe.Pointer(unsafe.SliceData(m.mem))),
		report:   uintptr(unsafe.Pointer(unsafe.SliceData(m.mem))) + uintptr(m.report),
		sync:     uintptr(c.files[c.Program.Input(plan.InSync).Reg]),
		progress: uintptr(unsafe.Pointer(unsafe.SliceData(c.progress))),
	}
	if m.forkAt != 0 {
		binary.NativeEndian.PutUint64(m.mem[m.forkArgs+parentTID:], uint64(f.child.progress)+siblingAt)
	}
	f.memory.add(0, f.child.code, f.child.ncode*unsafe.Sizeof(instr{}))
	f.memory.add(1, f.child.regs, 8*uintptr(len(m.regs)))
	f.memory.add(2, f.child.mem, uintptr(len(m.mem)))
	f.memory.add(3, uintptr(unsafe.Pointer(&c.progress[0])), uintptr(len(c.progress)))
	// Whoever forks meanwhile, without CLONE_VM, would have a child without a heap.
	syscall.ForkLock.Lock()
	pid, errno, atSetns := fork(f)
	syscall.ForkLock.Unlock()
	runtime.KeepAlive(m)
	if errno != 0 {
		if atSetns {
			return fmt.Errorf("%s: setns: %w", c.inputField(c.Program.PidNS), errno)
		}
		if f.clone.flags&unix.CLONE_INTO_CGROUP != 0 && (errno == unix.EBUSY || errno == unix.ENODEV || errno == unix.EOPNOTSUPP) {
			return fmt.Errorf("%w: clone3: %w", ErrCgroup, errno)
		}
		return fmt.Errorf("linux.namespaces: clone3: %w", errno)
	}
	c.pid, c.pidfd = int(pid), int(f.pidfd)
	for _, fd := range c.made {
		_ = unix.Close(fd) // so that the child's end is the last one
	}
	c.made = nil
	return nil
}

func (c *conversation) inputField(r plan.Reg) string {
	for _, in := range c.Program.Inputs {
		if in.Reg == r {
			return in.Field
		}
	}
	return "linux.namespaces"
}

// talk answers the child until it needs nothing any more.
func (c *conversation) talk() error {
	moves := c.img.forkAt != 0
	if !moves {
		if err := c.born(); err != nil {
			return err
		}
	}
	var early []message                    // of a sibling that was faster than the word of it
	defer func() { _ = closeAll(early) }() // nobody answers those that are left
	for {
		m, err := message{}, error(nil)
		if !moves && len(early) > 0 {
			m, early = early[0], early[1:]
		} else if m, err = c.receive(); err != nil {
			return err
		}
		if moves && m.kind != 0 && int(m.instr) > c.img.forkAt {
			if early = append(early, m); len(early) > len(c.img.code) { // more than the program has to say
				return fmt.Errorf("%s: too many messages", c.where())
			}
			continue
		}
		if err := c.expected(m); err != nil {
			return err
		}
		switch m.kind {
		case 0: // end of file
			if int(c.at()) == c.img.execAt && !moves { // else nobody knows whose end this is
				return nil
			}
			return fmt.Errorf("%s: %w", c.where(), ErrKilled)
		case msgError:
			return c.render(m)
		case msgWarn:
			c.warnings = append(c.warnings, c.render(m).Error())
			continue
		case msgFD:
			if m.file == nil || c.File == nil {
				return fmt.Errorf("%s: descriptor got lost", c.where())
			}
			c.File(int(m.value), m.file)
			continue
		case msgFork:
			if err := c.follow(m.file); err != nil {
				return err
			}
			moves = false
			continue
		case msgReady:
			if c.Ready != nil {
				if err := c.Ready(c.pid); err != nil {
					return err
				}
			}
			if err := c.answer(); err != nil || c.Program.Input(plan.InGate) != nil {
				return err
			}
		case msgListener:
			if c.Listener == nil {
				return fmt.Errorf("%s: nobody wants the listener", c.where())
			}
			if err := listenerOf(c.pidfd, int(m.value), func(f *os.File) error { return c.Listener(c.pid, f) }); err != nil {
				return err
			}
			if err := c.answer(); err != nil {
				return err
			}
		case msgSync:
			if c.Sync != nil {
				if err := c.Sync(int(m.value), c.pid); err != nil {
					return err
				}
			}
			if err := c.answer(); err != nil {
				return err
			}
		}
	}
}

// expected checks that what a message asks for, or warns of, is what the program asks for
// at that place, and once only. While the stub runs, the socket is in the hands of
// what is the container's process already, and others may ptrace that: what they say
// must neither surprise who answers nor go on for ever.
func (c *conversation) expected(m message) error {
	var do plan.Code
	switch m.kind {
	case msgSync:
		do = plan.OpSync
	case msgFD:
		do = plan.OpSendFD
	case msgReady:
		do = plan.OpGate
	case msgFork:
		do = plan.OpFork
	case msgListener:
		do = plan.OpListener
	case msgWarn:
	default:
		return closeAll([]message{m})
	}
	i := int(m.instr)
	good := i > c.asked && i < len(c.img.code)
	if good && m.kind == msgWarn {
		good = c.img.code[i].flags&flagWarn != 0
	} else if good {
		good = c.Program.Ops[c.img.code[i].op].Do == do
	}
	if !good {
		err := fmt.Errorf("%s: unexpected message %d about instruction %d", c.where(), m.kind, i)
		return errors.Join(err, closeAll([]message{m}))
	}
	c.asked = i
	if m.kind != msgFD && m.kind != msgFork {
		return closeAll([]message{m})
	}
	return nil
}

// closeAll closes the files of messages.
func closeAll(list []message) (err error) {
	for _, m := range list {
		if m.file != nil {
			err = errors.Join(err, m.file.Close())
		}
	}
	return err
}

// listenerOf takes a copy of a child's descriptor for use.
func listenerOf(pidfd, fd int, use func(*os.File) error) error {
	n, err := unix.PidfdGetfd(pidfd, fd, 0)
	if err != nil {
		return fmt.Errorf("linux.seccomp.listenerPath: pidfd_getfd: %w", err)
	}
	f := os.NewFile(uintptr(n), "seccomp listener")
	defer func() { _ = f.Close() }()
	return use(f)
}

func (c *conversation) born() error {
	if c.Born == nil {
		return nil
	}
	return c.Born(c.pid)
}

// answer lets the waiting child go on.
func (c *conversation) answer() error {
	if err := unix.Sendto(c.sock, []byte{1}, unix.MSG_NOSIGNAL, nil); err != nil {
		return fmt.Errorf("%s: %w", c.where(), ErrKilled)
	}
	return nil
}

// follow makes the sibling that the child cloned the process. Its pidfd takes the
// number of the other's, so that who watches the context always has a live one.
func (c *conversation) follow(sibling *os.File) error {
	if sibling == nil {
		return fmt.Errorf("%s: descriptor got lost", c.where())
	}
	defer func() { _ = sibling.Close() }()
	pid, err := pidOf(int(sibling.Fd()))
	if err != nil {
		return err
	}
	// A reaper in this process may have collected the intermediate one already.
	if err := reap(c.pidfd); err != nil && !errors.Is(err, unix.ECHILD) {
		return err
	}
	if err := unix.Dup3(int(sibling.Fd()), c.pidfd, unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("dup: %w", err)
	}
	c.pid, c.followed = pid, true
	if c.ctx.Err() != nil {
		c.giveUp() // only the other has been killed
	}
	return c.born()
}

// giveUp kills the process and ends the conversation, in which others may have taken the
// process's part (see expected).
func (c *conversation) giveUp() {
	_ = unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0)
	_ = unix.Shutdown(c.sock, unix.SHUT_RDWR)
	if c.Thaw == nil {
		return
	}
	if pid, err := pidOf(c.pidfd); err == nil && pid > 0 {
		c.Thaw(pid)
	}
}

// pidOf is the pid, in this process's namespace, of a child.
func pidOf(pidfd int) (int, error) {
	data, err := sys.ReadFile("/proc/self/fdinfo/"+strconv.Itoa(pidfd), 4096)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if text, ok := strings.CutPrefix(line, "Pid:"); ok {
			return strconv.Atoi(strings.TrimSpace(text))
		}
	}
	return 0, errors.New("pidfd: fdinfo tells no pid")
}

type message struct {
	kind, instr, value uint32
	text               string
	file               *os.File
}

func (c *conversation) receive() (message, error) {
	var buf [msgHeader + msgText]byte
	var oob [64]byte
	for {
		n, oobn, _, _, err := unix.Recvmsg(c.sock, buf[:], oob[:], unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err == unix.ECONNRESET {
			return message{}, nil
		}
		if err != nil {
			return message{}, fmt.Errorf("receive from the container's process: %w", err)
		}
		if n < msgHeader {
			return message{}, nil
		}
		m := message{
			kind:  binary.NativeEndian.Uint32(buf[0:]),
			instr: binary.NativeEndian.Uint32(buf[4:]),
			value: binary.NativeEndian.Uint32(buf[8:]),
			text:  string(buf[msgHeader:n]),
		}
		if oobn > 0 {
			m.file = fileFrom(oob[:oobn])
		}
		return m, nil
	}
}

// fileFrom takes the one descriptor that comes with a message. Others are closed.
func fileFrom(oob []byte) (f *os.File) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	for i := range msgs {
		fds, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if f == nil {
				f = os.NewFile(uintptr(fd), "from child")
			} else {
				_ = unix.Close(fd)
			}
		}
	}
	return f
}

func (c *conversation) render(m message) error {
	if int(m.instr) >= len(c.img.code) {
		return fmt.Errorf("message from the container's process about instruction %d of %d", m.instr, len(c.img.code))
	}
	in := &c.img.code[m.instr]
	return &Error{Op: &c.Program.Ops[in.op], Call: callName(int(in.code)), Errno: syscall.Errno(m.value), Text: fsText(m.text)}
}

// at is the instruction that the child is at.
func (c *conversation) at() uint32 { return binary.NativeEndian.Uint32(c.progress) }

// where says what the child is doing.
func (c *conversation) where() string {
	i := int(c.at())
	if i >= len(c.img.code) {
		return "start"
	}
	in := &c.img.code[i]
	if i < c.img.first {
		return "start: " + callName(int(in.code)) // to be rid of what it was born with
	}
	return c.Program.Ops[in.op].Where() + ": " + callName(int(in.code))
}

// kill ends the process for certain.
func (c *conversation) kill() {
	_ = unix.PidfdSendSignal(c.pidfd, unix.SIGKILL, nil, 0) // ESRCH: it has ended
	_ = reap(c.pidfd)
	_ = unix.Close(c.pidfd)
	if pid := int(int32(binary.NativeEndian.Uint32(c.progress[siblingAt:]))); pid != 0 && !c.followed {
		killChild(pid)
	}
}

// siblingAt is where in the page of progress the kernel puts a sibling's pid.
const siblingAt = 8

// killChild ends the sibling of one that died before it could tell of it: as a
// zombie it would keep its PID namespace, and so the container's init, from ending.
func killChild(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // somebody has collected it
	}
	defer func() { _ = unix.Close(fd) }()
	data, err := sys.ReadFile("/proc/"+strconv.Itoa(pid)+"/status", 4096)
	if err != nil || !strings.Contains(string(data), "\nPPid:\t"+strconv.Itoa(os.Getpid())+"\n") {
		return // and its number is somebody else's
	}
	_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
	_ = reap(fd)
}

// reap waits for a child's end.
func reap(pidfd int) error {
	for {
		err := unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WALL, nil)
		if err != unix.EINTR {
			return err
		}
	}
}
