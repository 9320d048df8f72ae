package rootfs

import (
	"os"
	"runtime"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/internal/testutil"
)

// A daemon starts on a full disk: who else would remove what fills it?
func TestOpenOnAFullDisk(t *testing.T) {
	testutil.RequireRoot(t, "a small tmpfs")
	// In a mount namespace of this thread, which ends with the test.
	runtime.LockOSThread()
	dir := t.TempDir()
	if err := syscall.Unshare(syscall.CLONE_FS | syscall.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "nr_inodes=2"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/root", 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{Auto, Overlay} {
		if d, err := Open(name, dir+"/root"); err != nil || d.Name() != Overlay {
			t.Errorf("%s: %v, %v", name, d, err)
		}
	}
	if err := syscall.Unmount(dir, 0); err != nil {
		t.Error(err)
	}
}
