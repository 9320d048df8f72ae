package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// onThread runs fn on an operating system thread that ends with it, so that fn
// may leave the thread in any namespace. The process's first thread cannot end
// and stands for the whole process in /proc, so it is never used: while it is
// held, another one is taken.
func onThread(fn func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and no unlock: the thread goes with the goroutine
		if unix.Gettid() != unix.Getpid() {
			done <- fn()
			return
		}
		defer runtime.UnlockOSThread()
		done <- onThread(fn)
	}()
	return <-done
}

// NewNetNS makes a network namespace, brings its loopback up and mounts it on
// path, an existing file.
func NewNetNS(path string) error {
	ns, err := OpenNewNetNS()
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }() // opened for reading only
	return MountNetNS(ns, path)
}

// OpenNewNetNS makes a network namespace with its loopback up, which lasts as long as it
// is open, or in use.
func OpenNewNetNS() (ns *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("unshare(CLONE_NEWNET)", err)
		}
		if err := LinkUp("lo"); err != nil {
			return fmt.Errorf("bring lo up: %w", err)
		}
		ns, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return ns, err
}

// LoopbackUp brings the loopback of the network namespace at path up.
func LoopbackUp(path string) error { return withLoopback(path, func(*os.File) error { return nil }) }

// KeepNetNS is NewNetNS for a network namespace that is there already, at from.
func KeepNetNS(from, path string) error {
	return withLoopback(from, func(ns *os.File) error { return MountNetNS(ns, path) })
}

// withLoopback brings the loopback of the network namespace at path up, and then does more
// with that.
func withLoopback(path string, then func(ns *os.File) error) error {
	ns, err := OpenNetNS(path)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }() // opened for reading only
	if err := InNetNS(ns, func() error { return LinkUp("lo") }); err != nil {
		return fmt.Errorf("bring lo up: %w", err)
	}
	return then(ns)
}

// MountNetNS mounts an open network namespace on path, an existing file.
func MountNetNS(ns *os.File, path string) error {
	return os.NewSyscallError("mount", unix.Mount("/proc/self/fd/"+strconv.Itoa(Fd(ns)), path, "", unix.MS_BIND, ""))
}

// InNetNS runs fn on a thread in the network namespace of ns. The caller keeps
// ns.
func InNetNS(ns *os.File, fn func() error) error {
	return onThread(func() error {
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return os.NewSyscallError("setns(CLONE_NEWNET)", err)
		}
		return fn()
	})
}

// NetDev is proc_pid_net(5)'s dev, the interfaces and their counters, of a network namespace,
// which it keeps alive until it is closed.
type NetDev struct{ fd int }

// OpenNetDevs opens dev of the network namespaces mounted on paths, one after the other, and
// hands each to fn by the path's index; or the error. What is no namespace is fs.ErrNotExist.
// One thread enters them all: a thread costs twenty times as much as the rest.
func OpenNetDevs(paths []string, fn func(i int, dev *NetDev, err error)) {
	err := onThread(func() error {
		// Of this thread, in whatever namespace it is when a name is looked up there.
		net, err := open("/proc/thread-self/net", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(net) }()
		for i, path := range paths {
			dev, err := openNetDev(net, path)
			fn(i, dev, err)
		}
		return nil
	})
	if err != nil {
		for i := range paths {
			fn(i, nil, err)
		}
	}
}

func openNetDev(net int, path string) (*NetDev, error) {
	if err := enterNetNS(path); err != nil {
		return nil, err
	}
	fd, err := unix.Openat(net, "dev", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: netDevName, Err: err}
	}
	return &NetDev{fd}, nil
}

const (
	netDevName = "/proc/thread-self/net/dev"
	// maxNetDev bounds what is read of a namespace's interfaces.
	maxNetDev = 16 << 20
	// netDevLine is longer than any line of dev: 16 numbers of 20 digits and a name.
	netDevLine = 512
)

// Read reads what dev says now, into buf if there is room.
func (d *NetDev) Read(buf []byte) ([]byte, error) {
	text := buf[:0]
	for {
		if cap(text)-len(text) < os.Getpagesize() {
			text = append(make([]byte, 0, 2*cap(text)+os.Getpagesize()), text...)
		}
		n, err := unix.Pread(d.fd, text[len(text):cap(text)], int64(len(text)))
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return nil, &os.PathError{Op: "read", Path: netDevName, Err: err}
		}
		text = text[:len(text)+n]
		// The kernel hands out whole lines, a page of them at a time: with room for
		// another there is none.
		if n == 0 || n+netDevLine < os.Getpagesize() {
			return text, nil
		}
		if len(text) > maxNetDev {
			return nil, &os.PathError{Op: "read", Path: netDevName, Err: ErrTooLarge}
		}
	}
}

// MayStayOpen is MayStayOpen of what it has open.
func (d *NetDev) MayStayOpen() bool { return MayStayOpen(d.fd) }

// Close lets the namespace go.
func (d *NetDev) Close() error { return os.NewSyscallError("close", unix.Close(d.fd)) }

// enterNetNS takes this thread into the network namespace mounted on path.
func enterNetNS(path string) error {
	fd, err := open(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // opened for reading only
	switch err := unix.Setns(fd, unix.CLONE_NEWNET); err {
	case nil:
		return nil
	case unix.EINVAL:
		return fmt.Errorf("%s is not a network namespace: %w", path, fs.ErrNotExist)
	default:
		return os.NewSyscallError("setns(CLONE_NEWNET)", err)
	}
}

// InMountNS runs fn on a thread in the mount namespace of ns: paths, and programs
// that fn starts, are those of that namespace. The caller keeps ns.
func InMountNS(ns *os.File, fn func() error) error {
	return onThread(func() error {
		// A thread that shares its working directory with others cannot change
		// the namespace.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare(CLONE_FS)", err)
		}
		if err := unix.Setns(Fd(ns), unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("setns(CLONE_NEWNS)", err)
		}
		return fn()
	})
}

// OpenNetNS opens the network namespace mounted on path. Anything else there,
// such as the plain file that a reboot leaves, is fs.ErrNotExist.
func OpenNetNS(path string) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err == nil && kind == unix.CLONE_NEWNET {
		return f, nil
	}
	_ = f.Close() // opened for reading only
	if err == nil || errors.Is(err, unix.ENOTTY) {
		err = fs.ErrNotExist
	}
	return nil, fmt.Errorf("%s is not a network namespace: %w", path, err)
}

// LinkUp sets IFF_UP on a link of this thread's namespace: one ioctl on a
// socket, where netlink would take three messages.
func LinkUp(name string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer func() { _ = unix.Close(fd) }()
	req, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	req.SetUint16(unix.IFF_UP)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSIFFLAGS, uintptr(unsafe.Pointer(req))); errno != 0 {
		return os.NewSyscallError("ioctl(SIOCSIFFLAGS)", errno)
	}
	return nil
}
