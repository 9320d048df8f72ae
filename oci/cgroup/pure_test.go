package cgroup

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// hosts as the three modes find them.
func hostFor(mode Mode) *Host {
	v1 := []hierarchy{
		{mount: root + "/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
		{mount: root + "/memory", controllers: []string{"memory"}},
		{mount: root + "/pids", controllers: []string{"pids"}},
		{mount: root + "/systemd", controllers: []string{"name=systemd"}},
	}
	v2 := hierarchy{mount: root + "/unified", v2: true, controllers: []string{"hugetlb"}}
	all := v1
	switch mode {
	case Unified:
		all = []hierarchy{{mount: root, v2: true, controllers: []string{"cpuset", "cpu", "io", "memory", "hugetlb", "pids"}}}
	case Hybrid:
		all = append(v1, v2)
	}
	h, err := hostOf(all)
	if err != nil || h.Mode != mode {
		panic(fmt.Sprint(h, err))
	}
	return h
}

func TestNew(t *testing.T) {
	for path, want := range map[string]string{"/a/b": "/a/b", "a": "/a", "//a/./b/": "/a/b"} {
		c, err := newOn(hostFor(Hybrid), path, Hybrid)
		if err != nil || c.Path() != want {
			t.Errorf("%q: %v, %v; want %s", path, c, err, want)
		}
	}
	for _, path := range []string{"", "/", ".", "/..", "/a/../../b", "sys.slice:docker:abc", "/a\nb", "/a\x00", strings.Repeat("/abc", 1000)} {
		if _, err := newOn(hostFor(Hybrid), path, Hybrid); err == nil {
			t.Errorf("%.20q was taken", path)
		}
	}
	if _, err := newOn(hostFor(Hybrid), "/a", Unified); err == nil {
		t.Error("v2 on a hybrid host was taken")
	}
	c, err := newOn(hostFor(Hybrid), "/a", Legacy)
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.v2(); ok {
		t.Error("legacy mode uses the v2 hierarchy")
	}
	want := []string{root + "/cpu,cpuacct/a/tasks", root + "/memory/a/tasks", root + "/pids/a/tasks", root + "/systemd/a/tasks"}
	if got := c.JoinFiles(); !slices.Equal(got, want) {
		t.Errorf("JoinFiles %v", got)
	}
	if got := c.Dirs()["cpuacct"]; got != root+"/cpu,cpuacct/a" {
		t.Errorf("Dirs: cpuacct is %q", got)
	}
}

func TestParseMountinfo(t *testing.T) {
	const text = `24 30 0:22 / /proc rw,nosuid shared:14 - proc proc rw
34 25 0:29 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
35 34 0:30 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
36 34 0:31 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
41 34 0:35 / /sys/fs/cgroup/cpu,cpuacct rw shared:16 - cgroup cgroup rw,cpu,cpuacct
42 34 0:35 / /sys/fs/cgroup/again rw shared:16 - cgroup cgroup rw,cpu,cpuacct
43 30 0:36 / /elsewhere/memory rw - cgroup cgroup rw,memory
44 34 broken
`
	got := fmt.Sprint(parseMountinfo(text))
	want := fmt.Sprint([]hierarchy{
		{mount: root + "/systemd", controllers: []string{"name=systemd"}},
		{mount: root + "/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
		{mount: root + "/unified", v2: true},
	})
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	if _, err := hostOf(nil); err == nil {
		t.Error("a host without cgroups was taken")
	}
}

func TestUsualHierarchies(t *testing.T) {
	const own = "3:cpu,cpuacct:/a:b\n2:memory:/\n1:name=systemd:/\n0::/x\n"
	mounted := map[string]int64{root + "/cpu,cpuacct": cgroupMagic, root + "/memory": cgroupMagic, root + "/systemd": cgroupMagic, root + "/unified": cgroup2Magic}
	fsType := func(path string) int64 { return mounted[path] }
	all, ok := usualHierarchies(own, fsType)
	want := fmt.Sprint([]hierarchy{
		{mount: root + "/cpu,cpuacct", controllers: []string{"cpu", "cpuacct"}},
		{mount: root + "/memory", controllers: []string{"memory"}},
		{mount: root + "/systemd", controllers: []string{"name=systemd"}},
		{mount: root + "/unified", v2: true},
	})
	if got := fmt.Sprint(all); !ok || got != want {
		t.Errorf("got  %s, %v\nwant %s", got, ok, want)
	}
	for path, magic := range mounted {
		mounted[path] = 0x1021994 // a tmpfs
		if all, ok := usualHierarchies(own, fsType); ok {
			t.Errorf("without %s: %v", path, all)
		}
		mounted[path] = magic
	}
	if _, ok := usualHierarchies("broken\n", fsType); ok {
		t.Error("a broken line was taken")
	}
}

// TestDetectAgrees: what is found where everybody mounts it is what is mounted.
func TestDetectAgrees(t *testing.T) {
	h, err := DetectHost()
	if err != nil || h.Mode == Unified {
		t.Skip("needs cgroup v1: ", err)
	}
	mountinfo, err := readFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	mounted, err := hostOf(parseMountinfo(mountinfo))
	if err != nil || h.Mode != mounted.Mode || !maps.Equal(h.V1Mounts, mounted.V1Mounts) || h.V2Mount != mounted.V2Mount {
		t.Errorf("found %+v\nmounted %+v, %v", h, mounted, err)
	}
}

// settingsOf renders what a config writes, a line per file.
func settingsOf(mode Mode, r *specs.LinuxResources) (string, error) {
	c, err := newOn(hostFor(mode), "/x", mode)
	if err != nil {
		return "", err
	}
	groups, err := c.compile(r)
	var b strings.Builder
	for _, g := range groups {
		for _, s := range g.settings {
			fmt.Fprintf(&b, "%s/%s=%s\n", strings.TrimPrefix(g.dir, root), s.file, s.value)
		}
	}
	return b.String(), err
}

func TestCompile(t *testing.T) {
	mem := func(limit, swap int64) *specs.LinuxResources {
		return &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &swap}}
	}
	tests := []struct {
		name   string
		mode   Mode
		r      *specs.LinuxResources
		want   string
		errHas string
	}{
		{"nothing", Unified, nil, "", ""},
		{"zeros are not set", Legacy, mem(0, 0), "", ""},
		{"v1 sum", Legacy, mem(100, 300), "/memory/x/memory.limit_in_bytes=100\n/memory/x/memory.memsw.limit_in_bytes=300\n", ""},
		{"v2 swap alone", Unified, mem(100, 300), "/x/memory.swap.max=200\n/x/memory.max=100\n", ""},
		{"v2 no swap", Unified, mem(100, 100), "/x/memory.swap.max=0\n/x/memory.max=100\n", ""},
		{"v2 unlimited", Unified, mem(-1, -1), "/x/memory.swap.max=max\n/x/memory.max=max\n", ""},
		{"v2 swap below limit", Unified, mem(300, 100), "", "memory.swap"},
		{"v2 swap without limit", Unified, mem(0, 100), "", "memory.limit"},
		{"v2 swappiness", Unified, &specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(60))}}, "", "memory.swappiness"},
		{"v1 swappiness", Legacy, &specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: ptr(uint64(101))}}, "", "memory.swappiness"},
		{"cpu v1", Hybrid, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(512)), Quota: ptr(int64(-1)), Idle: ptr(int64(0))}},
			"/cpu,cpuacct/x/cpu.shares=512\n/cpu,cpuacct/x/cpu.cfs_quota_us=-1\n/cpu,cpuacct/x/cpu.idle=0\n", ""},
		{"cpu v2", Unified, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Period: ptr(uint64(50000))}},
			"/x/cpu.weight=100\n/x/cpu.max=max 50000\n", ""},
		{"idle has no shares", Unified, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024)), Idle: ptr(int64(1))}}, "/x/cpu.idle=1\n", ""},
		{"nor of unified", Unified, &specs.LinuxResources{Unified: map[string]string{"cpu.idle": "1", "cpu.weight": "8", "cpu.weight.nice": "3"}}, "/x/cpu.idle=1\n", ""},
		{"idle by unified", Unified, &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: ptr(uint64(1024))}, Unified: map[string]string{"cpu.idle": "1\n"}}, "/x/cpu.idle=1\n", ""},
		{"not idle by unified", Unified, &specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1))}, Unified: map[string]string{"cpu.idle": "0", "cpu.weight": "8"}},
			"/x/cpu.idle=1\n/x/cpu.idle=0\n/x/cpu.weight=8\n", ""},
		{"cpuset absent", Hybrid, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0-1"}}, "", "linux.resources.cpu.cpus: this host has no cpuset"},
		{"cpuset nonsense", Unified, &specs.LinuxResources{CPU: &specs.LinuxCPU{Cpus: "0;1"}}, "", "linux.resources.cpu.cpus"},
		{"pids 0", Unified, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(0))}}, "/x/pids.max=1\n", ""},
		{"pids -1", Legacy, &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, "/pids/x/pids.max=max\n", ""},
		{"hugetlb on hybrid's v2", Hybrid, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 4}}},
			"/unified/x/hugetlb.2MB.max=4\n/unified/x/hugetlb.2MB.rsvd.max=4\n", ""},
		{"hugetlb nonsense", Unified, &specs.LinuxResources{HugepageLimits: []specs.LinuxHugepageLimit{{Pagesize: "../2MB"}}}, "", "pageSize"},
		{"io", Unified, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(500)), ThrottleReadBpsDevice: []specs.LinuxThrottleDevice{throttleDevice(8, 1, 4096)}}},
			"/x/io.bfq.weight=500\n/x/io.max=8:1 rbps=4096\n", ""},
		{"leaf weight", Unified, &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{LeafWeight: ptr(uint16(500))}}, "", "blockIO.leafWeight"},
		{"network", Unified, &specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(5))}}, "", "linux.resources.network"},
		{"network v1 absent", Legacy, &specs.LinuxResources{Network: &specs.LinuxNetwork{ClassID: ptr(uint32(5))}}, "", "net_cls"},
		{"unified", Unified, &specs.LinuxResources{Unified: map[string]string{"memory.high": "5", "io.max": "8:0 rbps=1\n8:1 rbps=2"}},
			"/x/io.max=8:0 rbps=1\n8:1 rbps=2\n/x/memory.high=5\n", ""},
		{"unified path", Unified, &specs.LinuxResources{Unified: map[string]string{"../memory.high": "5"}}, "", "unified"},
		{"unified procs", Unified, &specs.LinuxResources{Unified: map[string]string{"cgroup.procs": "1"}}, "", "runtime's own"},
		{"unified on v1", Hybrid, &specs.LinuxResources{Unified: map[string]string{"memory.high": "5"}}, "", "memory.high"},
	}
	for _, test := range tests {
		got, err := settingsOf(test.mode, test.r)
		switch {
		case test.errHas == "" && (err != nil || got != test.want):
			t.Errorf("%s: %v\ngot  %q\nwant %q", test.name, err, got, test.want)
		case test.errHas != "" && (err == nil || !strings.Contains(err.Error(), test.errHas)):
			t.Errorf("%s: error %v; want one with %q", test.name, err, test.errHas)
		}
	}
}

