package foreign

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestParseEndpoint(t *testing.T) {
	for _, c := range []struct {
		out  string
		want Endpoint
		err  string
	}{
		{`{"version":3,"address":"unix:///run/a","protocol":"ttrpc"}` + "\n", Endpoint{"unix:///run/a", 3}, ""},
		{`{"version":2,"address":"unix:///run/a","protocol":"ttrpc"}`, Endpoint{"unix:///run/a", 2}, ""},
		{"unix:///run/containerd/s/0123\n", Endpoint{"unix:///run/containerd/s/0123", 2}, ""},
		{"/containerd-shim/x.sock", Endpoint{"/containerd-shim/x.sock", 2}, ""}, // abstract
		{`{"version":3,"address":"unix:///run/a","protocol":"grpc"}`, Endpoint{}, `speaks "grpc"`},
		{`{"version":4,"address":"unix:///run/a","protocol":"ttrpc"}`, Endpoint{}, "version 4"},
		{`{"version":3,"address":"vsock://3:1024","protocol":"ttrpc"}`, Endpoint{}, `listens on "vsock"`},
		{"", Endpoint{}, "no address"},
		{"{", Endpoint{}, "unexpected end"},
	} {
		got, err := parseEndpoint([]byte(c.out))
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%q: %+v, %v; want %+v, %q", c.out, got, err, c.want, c.err)
		}
	}
}

// A shim is told what containerd tells it, and its last words are in the error.
func TestLaunch(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "shim")
	script := `#!/bin/sh
{ echo "$@"; pwd; env | grep -E '^(TTRPC_ADDRESS|GRPC_ADDRESS|NAMESPACE|MAX_SHIM_VERSION|STRAKE_PINS)=' | sort; cat; } >` + dir + `/told
for a; do :; done
[ "$a" = delete ] && echo "cannot" >&2 && exit 3
echo unix:///run/x
`
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STRAKE_PINS", "/pins")
	s := &Shim{Path: path, Namespace: "k8s", Events: "/run/events", Publisher: "/bin/publish",
		Start: func(c *exec.Cmd) (func(), error) { return func() {}, c.Start() }}
	e, err := s.Launch(t.Context(), "pod1", dir, []byte("options"))
	if err != nil || e != (Endpoint{"unix:///run/x", 2}) {
		t.Fatal(e, err)
	}
	told, err := os.ReadFile(filepath.Join(dir, "told"))
	want := "-namespace k8s -address /run/events -publish-binary /bin/publish -id pod1 start\n" + dir +
		"\nGRPC_ADDRESS=/run/events\nMAX_SHIM_VERSION=3\nNAMESPACE=k8s\nTTRPC_ADDRESS=/run/events.ttrpc\noptions"
	if err != nil || string(told) != want {
		t.Errorf("told %q, want %q (%v)", told, want, err)
	}
	if _, err := s.Delete(t.Context(), "pod1", dir); err == nil || !strings.Contains(err.Error(), "exit status 3: cannot") {
		t.Errorf("delete: %v", err)
	}
	s.Events = "/" + strings.Repeat("x", 120)
	if _, err := s.Launch(t.Context(), "pod1", dir, nil); err == nil || !strings.Contains(err.Error(), "shorter state directory") {
		t.Errorf("long path: %v", err)
	}
}

// The socket of a shim that was killed is removed; one that is served, and whatever else
// is at its path, stays.
func TestForget(t *testing.T) {
	dir := t.TempDir()
	listen := func(path string) *net.UnixListener {
		t.Helper()
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: path})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	alive := Endpoint{Address: "unix://" + dir + "/alive"}
	listen(dir + "/alive")
	dead := Endpoint{Address: "unix://" + dir + "/dead"}
	listen(dir + "/dead").Close()
	for _, e := range []Endpoint{alive, dead} {
		conn, err := e.Dial(t.Context())
		if err == nil {
			conn.Close()
		}
		for range 2 {
			if err := e.Forget(err); err != nil {
				t.Errorf("%s: %v", e.Address, err)
			}
		}
	}
	if err := os.WriteFile(dir+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, address := range []string{"unix://" + dir + "/file", "@abstract", "unix://@abstract"} {
		if err := (Endpoint{Address: address}).Forget(syscall.ECONNREFUSED); err != nil {
			t.Errorf("%s: %v", address, err)
		}
	}
	var left []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		left = append(left, e.Name())
	}
	if strings.Join(left, " ") != "alive file" {
		t.Errorf("left: %v", left)
	}
}
