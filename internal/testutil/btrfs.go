package testutil

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// Btrfs is a directory that is a btrfs in a file of its own, until the test ends.
// The test is skipped where none can be made.
func Btrfs(tb testing.TB) string {
	tb.Helper()
	RequireRoot(tb, "mounts a btrfs")
	if _, err := exec.LookPath("mkfs.btrfs"); err != nil {
		tb.Skip("needs mkfs.btrfs (package btrfs-progs)")
	}
	file, dir := filepath.Join(tb.TempDir(), "disk"), filepath.Join(tb.TempDir(), "mnt")
	if err := errors.Join(os.WriteFile(file, nil, 0o600), os.Truncate(file, 256<<20), os.Mkdir(dir, 0o755)); err != nil {
		tb.Fatal(err)
	}
	for _, args := range [][]string{{"mkfs.btrfs", "-q", "-M", file}, {"mount", "-o", "loop", file, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			tb.Skipf("no loop device with a btrfs here: %v: %v: %s", args, err, out)
		}
	}
	tb.Cleanup(func() {
		// Detached: a loop device on a file in it lets go of that a moment later.
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			tb.Error(err)
		}
	})
	return dir
}