func throttleDevice(major, minor int64, rate uint64) specs.LinuxThrottleDevice {
	var d specs.LinuxThrottleDevice
	d.Major, d.Minor, d.Rate = major, minor, rate
	return d
}

func TestLeftOut(t *testing.T) {
	for want, r := range map[string]*specs.LinuxResources{
		"":                                      {Unified: map[string]string{"cpu.weight": "8"}, CPU: &specs.LinuxCPU{Shares: ptr(uint64(9)), Idle: ptr(int64(0))}},
		"linux.resources.cpu.shares":            {CPU: &specs.LinuxCPU{Shares: ptr(uint64(9))}, Unified: map[string]string{"cpu.idle": "1"}},
		`linux.resources.unified["cpu.weight"]`: {Unified: map[string]string{"cpu.idle": "1", "cpu.weight": "8"}},
		`linux.resources.unified["cpu.weight.nice"]`: {CPU: &specs.LinuxCPU{Idle: ptr(int64(1))}, Unified: map[string]string{"cpu.weight.nice": "3"}},
	} {
		got := LeftOut(r)
		if (want == "") != (len(got) == 0) || want != "" && !strings.HasPrefix(got[0], want+": unable to apply both") {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if got := LeftOut(nil); got != nil {
		t.Errorf("of nothing: %q", got)
	}
}

func TestCPUWeight(t *testing.T) {
	for shares, want := range map[uint64]uint64{0: 1, 2: 1, 256: 35, 512: 59, 1024: 100, 2048: 174, 262144: 10000, 1 << 40: 10000} {
		if got := cpuWeight(shares); got != want {
			t.Errorf("shares %d: weight %d, want %d", shares, got, want)
		}
	}
}

func device(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
}

func TestDeviceFilter(t *testing.T) {
	f, err := newDeviceFilter([]specs.LinuxDeviceCgroup{
		{Allow: false, Access: "rwm"},
		device(true, "b", 8, -1, "rw"),
		device(true, "c", 10, 229, "rwm"),
		device(false, "c", 10, 229, "m"),
		device(false, "c", 10, -1, "w"), // broader than what is allowed
		device(true, "a", 42, 1, ""),    // both kinds
		device(false, "c", 42, 1, "wa"), // an a is nothing
	})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range f.exceptions {
		got = append(got, e.String())
	}
	for _, want := range []string{"b 8:* rw", "c 10:229 r", "c 10:200 rwm", "b 42:1 rwm", "c 42:1 rm", "c 1:3 rwm", "c *:* m"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is missing from %q", want, got)
		}
	}
	if first := []string{"b 8:* rw", "c 10:229 r", "b 42:1 rwm", "c 42:1 rm"}; !slices.Equal(got[:4], first) {
		t.Errorf("%q; want the config's first, in its order: %q", got, first)
	}
	if f.allow || len(got) != len(runtimeDevices)+4 {
		t.Errorf("filter %v %q", f.allow, got)
	}
	if f, err := newDeviceFilter([]specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}); err != nil || !f.allowsAll() {
		t.Errorf("allow all: %v, %v", f, err)
	}
	for _, bad := range [][]specs.LinuxDeviceCgroup{
		{device(true, "x", 1, 1, "r")},
		{device(true, "c", 1, 1, "rx")},
		{device(false, "c", 1, 1, "a")},
		{device(true, "c", -2, 1, "r")},
		{device(true, "c", 1<<33, 1, "r")},
		{device(true, "c", 8, -1, "r"), device(false, "c", 8, 1, "r")}, // a hole
	} {
		if _, err := newDeviceFilter(bad); err == nil || !strings.Contains(err.Error(), "linux.resources.devices[") {
			t.Errorf("%v: error %v does not name the rule", bad, err)
		}
	}
}

