package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// diskSize is sparse: only what is written takes room.
const diskSize = 16 << 30

// disk makes an ext4 in a file and mounts it, for one puller; done takes it away.
//
// A shared file system would not be the same for all: the next puller finds the
// journal, the free inodes and the blocks to be discarded that deleting a gigabyte
// in tens of thousands of files has left. An ext4 without a journal even skips inodes
// for five minutes after they were deleted, one by one at each creation
// (recently_deleted in the kernel's fs/ext4/ialloc.c), which costs several times what
// a pull does.
func (b *bench) disk(ctx context.Context) (dir string, done func() error, err error) {
	if dir, err = os.MkdirTemp(b.work, "disk-"); err != nil {
		return "", nil, err
	}
	file := filepath.Join(b.work, filepath.Base(dir)+".ext4")
	undo := func() error { return errors.Join(os.Remove(dir), os.RemoveAll(file)) }
	f, err := os.Create(file)
	if err == nil {
		err = errors.Join(f.Truncate(diskSize), f.Close())
	}
	if err == nil {
		err = output(ctx, "mkfs.ext4", "-q", file)
	}
	if err == nil {
		// Without a thread that writes the inode tables meanwhile.
		err = output(ctx, "mount", "-o", "loop,noinit_itable", file, dir)
	}
	if err != nil {
		return "", nil, errors.Join(err, undo())
	}
	return dir, func() error {
		// Whatever ctx: an interrupted session leaves no mount.
		return errors.Join(output(context.WithoutCancel(ctx), "umount", dir), undo())
	}, nil
}

// output runs a command; what it says is in the error.
func output(ctx context.Context, program string, args ...string) error {
	if out, err := exec.CommandContext(ctx, program, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, out)
	}
	return nil
}
