package cli

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// fails reports whether err is as want says, "" for none, and complains if not.
func fails(t *testing.T, err error, want string) bool {
	t.Helper()
	if want == "" && err != nil {
		t.Fatal(err)
	}
	if want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
		t.Fatalf("error %v, want %q", err, want)
	}
	return want != ""
}

func TestParsePort(t *testing.T) {
	for _, test := range []struct{ in, want, fails string }{
		{"8080:80", "0.0.0.0:8080->80/tcp", ""},
		{"53:53/udp", "0.0.0.0:53->53/udp", ""},
		{"53:53/UDP", "0.0.0.0:53->53/udp", ""},
		{"127.0.0.1:8080:80", "127.0.0.1:8080->80/tcp", ""},
		{"[::1]:8080:80/sctp", "[::1]:8080->80/sctp", ""},
		{"80", "", "-p 80: no host port"},
		{":80", "", `host port "" is not a number`},
		{"0:80", "", `host port "0" is not`},
		{"80:", "", `container port "" is not`},
		{"80:65536", "", "65535"},
		{"-1:80", "", "not a number"},
		{"80:80/icmp", "", `no protocol "icmp"`},
		{"localhost:80:80", "", `"localhost" is not an address`},
		{"8080-8090:80", "", "not a number"},
	} {
		t.Run(test.in, func(t *testing.T) {
			got, err := parsePort(test.in)
			if fails(t, err, test.fails) {
				return
			}
			if portText(got) != test.want {
				t.Errorf("got %s, want %s", portText(got), test.want)
			}
		})
	}
}

func TestParseVolume(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.Mkdir("site", 0o700); err != nil {
		t.Fatal(err)
	}
	site := filepath.Join(dir, "site")
	for _, test := range []struct {
		in    string
		want  *cri.Mount
		fails string
	}{
		{site + ":/www", &cri.Mount{HostPath: site, ContainerPath: "/www"}, ""},
		{"site:/www:ro", &cri.Mount{HostPath: site, ContainerPath: "/www", Readonly: true}, ""},
		{"./site/:/www/:rw", &cri.Mount{HostPath: site, ContainerPath: "/www"}, ""},
		{".:/www", &cri.Mount{HostPath: dir, ContainerPath: "/www"}, ""},
		{"nothere:/www", nil, "nothere does not exist: make it first (mkdir -p "},
		{"/www", nil, "not two paths"},
		{":/www", nil, "not two paths"},
		{"site:www", nil, `"www", is not absolute`},
		{"site:", nil, "is not absolute"},
		{"site:/www:rx", nil, `no option "rx"`},
		{"a:/b:ro:z", nil, "not two paths"},
	} {
		t.Run(test.in, func(t *testing.T) {
			got, err := parseVolume(test.in)
			if fails(t, err, test.fails) {
				return
			}
			if got.String() != test.want.String() {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestParseBytes(t *testing.T) {
	for in, want := range map[string]int64{
		"1": 1, "1b": 1, "4k": 4096, "512m": 512 << 20, "2G": 2 << 30, "8589934591g": 8589934591 << 30,
		"": 0, "m": 0, "-1m": 0, "0": 0, "1t": 0, "1.5g": 0, "9223372036854775807g": 0, "8589934592g": 0,
	} {
		got, err := parseBytes(in)
		if (err != nil) != (want == 0) || err == nil && got != want {
			t.Errorf("%q: got %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParseCPUs(t *testing.T) {
	for in, want := range map[string]int64{"1": 100_000, "1.5": 150_000, "0.01": 1000, "0.001": 0, "-1": 0, "x": 0, "NaN": 0, "Inf": 0} {
		got, err := parseCPUs(in)
		if (err != nil) != (want == 0) || err == nil && got != want {
			t.Errorf("%q: got %d, %v; want %d", in, got, err, want)
		}
	}
}

func TestParseEnv(t *testing.T) {
	lookup := func(name string) (string, bool) {
		if name == "MINE" {
			return "yours", true
		}
		return "", false
	}
	for _, test := range []struct{ in, want, fails string }{
		{"A=b", "A=b", ""},
		{"A=", "A=", ""},
		{"A=b=c", "A=b=c", ""},
		{"MINE", "MINE=yours", ""},
		{"OTHER", "", ""},
		{"=b", "", "no name"},
		{"", "", "no name"},
	} {
		kv, ok, err := parseEnv(test.in, lookup)
		if fails(t, err, test.fails) {
			continue
		}
		got := ""
		if ok {
			got = kv.Key + "=" + string(kv.Value)
		}
		if got != test.want {
			t.Errorf("%q: got %q, want %q", test.in, got, test.want)
		}
	}
}

func TestParseUser(t *testing.T) {
	for _, test := range []struct{ in, want, fails string }{
		{"1000", `run_as_user:{value:1000}`, ""},
		{"1000:50", `run_as_user:{value:1000} run_as_group:{value:50}`, ""},
		{"0:0", `run_as_user:{} run_as_group:{}`, ""},
		{"nobody", `run_as_username:"nobody"`, ""},
		{"nobody:users", "", "write the group and its user as numbers"},
		{"1000:users", "", "takes the group as a number"},
		{"4294967295", "", "too large"},
		{":50", "", "write the group"},
	} {
		var c cri.LinuxContainerSecurityContext
		if fails(t, parseUser(test.in, &c), test.fails) {
			continue
		}
		if got := strings.Join(strings.Fields(c.String()), " "); got != test.want {
			t.Errorf("%s: got %s, want %s", test.in, got, test.want)
		}
	}
}

func TestParseSignal(t *testing.T) {
	for in, want := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "SIGTERM": syscall.SIGTERM, "sighup": syscall.SIGHUP, "9": syscall.SIGKILL, "34": 34,
		"": 0, "0": 0, "65": 0, "-1": 0, "NOPE": 0,
	} {
		got, err := parseSignal(in)
		if (err != nil) != (want == 0) || got != want {
			t.Errorf("%q: got %v, %v; want %v", in, got, err, want)
		}
	}
}