// allowed is what the set of exceptions means, in so many words.
func (f deviceFilter) allowed(n deviceNodes, a access) bool {
	for _, e := range f.exceptions {
		if !e.nodes.covers(n) {
			continue
		}
		if f.allow && e.access&a != 0 {
			return false
		}
		if !f.allow && a&^e.access == 0 {
			return true
		}
	}
	return f.allow
}

// The assembled program answers what the set means, and the lists of v1 read
// back are the set.
func TestDeviceProgram(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	pick := func(list ...int64) int64 { return list[rng.IntN(len(list))] }
	for range 300 {
		var rules []specs.LinuxDeviceCgroup
		rules = append(rules, specs.LinuxDeviceCgroup{Allow: rng.IntN(2) == 0, Access: "rwm"})
		for range rng.IntN(6) {
			rules = append(rules, device(rng.IntN(2) == 0, []string{"b", "c", "a"}[rng.IntN(3)],
				pick(-1, 1, 2, 1<<32-1), pick(-1, 0, 3), []string{"r", "w", "m", "rw", "rwm"}[rng.IntN(5)]))
		}
		f, err := newDeviceFilter(rules)
		if err != nil {
			continue // a hole
		}
		code := f.assemble()
		for _, kind := range []byte{'b', 'c'} {
			for _, major := range []int64{1, 2, 5, 1<<32 - 1} {
				for _, minor := range []int64{0, 2, 3} {
					for a := accessMknod; a <= accessAll; a++ {
						n := deviceNodes{kind, major, minor}
						got, err := run(code, n, a)
						if err != nil {
							t.Fatal(err)
						}
						if want := f.allowed(n, a); got != want {
							t.Fatalf("%v %v: program says %v, filter %v\n%v", n, a, got, want, f)
						}
					}
				}
			}
		}
		var list strings.Builder
		for _, e := range f.exceptions {
			fmt.Fprintln(&list, e)
		}
		if f.allow {
			continue
		}
		back, err := parseDeviceList(list.String())
		if err != nil || !slices.Equal(back.exceptions, f.exceptions) {
			t.Fatalf("read back: %v, %v; want %v", back, err, f)
		}
	}
}

