// Package netns makes, enters and removes network namespaces that are found by a path:
// bind mounted there, as CNI plugins expect it, or, where somebody else keeps them, by a
// symbolic link to a descriptor of theirs in /proc, which takes no entry in the host's
// mount table. Who has such a path opens it as it would the other.
//
// A Go thread that has entered another namespace is never handed back to the
// scheduler: every call here that needs one uses a thread of its own, which
// ends with the call.
package netns

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/sys"
)

// New makes a network namespace with its loopback up and mounts it on path,
// which is created, with its directory. It leaves nothing behind if it fails. A
// path that is a live namespace already is fs.ErrExist; a stale file, left by a
// reboot or a crash, is used again.
func New(path string) (err error) {
	defer wrap(&err, "make", path)
	return onFile(path, sys.NewNetNS)
}

// Keep is New for a network namespace that is there already, at from: a path below
// /proc, so that it belongs to another user namespace than this process's.
func Keep(from, path string) (err error) {
	defer wrap(&err, "keep", path)
	return onFile(path, func(path string) error { return sys.KeepNetNS(from, path) })
}

// Lend makes a network namespace with its loopback up that is there as long as the returned
// file is open, and links path to it: whoever is to keep it opens that meanwhile, and Link
// then points to them. A path that is a live namespace already is fs.ErrExist.
func Lend(path string) (held *os.File, err error) {
	defer wrap(&err, "lend", path)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	if live, err := Exists(path); err != nil {
		return nil, err
	} else if live {
		return nil, fs.ErrExist
	}
	ns, err := sys.OpenNewNetNS()
	if err != nil {
		return nil, err
	}
	if err := link(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), sys.Fd(ns)), path); err != nil {
		return nil, errors.Join(err, ns.Close())
	}
	return ns, nil
}

// Fix mounts a lent network namespace on its path, for nobody else keeps it.
func Fix(held *os.File, path string) (err error) {
	defer wrap(&err, "fix", path)
	if err := os.Remove(path); err != nil { // the link
		return err
	}
	return onFile(path, func(path string) error { return sys.MountNetNS(held, path) })
}

// Borrow brings the loopback of a network namespace up that somebody else keeps, at from, and
// links path to it.
func Borrow(from, path string) (err error) {
	defer wrap(&err, "borrow", path)
	if err := sys.LoopbackUp(from); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return link(from, path)
}

// Link has a path that is a link point to where the same network namespace is kept now. One
// that is mounted, or not there, stays what it is.
func Link(from, path string) (err error) {
	defer wrap(&err, "link", path)
	if now, err := linkAt(path); err != nil || now == "" || now == from {
		return err
	}
	return link(from, path)
}

// Unlink removes path if it is a link: who kept the network namespace is gone, and where it
// leads may be another's one day. One that is mounted stays.
func Unlink(path string) (err error) {
	defer wrap(&err, "unlink", path)
	if now, err := linkAt(path); err != nil || now == "" {
		return err
	}
	return os.Remove(path)
}

// linkAt is where the link at path leads, "" if there is none.
func linkAt(path string) (string, error) {
	to, err := os.Readlink(path)
	if errors.Is(err, syscall.EINVAL) || errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return to, err
}

// link replaces path by a link, so that nobody finds none.
func link(to, path string) error {
	next := nextLink(path)
	if err := os.Remove(next); err != nil && !errors.Is(err, fs.ErrNotExist) { // of somebody who was killed here
		return err
	}
	if err := os.Symlink(to, next); err != nil {
		return err
	}
	return os.Rename(next, path)
}

// nextLink is where a link is made before it is path: beside its directory, in which only
// pods are.
func nextLink(path string) string {
	dir, name := filepath.Split(path)
	return filepath.Join(filepath.Dir(filepath.Clean(dir)), "."+filepath.Base(dir)+"-"+name)
}

// onFile makes a file, which fill mounts a namespace on.
func onFile(path string, fill func(path string) error) (err error) {
	var undo cleanup.Stack
	defer undo.Run(&err)

	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if live, err := Exists(path); err != nil {
		return err
	} else if live {
		return fs.ErrExist
	}
	// The file is only something to mount on; nobody may read it meanwhile.
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	_ = f.Close() // nothing was written
	undo.Push("remove "+path, func() error { return os.Remove(path) })

	if err := fill(path); err != nil {
		return err
	}
	undo.Release()
	return nil
}

// Remove unmounts and removes path; the namespace ends with its last process, unless it is
// kept. It is idempotent: a missing path and a stale file are no errors.
func Remove(path string) (err error) {
	defer wrap(&err, "remove", path)
	if err := sys.Unmount(path); err != nil {
		return err
	}
	for _, path := range []string{path, nextLink(path)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Exists reports whether a live network namespace is at path.
func Exists(path string) (bool, error) {
	ns, err := sys.OpenNetNS(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	_ = ns.Close() // opened for reading only
	return true, nil
}

// Do runs fn on a thread in the namespace at path and returns fn's error. Only
// what fn does on its own goroutine happens there. A path that is no live
// namespace is fs.ErrNotExist.
func Do(path string, fn func() error) error {
	ns, err := sys.OpenNetNS(path)
	if err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	defer func() { _ = ns.Close() }() // opened for reading only
	return sys.InNetNS(ns, fn)
}

// Counters reads the counters of namespaces' interfaces again and again: what has been read
// stays open, as far as there are descriptors for that, which is a fifth of the work. An open
// one keeps its namespace alive: Forget it after Remove. The zero value is ready.
type Counters struct {
	mu   sync.Mutex
	open map[string]*sys.NetDev
	buf  []byte
}

// Read reads proc_pid_net(5)'s dev in the namespace at each path and hands it to fn by the
// path's index, in any order; or the error, which is fs.ErrNotExist for a path that is no live
// namespace. dev is fn's until it returns.
func (c *Counters) Read(paths []string, fn func(i int, dev []byte, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	read := func(i int, dev *sys.NetDev, err error) error {
		var text []byte
		if err == nil {
			if text, err = dev.Read(c.buf); err == nil {
				c.buf = text[:0] // it may have grown
			}
		}
		if err != nil {
			err = fmt.Errorf("interfaces of network namespace %s: %w", paths[i], err)
		}
		fn(i, text, err)
		return err
	}
	var others []string
	var index []int // of each
	for i, path := range paths {
		if dev := c.open[path]; dev != nil {
			_ = read(i, dev, nil) // fn has it
		} else {
			others, index = append(others, path), append(index, i)
		}
	}
	if len(others) == 0 {
		return
	}
	sys.OpenNetDevs(others, func(n int, dev *sys.NetDev, err error) {
		failed := read(index[n], dev, err) != nil
		switch {
		case dev == nil:
		case failed || c.open[others[n]] != nil || !dev.MayStayOpen():
			_ = dev.Close() // it was read
		default:
			if c.open == nil {
				c.open = map[string]*sys.NetDev{}
			}
			c.open[others[n]] = dev
		}
	})
}

// Forget closes what is open of the namespace that was at path.
func (c *Counters) Forget(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if dev := c.open[path]; dev != nil {
		_ = dev.Close() // it was read
		delete(c.open, path)
	}
}

func wrap(err *error, verb, path string) {
	if *err != nil {
		*err = fmt.Errorf("%s network namespace %s: %w", verb, path, *err)
	}
}
