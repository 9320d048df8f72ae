package cgroup

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/abi"
)

// The files of a cgroup are tiny and there are many of them, so they are read
// and written with one open, one read or write and one close each, beside the
// os package, which would offer every one of them to the poller first.

// maxRead bounds what is read of one kernel file.
const maxRead = 1 << 20

func open(name string, flags int) (int, error) {
	fd, err := openAt(abi.AtFDCWD, name, flags)
	return fd, pathError("open", name, err)
}

// openAt opens a name that is looked up from a directory.
func openAt(dir int, name string, flags int) (int, error) {
	for {
		fd, err := syscall.Openat(dir, name, flags|syscall.O_CLOEXEC, 0)
		if !errors.Is(err, syscall.EINTR) {
			return fd, err
		}
	}
}

func openDir(name string) (int, error) {
	return open(name, syscall.O_RDONLY|syscall.O_DIRECTORY)
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// writeFile hands value to a kernel file in one write, which is how the kernel
// takes a setting: whole or not at all.
func writeFile(name, value string) error {
	fd, err := open(name, syscall.O_WRONLY)
	if err != nil {
		return err
	}
	err = writeFD(fd, name, value)
	_ = syscall.Close(fd) // the write has taken effect or failed already
	return err
}

func writeFD(fd int, name, value string) error {
	for {
		_, err := syscall.Write(fd, []byte(value))
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return pathError("write "+strconv.Quote(value)+" to", name, err)
		}
		return nil
	}
}

// readFile returns the whole of a kernel file.
func readFile(name string) (string, error) {
	fd, err := open(name, syscall.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer func() { _ = syscall.Close(fd) }()
	return readFD(fd, name)
}

func readFD(fd int, name string) (string, error) {
	text, err := readAll(fd)
	return string(text), pathError("read", name, err)
}

// readAt is readFile for a name that is looked up from a directory.
func readAt(dir int, name string) (string, error) {
	fd, err := openAt(dir, name, syscall.O_RDONLY)
	if err != nil {
		return "", err
	}
	defer func() { _ = syscall.Close(fd) }()
	text, err := readAll(fd)
	return string(text), err
}

func readAll(fd int) ([]byte, error) {
	buf := make([]byte, 4096)
	for n := 0; ; {
		got, err := syscall.Pread(fd, buf[n:], int64(n))
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return nil, err
		case got == 0 || n+got > maxRead:
			return buf[:n], nil
		}
		if n += got; n == len(buf) {
			buf = append(buf, make([]byte, len(buf))...)
		}
	}
}

// readCounters is readFile for a file that the kernel writes as one piece: it takes
// one read less to see that there is no more. The file is looked up by name from handle,
// which spares the kernel its whole path, or abi.AtFDCWD; dir and file say which it is.
// It stays open if it is kept.
//
// What it returns is in buf, unless that is too small.
func readCounters(handle int, name, dir, file string, buf []byte, kept *keptFiles) ([]byte, error) {
	fail := func(op string, err error) ([]byte, error) {
		return nil, pathError(op, dir+"/"+file, err)
	}
	var fd int
	for {
		var err error
		fd, err = syscall.Openat(handle, name, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EINTR) {
			return fail("open", err)
		}
	}
	text, err := readPiece(fd, buf)
	if err != nil || !kept.add(file, fd) {
		_ = syscall.Close(fd) // it was read
	}
	if err != nil {
		return fail("read", err)
	}
	return text, nil
}

// readPiece reads a file from its beginning: into buf, unless that is too small.
func readPiece(fd int, buf []byte) ([]byte, error) {
	for {
		n, err := syscall.Pread(fd, buf, 0)
		switch {
		case errors.Is(err, syscall.EINTR):
			continue
		case err != nil:
			return nil, err
		case n == len(buf):
			return readAll(fd)
		}
		return buf[:n], nil
	}
}

// readUint reads a file of one number. "max" is NoLimit.
func readUint(name string) (uint64, error) {
	text, err := readFile(name)
	if err != nil {
		return 0, err
	}
	return parseUint(strings.TrimSpace(text))
}

func parseUint(text string) (uint64, error) {
	if text == "max" || text == "-1" {
		return NoLimit, nil
	}
	return strconv.ParseUint(text, 10, 64)
}

// flatKeyed calls f for each "key number" line of a kernel file's text.
func flatKeyed(text []byte, f func(key []byte, value uint64)) {
	for line := range bytes.Lines(text) {
		key, value, ok := bytes.Cut(bytes.TrimSpace(line), []byte{' '})
		if !ok {
			continue
		}
		if n, err := parseUint(string(value)); err == nil {
			f(key, n)
		}
	}
}

func exists(name string) bool {
	var st syscall.Stat_t
	return syscall.Stat(name, &st) == nil
}

func mkdir(name string) error { return pathError("mkdir", name, syscall.Mkdir(name, 0o755)) }

// rmdir removes an empty directory; one that is gone already is fine.
func rmdir(name string) error {
	err := syscall.Rmdir(name)
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ENODEV) {
		return nil
	}
	return pathError("rmdir", name, err)
}

// subdirs lists the directories in a directory; none if it is gone.
func subdirs(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() {
			dirs = append(dirs, dir+"/"+e.Name())
		}
	}
	return dirs, nil
}