// run interprets the few instructions that assemble uses.
func run(code []byte, n deviceNodes, a access) (bool, error) {
	kind := uint32(devChar)
	if n.kind == 'b' {
		kind = devBlock
	}
	ctx := map[int16]uint32{ctxAccessType: uint32(a)<<16 | kind, ctxMajor: uint32(n.major), ctxMinor: uint32(n.minor)}
	var reg [11]uint32
	for pc := 0; pc*insnSize < len(code); pc++ {
		in := code[pc*insnSize:]
		dst, src := in[1]&15, in[1]>>4
		off := int16(binary.NativeEndian.Uint16(in[2:]))
		imm := binary.NativeEndian.Uint32(in[4:])
		switch in[0] {
		case opLoad32:
			reg[dst] = ctx[off]
		case opMove:
			reg[dst] = reg[src]
		case opMove32:
			reg[dst] = imm
		case opAnd32:
			reg[dst] &= imm
		case opShift32:
			reg[dst] >>= imm
		case opJumpEq32:
			if reg[dst] == imm {
				pc += int(off)
			}
		case opJumpNe32:
			if reg[dst] != imm {
				pc += int(off)
			}
		case opExit:
			return reg[r0] == 1, nil
		default:
			return false, fmt.Errorf("instruction %d: unknown code %#x", pc, in[0])
		}
	}
	return false, errors.New("the program has no end")
}

