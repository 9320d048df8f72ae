package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Disk is a small ext4 file system of a test's own, on a loop device, that can be
// filled up and can stand still. Its methods may be used concurrently.
type Disk struct{ path string }

// newDisk makes a disk of size bytes, whose file is beside path, and mounts it
// there. Whoever unmounts it removes the file.
func newDisk(tb testing.TB, path string, size int64) *Disk {
	tb.Helper()
	run := func(name string, args ...string) {
		tb.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			tb.Fatalf("%s: %v: %s", name, err, out)
		}
	}
	image := path + ".img"
	if err := errors.Join(os.MkdirAll(path, 0o700), os.WriteFile(image, nil, 0o600), os.Truncate(image, size)); err != nil {
		tb.Fatal(err)
	}
	// No block is root's: what straked cannot write, nobody can.
	run("mkfs.ext4", "-q", "-m", "0", image)
	run("mount", "-o", "loop", image, path)
	return &Disk{path}
}

// Fill leaves not a block free, until Empty.
func (d *Disk) Fill() error {
	f, err := os.OpenFile(d.filler(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return d.unlessFull(err)
	}
	defer func() { _ = f.Close() }() // what counts is that it is there
	at, err := f.Seek(0, 2)
	if err != nil {
		return err
	}
	for step := int64(64 << 20); step >= 4096; {
		if err := syscall.Fallocate(int(f.Fd()), 0, at, step); err != nil {
			if err := d.unlessFull(err); err != nil {
				return err
			}
			step /= 2
			continue
		}
		at += step
	}
	return nil
}

func (d *Disk) unlessFull(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EINTR) {
		return nil
	}
	return fmt.Errorf("fill %s: %w", d.path, err)
}

// Empty undoes Fill.
func (d *Disk) Empty() error {
	if err := os.Remove(d.filler()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (d *Disk) filler() string { return filepath.Join(d.path, "filler") }

// Freeze makes whoever writes to the disk wait for Thaw.
func (d *Disk) Freeze() error { return d.fsfreeze("-f") }

// Thaw undoes Freeze.
func (d *Disk) Thaw() error { return d.fsfreeze("-u") }

func (d *Disk) fsfreeze(what string) error {
	if out, err := exec.Command("fsfreeze", what, d.path).CombinedOutput(); err != nil {
		return fmt.Errorf("fsfreeze %s %s: %w: %s", what, d.path, err, out)
	}
	return nil
}
