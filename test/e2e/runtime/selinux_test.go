package runtime

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/testutil"
)

// labels prints the SELinux labels of this process, of its session keyring and of files.
func labels(files []string) {
	data, err := os.ReadFile("/proc/thread-self/attr/current")
	fmt.Println("process", strings.TrimRight(string(data), "\n\x00"), err)
	for _, name := range []string{"exec", "keycreate", "sockcreate"} { // for what comes after this process
		data, err := os.ReadFile("/proc/thread-self/attr/" + name)
		fmt.Printf("%s %q %v\n", name, data, err)
	}
	const getSecurity, session = 17, ^uintptr(2) // KEY_SPEC_SESSION_KEYRING is -3
	buf := make([]byte, 256)
	n, _, errno := syscall.Syscall6(unix.SYS_KEYCTL, getSecurity, session, uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	fmt.Println("keyring", strings.TrimRight(string(buf[:min(int(n), len(buf))]), "\x00"), errno)
	for _, file := range files {
		n, err := unix.Lgetxattr(file, "security.selinux", buf)
		fmt.Println(file, strings.TrimRight(string(buf[:max(n, 0)]), "\x00"), err)
	}
}

// TestSELinux: processes, file systems and the keyring have the labels of the config, and
// the kernel holds them to that.
func TestSELinux(t *testing.T) {
	testutil.RequireSELinux(t)
	const (
		process = "system_u:system_r:container_t:s0:c1,c2"
		file    = "system_u:object_r:container_file_t:s0:c1,c2"
		other   = "system_u:object_r:container_file_t:s0:c1,c3"
	)
	h := newHost(t)
	for name, label := range map[string]string{"host": "", "own": file, "other": other} {
		path := filepath.Join(h.root, name)
		err := os.WriteFile(path, []byte("text of "+name), 0o666)
		if err == nil && label != "" {
			err = selinux.SetFileLabel(path, label)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	bundle := func(args ...string) string {
		dir := h.bundle(func(s *specs.Spec) {
			s.Process.SelinuxLabel, s.Linux.MountLabel = process, file
			for _, name := range []string{"host", "own", "other"} {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: "/" + name, Source: filepath.Join(h.root, name), Type: "bind", Options: []string{"bind"}})
			}
		}, args...)
		if err := selinux.Chcon(filepath.Join(dir, "rootfs"), file, true); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	want := fmt.Sprintf("process %s <nil>\nexec \"\" <nil>\nkeycreate \"\" <nil>\nsockcreate \"\" <nil>\nkeyring %s errno 0\n"+
		"/dev %[3]s <nil>\n/dev/shm %[3]s <nil>\n/dev/null %[3]s <nil>\n/own %[3]s <nil>\n", process, process, file)
	show := []string{"/inside", "labels", "/dev", "/dev/shm", "/dev/null", "/own"}

	// Its streams are pipes: the kernel takes files of the host's away from it.
	output := func(args ...string) string {
		out, err := h.command(args...).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v", args, err)
		}
		return string(out)
	}
	if got := output("run", "--bundle", bundle(show[1:]...), "a"); got != want {
		t.Errorf("run:\n%swant\n%s", got, want)
	}
	h.must("run", "--detach", "--bundle", bundle("sleep"), "b")
	defer h.must("delete", "--force", "b")
	for i := range 3 { // the later ones without Go's runtime
		if got := output(append([]string{"exec", "b"}, show...)...); got != want {
			t.Errorf("exec %d:\n%swant\n%s", i, got, want)
		}
	}
	for path, allowed := range map[string]bool{"/host": false, "/own": true, "/other": false} {
		got := output("exec", "b", "/inside", "touch", path)
		if allowed && got != "<nil>\n" || !allowed && got != fmt.Sprintf("open %s: permission denied\n", path) {
			t.Errorf("writing to %s: %s", path, got)
		}
	}
	// Another label than the container's, that of the exec itself.
	if r := h.do("exec", "--process-label", strings.Replace(process, "c2", "c3", 1), "b", "/inside", "exit", "0"); r.code == 0 {
		t.Error("a process of other categories runs in a root that is not its own")
	}
}

// touch opens a file to write to it.
func touch(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		err = f.Close()
	}
	return err
}
