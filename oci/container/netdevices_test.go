package container

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// inNetNS runs a command in a network namespace.
func inNetNS(t *testing.T, ns string, command ...string) string {
	t.Helper()
	out, err := exec.Command("nsenter", append([]string{"--net=" + ns}, command...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v: %s", command, err, out)
	}
	return string(out)
}

// The devices are those of the runtime's network namespace: this test's program
// runs again in one of its own.
func TestNetDevices(t *testing.T) {
	if os.Getenv("STRAKE_TEST_NET") == "" {
		newEnv(t) // for its checks of what is left, and of root
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestNetDevices$", "-test.v")
		cmd.Env = append(os.Environ(), "STRAKE_TEST_NET=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v:\n%s", err, out)
		}
		return
	}
	if _, err := exec.LookPath("ip"); err != nil {
		t.Skip("needs Debian's iproute2")
	}
	e := newEnv(t)
	ip := func(args ...string) {
		t.Helper()
		out, err := exec.Command("ip", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %v: %v: %s", args, err, out)
		}
	}
	// A pair is what every kernel with containers has.
	ip("link", "add", "one", "mtu", "1400", "address", "02:00:00:00:00:01", "type", "veth", "peer", "name", "two")
	ip("link", "set", "one", "up")
	ip("addr", "add", "192.0.2.5/24", "broadcast", "192.0.2.255", "dev", "one")
	ip("addr", "add", "2001:db8::5/64", "dev", "one", "nodad", "noprefixroute")
	ip("addr", "add", "198.51.100.6/24", "scope", "link", "dev", "one")
	ip("addr", "add", "2001:db8::6/64", "dev", "one", "valid_lft", "1000", "preferred_lft", "1000")
	here := func(name string) bool { _, err := net.InterfaceByName(name); return err == nil }

	s := e.spec("exec sleep 1000")
	s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"one": {Name: "eth7"}, "two": {Name: "tmpl%d"}}
	c, p := e.start(s)
	ns := "/proc/" + itoa(p.Pid) + "/ns/net"
	out := inNetNS(t, ns, "ip", "addr")
	contains(t, out, "eth7", "mtu 1400", "link/ether 02:00:00:00:00:01", "inet 192.0.2.5/24 brd 192.0.2.255 scope global", "inet6 2001:db8::5/64 scope global", "noprefixroute", "tmpl0")
	if strings.Contains(out, "198.51.100.6") || strings.Contains(out, "2001:db8::6") || strings.Count(out, ",UP,") < 2 || here("one") || here("two") {
		t.Errorf("here: %v %v, there:\n%s", here("one"), here("two"), out)
	}
	must(t, c.Delete(t.Context(), true))

	// Into a user namespace of the container's own, whose root may change them there.
	ip("link", "add", "three", "mtu", "1400", "type", "veth", "peer", "name", "four")
	ip("link", "set", "three", "up")
	ip("addr", "add", "192.0.2.5/24", "dev", "three")
	s = inUserNS(e.spec("exec sleep 1000"))
	grant(s, "CAP_NET_ADMIN")
	s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"three": {Name: "eth7"}}
	c, p = e.start(s)
	ns = "/proc/" + itoa(p.Pid) + "/ns/net"
	out = inNetNS(t, ns, "ip", "addr")
	contains(t, out, "eth7", "inet 192.0.2.5/24")
	if here("three") || !here("four") {
		t.Errorf("here: %v %v, there:\n%s", here("three"), here("four"), out)
	}
	_, err := e.exec(c, sh("ip link set eth7 mtu 1300"))
	must(t, err)
	contains(t, inNetNS(t, ns, "ip", "link", "show", "eth7"), "mtu 1300")
	must(t, c.Delete(t.Context(), true))

	// A create that fails afterwards gives them back as they were.
	for name, change := range map[string]func(*specs.Spec){
		"in a user namespace":       func(s *specs.Spec) { inUserNS(s).Process.Args = []string{"/no/such"} },
		"a program that is missing": func(s *specs.Spec) { s.Process.Args = []string{"/no/such"} },
		"a second device missing":   func(s *specs.Spec) { s.Linux.NetDevices["zzz"] = specs.LinuxNetDevice{} },
		"a name that is taken":      func(s *specs.Spec) { s.Linux.NetDevices["two"] = specs.LinuxNetDevice{Name: "lo"} },
	} {
		ip("link", "add", "one", "type", "veth", "peer", "name", "two")
		ip("link", "set", "one", "up")
		ip("addr", "add", "192.0.2.5/24", "dev", "one")
		s := e.spec("true")
		s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"one": {Name: "eth0"}, "two": {}}
		change(s)
		if _, err := e.run(s); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.HasPrefix(name, "a second") && !strings.Contains(err.Error(), "linux.netDevices[zzz]: no network device zzz: no such device") ||
			strings.HasPrefix(name, "a name") && !strings.Contains(err.Error(), "linux.netDevices[two]: move network device two to lo: file exists") {
			t.Errorf("%s: %v", name, err)
		}
		out, err := exec.Command("ip", "addr").CombinedOutput()
		must(t, err)
		if !here("one") || !here("two") || !strings.Contains(string(out), "192.0.2.5/24") {
			t.Errorf("%s: left:\n%s", name, out)
		}
		ip("link", "del", "one")
	}
}
