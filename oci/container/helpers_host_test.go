package container

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/sys"
)

const mappedRoot = 300000

// shareRootfs gives the rootfs to the root of user namespaces that map 0 to
// mappedRoot, and makes the way to it passable.
func shareRootfs(t *testing.T, e *env) {
	t.Helper()
	passable(t, e)
	must(t, filepath.WalkDir(filepath.Join(e.bundle, "rootfs"), func(p string, _ os.DirEntry, err error) error {
		must(t, err)
		return os.Lchown(p, mappedRoot, mappedRoot)
	}))
}

// passable opens the way to the bundle to all, as far as it is the test's own.
func passable(t *testing.T, e *env) {
	t.Helper()
	must(t, os.Chmod(e.bundle, 0o755))
	must(t, os.Chmod(filepath.Dir(e.bundle), 0o755))
}

func kernelAtLeast(t *testing.T, major, minor int) bool {
	t.Helper()
	h, err := hostFacts()
	must(t, err)
	return h.AtLeast(major, minor)
}

// requireIDMaps skips the test where the file system of its temporary directories
// takes no id mappings.
func requireIDMaps(t *testing.T) {
	t.Helper()
	const tmpfsMagic = 0x01021994
	var st syscall.Statfs_t
	must(t, syscall.Statfs(t.TempDir(), &st))
	if st.Type == tmpfsMagic && !kernelAtLeast(t, 6, 3) {
		t.Skipf("needs Linux 6.3, where a tmpfs takes id mappings, or another file system than %s has", os.TempDir())
	}
}

func fdOf(f *os.File) string { return itoa(sys.Fd(f)) }

// sharedMount is a directory with a mount of its own whose peers share it.
func sharedMount(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, syscall.Mount("tmpfs", dir, "tmpfs", 0, ""))
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
	must(t, syscall.Mount("", dir, "", syscall.MS_SHARED, ""))
	return dir
}

// hostMounts says whether something is mounted on or below path.
func hostMounts(t *testing.T, path string) bool {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	return bytes.Contains(data, []byte(" "+path+" ")) || bytes.Contains(data, []byte(" "+path+"/"))
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s: not within 5 s", what)
}

func tempFile(t *testing.T, content string) *os.File {
	t.Helper()
	name := filepath.Join(t.TempDir(), "f")
	must(t, os.WriteFile(name, []byte(content), 0o600))
	f, err := os.Open(name)
	must(t, err)
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func cancelWhen(t *testing.T, ok func() bool) (context.Context, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for range 500 {
			if ok() {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		cancel()
	}()
	return ctx, cancel
}

func countProcesses(cmdline string) (n int) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range files {
		if data, err := os.ReadFile(f); err == nil && strings.Contains(string(data), cmdline) {
			n++
		}
	}
	return n
}
