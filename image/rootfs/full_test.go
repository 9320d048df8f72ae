package rootfs

import (
	"os"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/internal/testutil"
)

// A daemon starts on a full disk: who else would remove what fills it?
func TestOpenOnAFullDisk(t *testing.T) {
	dir := testutil.SmallTmpfs(t, "nr_inodes=2")
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
