package testutil

import (
	"runtime"
	"syscall"
	"testing"
)

// SmallTmpfs is a directory with a tmpfs of these mount options on it, to be filled. It
// is in a mount namespace of the test's thread, which it locks and which ends with the
// test: the host's mounts are other tests' business.
func SmallTmpfs(t *testing.T, options string) string {
	t.Helper()
	RequireRoot(t, "a small tmpfs")
	runtime.LockOSThread()
	dir := t.TempDir()
	if err := syscall.Unshare(syscall.CLONE_FS | syscall.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	return dir
}
