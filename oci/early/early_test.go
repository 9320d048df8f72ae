package early

import (
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/launch"
)

func TestSpecVersion(t *testing.T) {
	if specVersion != specs.Version {
		t.Errorf("state shows %s, the specification is %s", specVersion, specs.Version)
	}
}

func TestKeptNames(t *testing.T) {
	if got, want := launch.KeptNames(), [...]string{kept0, kept1, kept2, kept3}; got != want {
		t.Errorf("delete knows %q, there are %q", want, got)
	}
}

func TestHasMember(t *testing.T) {
	for text, want := range map[string]bool{
		`{"apparmorProfile":"docker-default"}`:        true,
		"{\"apparmorProfile\" :\n\t \"p\"}":           true,
		`{"apparmorProfile":""}`:                      false,
		`{"apparmorProfile":"","apparmorProfile":"p"`: true,
		`{"apparmorProfile":null}`:                    false,
		`{"apparmorProfile":"`:                        false,
		`{"apparmorProfile"`:                          false,
		`{"args":["apparmorProfile"]}`:                false,
		"":                                            false,
	} {
		if got := hasMember(text, `"apparmorProfile"`); got != want {
			t.Errorf("%s: %v", text, got)
		}
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		args string
		want command // without a verb: it gives up
	}{
		{"--root /r state a", command{root: "/r", verb: "state", id: "a", signal: 15}},
		{"-root=/r --log /l --log-format json --systemd-cgroup kill a 9", command{root: "/r", log: "/l", verb: "kill", id: "a", signal: 9}},
		{"--root=/r kill a SIGKILL", command{root: "/r", verb: "kill", id: "a", signal: 9}},
		{"--root=/r kill a", command{root: "/r", verb: "kill", id: "a", signal: 15}},
		{"--root=/r delete --force a", command{root: "/r", verb: "delete", id: "a", signal: 15, force: true}},
		{"--root=/r kill a SIGRTMIN+1", command{}},
		{"--root=/r kill a 65", command{}},
		{"--root=/r kill --all a", command{}},
		{"--root=/r exec a true", command{root: "/r", verb: "exec", id: "a"}},
		{"--root=/r exec -d --process=p --pid-file f a", command{root: "/r", verb: "exec", id: "a"}},
		{"--root=/r exec a", command{}},
		{"--root=/r exec -t a true", command{}},
		{"--root=/r exec --process - a", command{}},
		{"--root=/r exec --detach=true a true", command{}},
		{"--root=/r exec --env A=b a true", command{}},
		{"--root=/r state", command{}},
		{"--root=/r state a b", command{}},
		{"--root=/r state ../a", command{}},
		{"--root=/r state -h", command{}},
		{"--root=r state a", command{}},
		{"--root=/r/../r state a", command{}},
		{"--root= state a", command{}},
		{"--root=/ state a", command{}},
		{"--root=// state a", command{}},
		{"--root", command{}},
		{"--debug --root=/r state a", command{}},
		{"--log-format=x --root=/r state a", command{}},
		{"--systemd-cgroup=false --root=/r state a", command{}},
		{"", command{}},
	} {
		var got command
		ok := got.parse(strings.Fields(c.args))
		if ok != (c.want.verb != "") || ok && got != c.want {
			t.Errorf("%s: %v, %+v", c.args, ok, got)
		}
	}
}

// whole is a record with everything in it that is read here.
const whole = `{"version":1,"id":"a","bundle":"/b c","rootfs":"/b c/rootfs","cgroup":"/x/a","cgroupTop":"/x/a","created":"2026-11-26T15:05:18Z",` +
	`"pid":7,"startTime":8,"annotations":{"k":"v","l":""},"hooks":true,"restored":true,"stays":"/s","staysInID":3,"staysOn":4,"sharedPid":true}`

func TestDecode(t *testing.T) {
	var r record
	if !r.decode(whole) {
		t.Fatal("not taken")
	}
	want := record{id: `"a"`, bundle: `"/b c"`, rootfs: `"/b c/rootfs"`, created: `"2026-11-26T15:05:18Z"`, annotations: `{"k":"v","l":""}`,
		cgroup: "/x/a", cgroupTop: "/x/a", pid: 7, startTime: 8, hooks: true, sharedPID: true, restored: true, more: true}
	if r != want {
		t.Errorf("%+v, want %+v", r, want)
	}
	for _, change := range [][2]string{
		{`"version":1`, `"version":2`},
		{`"pid":7`, `"pid":0`},
		{`"pid":7`, `"pid":-7`},
		{`"/x/a","cgroupTop"`, `"/x/../a","cgroupTop"`},
		{`"/x/a","cgroupTop"`, `"/","cgroupTop"`},
		{`"k"`, `"\""`},
		{`"k"`, `"é"`},
		{`"hooks"`, `"resctrl"`},
		{`"hooks":true`, `"hooks": true`},
		{`}`, `} `},
		{`"startTime":8`, `"startTime":18446744073709551616`},
		{`"startTime":8`, `"startTime":08`},
	} {
		text := strings.Replace(whole, change[0], change[1], 1)
		if r := (record{}); r.decode(text) {
			t.Errorf("taken: %s", text)
		}
	}
}

