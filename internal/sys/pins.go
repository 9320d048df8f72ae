package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// pinsNS is where, below its directory, the mount namespace of pins is mounted.
const pinsNS = "ns"

// Pins is a mount namespace that no process lives in, kept by a mount of its own
// on the host. What is mounted in it (namespaces, pidfds, a tmpfs) outlives every
// process that had it open, and takes no entry in the host's mount table. Its
// root is an empty tmpfs: it holds nothing else of the host.
type Pins struct{ ns *os.File }

// MakePins makes pins below dir, an existing directory, or leaves those that are
// there. It takes two entries in the host's mount table: the namespace, and dir
// itself, since a mount namespace can be mounted on nothing that others share.
func MakePins(dir string) error {
	if p, err := OpenPins(dir); err == nil {
		return p.Close()
	}
	if err := RemovePins(dir); err != nil { // half made
		return err
	}
	if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
		return &fs.PathError{Op: "bind", Path: dir, Err: err}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return &fs.PathError{Op: "make private", Path: dir, Err: err}
	}
	at := filepath.Join(dir, pinsNS)
	if err := os.WriteFile(at, nil, 0o600); err != nil {
		return err
	}
	err := mountEmptyNS(dir, at, anyCPU)
	// The kernel lets a mount namespace be mounted only in one that is older, and
	// goes by their numbers, of which (since 6.18) each CPU has a supply of its own.
	// Where ours was made, the next number is greater.
	for cpu := 0; errors.Is(err, unix.ELOOP) && cpu < maxCPUs; cpu++ {
		if e := mountEmptyNS(dir, at, cpu); !errors.Is(e, unix.EINVAL) { // no such CPU, or not ours
			err = e
		}
	}
	if err != nil {
		return fmt.Errorf("pins %s: %w", dir, err)
	}
	return nil
}

const (
	anyCPU  = -1
	maxCPUs = 1024 // in a unix.CPUSet
)

// mountEmptyNS makes an empty mount namespace on a CPU and mounts it.
func mountEmptyNS(dir, at string, cpu int) error {
	ns, err := newEmptyMountNS(dir, cpu)
	if err != nil {
		return err
	}
	defer func() { _ = ns.Close() }() // mounted below, or of no use
	return mountFile(ns, unix.AT_FDCWD, at)
}

// newEmptyMountNS makes a mount namespace with nothing but an empty tmpfs, which
// it mounts on dir first.
func newEmptyMountNS(dir string, cpu int) (ns *os.File, err error) {
	err = onThread(func() error { // the thread ends with it
		if cpu != anyCPU {
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				return os.NewSyscallError("sched_setaffinity", err)
			}
		}
		if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return os.NewSyscallError("mount private", err)
		}
		if err := unix.Mount("pins", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=700"); err != nil {
			return os.NewSyscallError("mount tmpfs", err)
		}
		if ns, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
			return err
		}
		for _, step := range []func() error{
			func() error { return unix.Chdir(dir) },
			func() error { return unix.PivotRoot(".", ".") },
			func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		} {
			if err := step(); err != nil {
				return errors.Join(os.NewSyscallError("pivot_root", err), ns.Close())
			}
		}
		return nil
	})
	return ns, err
}

// OpenPins opens the pins below dir.
func OpenPins(dir string) (*Pins, error) {
	ns, err := os.Open(filepath.Join(dir, pinsNS))
	if err != nil {
		return nil, err
	}
	kind, err := unix.IoctlRetInt(int(ns.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNS {
		_ = ns.Close() // opened for reading only
		return nil, fmt.Errorf("%s is not a mount namespace: %w", filepath.Join(dir, pinsNS), fs.ErrNotExist)
	}
	return &Pins{ns}, nil
}

// RemovePins lets everything go that is pinned below dir, unless somebody has it
// open. What is not there is no error.
func RemovePins(dir string) error {
	for _, path := range []string{filepath.Join(dir, pinsNS), dir} {
		if err := Unmount(path); err != nil {
			return err
		}
	}
	return nil
}

// Close closes the handle; the pins stay.
func (p *Pins) Close() error { return p.ns.Close() }

// Do runs fn on a thread whose root is that of the pins: paths in fn are theirs.
func (p *Pins) Do(fn func() error) error {
	return inMountNS(p.ns, fn)
}

// PinGroup makes a directory whose pins go all at once. It is called in Do, as
// are those below.
func PinGroup(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	return os.NewSyscallError("mount", unix.Mount(dir, dir, "", unix.MS_BIND, ""))
}

// UnpinGroup lets all go that is pinned below dir. What is not there is no error.
func UnpinGroup(dir string) error {
	if err := Unmount(dir); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}

// Pin mounts the file behind f, or the mount if that is what f is, on path. A
// pidfd can be pinned since Linux 6.14: before, the error is EINVAL.
func Pin(f *os.File, path string) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.IsDir() {
		err = os.Mkdir(path, 0o700)
	} else {
		err = os.WriteFile(path, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := mountFile(f, unix.AT_FDCWD, path); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return nil
}

// Unpin lets go what is pinned on path. What is not there is no error.
func Unpin(path string) error {
	if err := Unmount(path); err != nil {
		return err
	}
	if err := os.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// OpenPinnedMount returns the mount that is pinned on path, as a detached one.
func OpenPinnedMount(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, &fs.PathError{Op: "open_tree", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// MountOn mounts a detached mount on a directory, which is made. It takes over m.
func MountOn(m *os.File, dir string) error {
	defer func() { _ = m.Close() }() // mounted, or of no use
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := Unmount(dir); err != nil { // of somebody who was killed after this
		return err
	}
	if err := unix.MoveMount(int(m.Fd()), "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &fs.PathError{Op: "move_mount", Path: dir, Err: err}
	}
	return nil
}

// OpenPinnedPidFD opens a pidfd that is pinned on path.
func OpenPinnedPidFD(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// mountFile mounts the file behind f on a path.
func mountFile(f *os.File, dir int, path string) error {
	tree, err := unix.OpenTree(int(f.Fd()), "", unix.OPEN_TREE_CLONE|unix.AT_EMPTY_PATH|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("open_tree", err)
	}
	defer func() { _ = unix.Close(tree) }() // mounted, or of no use
	return os.NewSyscallError("move_mount", unix.MoveMount(tree, "", dir, path, unix.MOVE_MOUNT_F_EMPTY_PATH))
}
