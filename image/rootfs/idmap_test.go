package rootfs

import (
	"archive/tar"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// whoProgram says as whom it runs: its effective user and capabilities, and what its own
// file's capability attribute is in bytes.
const whoProgram = `
#include <stdio.h>
#include <unistd.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <linux/capability.h>
int main(int argc, char **argv) {
	struct __user_cap_header_struct h = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct d[2];
	char attr[100];
	if (syscall(SYS_capget, &h, d) != 0)
		return 1;
	printf("user %d capabilities %x attribute %d\n", geteuid(), d[0].effective, (int)getxattr(argv[0], "security.capability", attr, sizeof attr));
	return 0;
}
`

// capability is a security.capability of revision 2: effective, permitted set.
func capability(permitted uint32) string {
	const revision2, effective = 0x02000000, 1
	v := binary.LittleEndian.AppendUint32(nil, revision2|effective)
	v = binary.LittleEndian.AppendUint32(v, permitted)
	return string(append(v, make([]byte, 12)...)) // inheritable and the upper halves
}

// TestIDMapped runs files of an image with setuid bits and capabilities in a user
// namespace: they give what they would give without one, there, and nothing that is not
// mapped.
func TestIDMapped(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	if !testutil.KernelAtLeast(6, 8) {
		t.Skip("needs Linux 6.8, where an overlay's layers are set one by one")
	}
	source, program := filepath.Join(t.TempDir(), "who.c"), filepath.Join(t.TempDir(), "who")
	if err := os.WriteFile(source, []byte(whoProgram), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("gcc", "-static", "-o", program, source).CombinedOutput(); err != nil {
		t.Skipf("needs gcc: %v: %s", err, out)
	}
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range places {
		t.Run(p.name, func(t *testing.T) {
			testutil.CheckLeaks(t)
			idMapped(t, p.driver, p.dir(t), string(content))
		})
	}
}

const (
	mappedFirst = 100_000 // the host's id of root in the user namespace
	mappedCount = 65_536
	netBind     = 1 << 10 // CAP_NET_BIND_SERVICE
)

func idMapped(t *testing.T, driver, dir, program string) {
	d, err := Open(driver, dir)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name string, mode int64, uid int) entry {
		return entry{kind: tar.TypeReg, name: name, content: program, mode: mode, uid: uid}
	}
	capable := file("capable", 0o755, 0)
	capable.xattr = "security.capability=" + capability(netBind)
	lowers := image(t, d, dir,
		[]entry{file("plain", 0o755, 0), file("suid", 0o4755, 3), file("suid-root", 0o4755, 0), file("suid-above", 0o4755, mappedCount)},
		[]entry{capable})
	m, err := d.Prepare(lowers, dir)
	if err != nil {
		t.Fatal(err)
	}
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: mappedFirst, Size: mappedCount}}
	root := filepath.Join(dir, "mapped")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	mount := mapped(t, m, ids)
	if err := sys.MountOn(mount, root); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sys.Unmount(root); err != nil {
			t.Error(err)
		}
	})
	const all = 1<<32 - 1
	for name, want := range map[string]string{
		"plain":      "user 1000 capabilities 0 attribute -1",
		"suid":       "user 3 capabilities 0 attribute -1",
		"suid-root":  fmt.Sprintf("user 0 capabilities %x attribute -1", uint32(all)),
		"suid-above": "user 1000 capabilities 0 attribute -1", // nobody's in there
		"capable":    fmt.Sprintf("user 1000 capabilities %x attribute %d", netBind, len(capability(netBind))),
	} {
		cmd := exec.Command("/" + name)
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Chroot: root, Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids,
			GidMappingsEnableSetgroups: true, Credential: &syscall.Credential{Uid: 1000, Gid: 1000},
		}
		out, err := cmd.CombinedOutput()
		if err != nil || strings.TrimSpace(string(out)) != want {
			t.Errorf("%s says %q, %v; want %q", name, out, err, want)
		}
	}
}

// mapped makes the mount with the ids of a user namespace, as the monitor does.
func mapped(t *testing.T, m Mount, ids []syscall.SysProcIDMap) *os.File {
	t.Helper()
	holder := exec.Command("sleep", "infinity")
	holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := holder.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = holder.Process.Kill()
		_ = holder.Wait() // killed
	}()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", holder.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var mount *os.File
	if m.Type == "overlay" {
		mount, err = sys.NewMappedOverlay(m.overlayOptions(), ns)
	} else if mount, err = sys.CloneMount(m.Source, false); err == nil {
		err = sys.IDMapMount(mount, ns, false)
	}
	if err != nil {
		t.Fatal(err)
	}
	return mount
}