// FuzzDecode: what is taken is what encoding/json reads.
func FuzzDecode(f *testing.F) {
	f.Add(whole)
	f.Fuzz(func(t *testing.T, text string) {
		var r record
		if !r.decode(text) {
			return
		}
		var want struct {
			Version                                        int
			ID, Bundle, Rootfs, Cgroup, CgroupTop, Created string
			Pid, StartTime                                 uint64
			Annotations                                    map[string]string
			Hooks, SharedPID, Restored                     bool
			CgroupUnit, Stays, StaysIn                     string
			StaysInID, StaysOn                             uint64
			CgroupUser                                     bool
		}
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
		if r.id != strconv.Quote(want.ID) || r.cgroup != want.Cgroup || r.pid != want.Pid || r.startTime != want.StartTime || r.hooks != want.Hooks {
			t.Errorf("%q: %+v, %+v", text, r, want)
		}
	})
}

// FuzzText: no text of the kernel's or a caller's makes a panic.
func FuzzText(f *testing.F) {
	f.Add("7 (a b) c) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 8 0 0", "--root /r state a")
	f.Add("30 24 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu", "--root=/r kill a")
	f.Fuzz(func(_ *testing.T, text, line string) {
		_, _, _, _ = parseStat(text)
		_, _ = v1Mount(text)
		var c command
		args := strings.Split(line, " ")
		_ = c.parse(args[:min(len(args), maxArgs)])
	})
}

func TestParseStat(t *testing.T) {
	state, flags, start, ok := parseStat("7 (a b) c) S 1 7 7 0 -1 64 1 0 0 0 0 0 0 0 20 0 1 0 8 0 0\n")
	if !ok || state != 'S' || flags != 64 || start != 8 {
		t.Errorf("%c %d %d %v", state, flags, start, ok)
	}
	text, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	if _, _, _, ok := parseStat(string(text)); !ok {
		t.Errorf("not read: %s", text)
	}
}

func TestV1Mount(t *testing.T) {
	for line, want := range map[string]string{
		"30 24 0:26 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu": "/sys/fs/cgroup/cpu",
		"31 24 0:27 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw":        "",
		"32 24 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755":           "",
		"33 24 0:29 / /elsewhere/cpu rw,relatime - cgroup cgroup rw,cpu":              "",
		"": "",
	} {
		if got, ok := v1Mount(line); ok != (want != "") || ok && got != want {
			t.Errorf("%q: %q, %v", line, got, ok)
		}
	}
}

// TestReadFile: a file that does not fit is not taken for a shorter one.
func TestReadFile(t *testing.T) {
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, []byte("12345"), 0o600); err != nil {
		t.Fatal(err)
	}
	var p path
	if !p.set(name, "", "", "") {
		t.Fatal("too long")
	}
	var buf [8]byte
	if text, errno := readFile(&p, buf[:]); text != "12345" || errno != 0 {
		t.Errorf("%q, %v", text, errno)
	}
	if _, errno := readFile(&p, buf[:5]); errno == 0 {
		t.Error("a full buffer is taken for the whole file")
	}
	if p.set(strings.Repeat("a", len(p.name)), "", "", "") {
		t.Error("a name without room for its end is taken")
	}
}

// TestNothingAllocated: what runs before Go's heap is there must not use it.
func TestNothingAllocated(t *testing.T) {
	root := t.TempDir()
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		t.Fatal(err)
	}
	_, _, start, ok := parseStat(string(stat))
	if !ok {
		t.Fatal("no start time")
	}
	text := `{"version":1,"id":"a","bundle":"/b","rootfs":"/b","cgroup":"","created":"c","pid":` + strconv.Itoa(os.Getpid()) +
		`,"startTime":` + strconv.FormatUint(start, 10) + `}`
	if err := os.Mkdir(root+"/a", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+"/a/state.json", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	args := slices.Clip([]string{"--root", root, "kill", "a", "0"})
	if code := run(args); code != 0 {
		t.Fatalf("kill: %d", code)
	}
	if n := testing.AllocsPerRun(10, func() { run(args) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// TestDeleteLeavesTheNextAlone: the name of the directory is another container's by now.
func TestDeleteLeavesTheNextAlone(t *testing.T) {
	root := t.TempDir()
	text := `{"version":1,"id":"a","bundle":"/b","rootfs":"/b","cgroup":"","created":"c","pid":536870912,"startTime":1}`
	makeState := func() {
		if err := os.Mkdir(root+"/a", 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{stateFile, configFile} {
			if err := os.WriteFile(root+"/a/"+name, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	makeState()
	c := command{root: root, verb: "delete", id: "a"}
	dir, err := os.Open(root + "/a")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := os.Rename(root+"/a", root+"/before"); err != nil {
		t.Fatal(err)
	}
	makeState()
	if !paths.dir.set(root, "/", "a", "") {
		t.Fatal("too long")
	}
	if c.deleteIn(dir.Fd()) {
		t.Error("it is deleted, while its directory is there")
	}
	if err := os.Remove(root + "/before"); err != nil {
		t.Errorf("its files are left: %v", err)
	}
	for _, name := range []string{stateFile, configFile} {
		if _, err := os.Lstat(root + "/a/" + name); err != nil {
			t.Errorf("the next one: %v", err)
		}
	}
}
