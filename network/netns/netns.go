// Package netns makes, enters and removes network namespaces that are bind
// mounted on a path, where CNI plugins and a restarted daemon find them.
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

// Remove unmounts and removes path; the namespace ends with its last process.
// It is idempotent: a missing path and a stale file are no errors.
func Remove(path string) (err error) {
	defer wrap(&err, "remove", path)
	if err := sys.Unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Exists reports whether a live network namespace is mounted on path.
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

// Interfaces reads proc_pid_net(5)'s dev in the namespace at each path and hands it to fn
// by the path's index; or the error, which is fs.ErrNotExist for a path that is no live
// namespace. One thread enters them all, one after the other: a thread costs twenty times
// as much as the rest. dev is fn's until it returns.
func Interfaces(paths []string, fn func(i int, dev []byte, err error)) {
	sys.EachNetDev(paths, func(i int, dev []byte, err error) {
		if err != nil {
			err = fmt.Errorf("interfaces of network namespace %s: %w", paths[i], err)
		}
		fn(i, dev, err)
	})
}

func wrap(err *error, verb, path string) {
	if *err != nil {
		*err = fmt.Errorf("%s network namespace %s: %w", verb, path, *err)
	}
}