func TestDeviceChanges(t *testing.T) {
	e := func(minor int64, a access) exception { return exception{deviceNodes{'c', 1, minor}, a} }
	now := deviceFilter{exceptions: []exception{e(1, accessAll), e(2, accessRead), e(3, accessRead)}}
	want := deviceFilter{exceptions: []exception{e(1, accessRead), e(2, accessRead), e(4, accessAll)}}
	allow, deny := now.changes(want)
	if fmt.Sprint(allow) != "[c 1:1 r c 1:4 rwm]" || fmt.Sprint(deny) != "[c 1:1 wm c 1:3 r]" {
		t.Errorf("allow %v, deny %v", allow, deny)
	}
}

func TestParsePressure(t *testing.T) {
	p := parsePressure("some avg10=1.50 avg60=0.20 avg300=0.00 total=12345\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=7\n")
	if p.Some != (PressureLine{1.5, 0.2, 0, 12345}) || p.Full.Total != 7 {
		t.Errorf("%+v", p)
	}
}

func TestIOStats(t *testing.T) {
	var v1, v2 IOStats
	v1.readOperations("8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\nTotal 12288\n", true)
	v1.readOperations("8:0 Read 1\n8:0 Write 2\n", false)
	r := &reader{dir: t.TempDir()} // which has been found
	text := "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\nnonsense\n"
	if err := os.WriteFile(r.dir+"/io.stat", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	v2.readV2(r)
	want := []IODevice{{Major: 8, ReadBytes: 4096, WriteBytes: 8192, ReadOps: 1, WriteOps: 2}}
	if !slices.Equal(v1.Devices, want) || !slices.Equal(v2.Devices, want) {
		t.Errorf("v1 %+v\nv2 %+v\nwant %+v", v1.Devices, v2.Devices, want)
	}
}
