package runtime

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// CVE-2026-30892 of crun (to 1.26): a user that only begins like one becomes
// somebody, root at worst. What crun took for 0 is in the list.
func TestMalformedUserIsNobody(t *testing.T) {
	h := newHost(t)
	start(h)
	for _, user := range []string{"1", "1x", "0x10", "-1", "+1", " 1", "1 ", "1:", ":1", "1:x", "1:-1", "1:2:3", "4294967296", "1:4294967296", "x", "1,2", "1e3"} {
		out, code := h.do("exec", "--user", user, id, "true")
		if good := user == "1"; good != (code == 0) || !good && (code != 255 || !strings.Contains(out, "--user")) {
			t.Errorf("--user %q: exit code %d: %s", user, code, out)
		}
	}
	h.must("delete", "--force", id)
}

// CVE-2022-29162 (runc to 1.1.1), CVE-2022-27650 of crun (to 1.4.3): a capability
// that exec adds is inheritable too, so that a program with file capabilities gains
// it.
func TestAddedCapabilityIsNotInheritable(t *testing.T) {
	h := newHost(t)
	must(t, os.Symlink("busybox", filepath.Join(h.bundle, "rootfs/bin/cat")))
	start(h)
	out := h.must("exec", "--cap", "CAP_NET_ADMIN", id, "cat", "/proc/self/status")
	none := strings.Repeat("0", 16)
	for _, line := range []string{"CapInh:\t" + none, "CapAmb:\t" + none, "CapPrm:\t0000000020001420", "CapBnd:\t0000000020001420"} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("no %q in\n%s", line, out)
		}
	}
	h.must("delete", "--force", id)
}
