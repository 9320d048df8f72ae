package cgroup

import (
	"os"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// Whoever may write to a cgroup, as a container's processes to one that is theirs, can make
// others below it, in each other and with long names: deeper than a path is long. So what is
// below is reached by descriptors, and a walk has two of them at most.

// walk goes through dir and all cgroups below it; none if it is gone. It calls enter, unless
// that is nil, with each; and try, unless that is nil, for each but dir, by its name in the
// one above it, before it goes there and, unless that was done with it, afterwards, when it is
// EBUSY that it cannot be done.
func walk(dir string, enter func(at int) error, try func(above int, name string) (done bool, err error)) error {
	at, err := openBelow(func() (int, error) { return openDir(dir) }, dir)
	if err != nil {
		return ignoreGone(err)
	}
	defer func() { _ = at.Close() }() // read-only
	type level struct {
		name string
		rest []string // cgroups in it that are still to be seen
	}
	levels := []level{{}}
	move := func(name string) error {
		next, err := openBelow(func() (int, error) { return sys.OpenDirAt(sys.Fd(at), name) }, dir)
		if err == nil {
			_ = at.Close() // read-only
			at = next
		}
		return err
	}
	for arrived := true; ; {
		here := &levels[len(levels)-1]
		if arrived {
			arrived = false
			if enter != nil {
				if err := enter(sys.Fd(at)); err != nil {
					return err
				}
			}
			if here.rest, err = namesIn(at); err != nil {
				return err
			}
		}
		if n := len(here.rest); n > 0 {
			name := here.rest[n-1]
			here.rest = here.rest[:n-1]
			if try != nil {
				if done, err := try(sys.Fd(at), name); err != nil {
					return pathError("work below", dir, err)
				} else if done {
					continue
				}
			}
			switch err := move(name); {
			case err == nil:
				levels = append(levels, level{name: name})
				arrived = true
			case ignoreGone(err) != nil:
				return err
			}
			continue
		}
		if len(levels) == 1 {
			return nil
		}
		levels = levels[:len(levels)-1]
		if err := move(".."); err != nil {
			return ignoreGone(err)
		}
		if try != nil {
			done, err := try(sys.Fd(at), here.name)
			if err == nil && !done {
				err = syscall.EBUSY
			}
			if err != nil {
				return pathError("work below", dir, err)
			}
		}
	}
}

// openBelow opens a directory at or below dir.
func openBelow(open func() (int, error), dir string) (*os.File, error) {
	for {
		fd, err := open()
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), dir), nil
		case !isErrno(err, syscall.EINTR):
			return nil, pathError("open below", dir, err)
		}
	}
}

// ignoreGone is the error unless that says that a cgroup is gone.
func ignoreGone(err error) error {
	if isErrno(err, syscall.ENOENT, syscall.ENODEV) {
		return nil
	}
	return err
}

// namesIn are the cgroups in one; none if it is gone.
func namesIn(dir *os.File) ([]string, error) {
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, ignoreGone(err)
	}
	var names []string
	for _, e := range entries {
		if e.IsDir() {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// removeAt removes a cgroup by its name in another, unless it is used.
func removeAt(above int, name string) (removed bool, err error) {
	err = sys.RmdirAt(above, name)
	if isErrno(err, syscall.EBUSY) {
		return false, nil
	}
	return true, ignoreGone(err)
}
