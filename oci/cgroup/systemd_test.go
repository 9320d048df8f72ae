package cgroup

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/dbus"
)

func TestNewUnit(t *testing.T) {
	for path, want := range map[string]string{
		"":                       "/system.slice/strake-box.scope",
		"a-b.slice:docker:123":   "/a.slice/a-b.slice/docker-123.scope",
		":libpod:123":            "/system.slice/libpod-123.scope",
		"-.slice::plain":         "/plain.scope",
		"machine.slice:a:b\\x2b": "/machine.slice/a-b\\x2b.scope",
	} {
		u, err := newUnit(path, "box", false)
		if err != nil {
			t.Errorf("%q: %v", path, err)
			continue
		}
		if got, err := u.path(); err != nil || got != want {
			t.Errorf("%q: %q, %v; want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"/a/b", "a:b", "a:b:c", "a.slice:b:", "a--b.slice:c:d", "a.slice:b:c.slice", "a.slice:b:c/d", "a.slice:b:c:d", "a.slice:b:" + strings.Repeat("x", 300)} {
		if u, err := newUnit(path, "box", false); err == nil {
			t.Errorf("%.40q was taken: %+v", path, u)
		}
	}
}

// sameValue compares what goes over the wire.
func sameValue(a, b dbus.Value) bool {
	return a.Signature() == b.Signature() && bytes.Equal(dbus.Marshal(a), dbus.Marshal(b))
}

func find(properties []property, name string) *dbus.Value {
	i := slices.IndexFunc(properties, func(p property) bool { return p.name == name })
	if i < 0 {
		return nil
	}
	return &properties[i].value
}

func TestUnitProperties(t *testing.T) {
	version := func(n int) func() (int, error) { return func() (int, error) { return n, nil } }
	memory := &specs.LinuxMemory{Limit: ptr(int64(64 << 20)), Swap: ptr(int64(96 << 20)), Reservation: ptr(int64(1 << 20))}
	r := &specs.LinuxResources{
		Memory:  memory,
		CPU:     &specs.LinuxCPU{Shares: ptr(uint64(1024)), Quota: ptr(int64(12500)), Period: ptr(uint64(50000)), Cpus: "0-1,9", Mems: "0"},
		Pids:    &specs.LinuxPids{Limit: ptr(int64(0))},
		BlockIO: &specs.LinuxBlockIO{Weight: ptr(uint16(20))},
		Unified: map[string]string{"memory.high": "max", "cpu.max": "max 20000", "pids.max": "7", "io.max": "8:0 rbps=1"},
	}
	type expect map[string]dbus.Value
	for name, one := range map[string]struct {
		r    *specs.LinuxResources
		v2   bool
		want expect
	}{
		"v2": {r, true, expect{
			"MemoryMax": dbus.Uint64(64 << 20), "MemorySwapMax": dbus.Uint64(32 << 20), "MemoryLow": dbus.Uint64(1 << 20),
			"CPUWeight": dbus.Uint64(100), "AllowedCPUs": dbus.Bytes([]byte{3, 2}), "AllowedMemoryNodes": dbus.Bytes([]byte{1}),
			"CPUQuotaPerSecUSec": dbus.Uint64(250000), "CPUQuotaPeriodUSec": dbus.Uint64(50000),
			"TasksMax": dbus.Uint64(1), "MemoryHigh": dbus.Uint64(NoLimit),
		}},
		"v1": {r, false, expect{
			"MemoryLimit": dbus.Uint64(64 << 20), "CPUShares": dbus.Uint64(1024), "BlockIOWeight": dbus.Uint64(20),
			"CPUQuotaPerSecUSec": dbus.Uint64(250000), "TasksMax": dbus.Uint64(1),
		}},
		"idle":      {&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1)), Shares: ptr(uint64(9))}}, true, expect{"CPUWeight": dbus.Uint64(0)}},
		"unlimited": {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: ptr(int64(-1))}, CPU: &specs.LinuxCPU{Quota: ptr(int64(-1))}, Pids: &specs.LinuxPids{Limit: ptr(int64(-1))}}, true, expect{"MemoryMax": dbus.Uint64(NoLimit), "MemorySwapMax": dbus.Uint64(NoLimit), "CPUQuotaPerSecUSec": dbus.Uint64(NoLimit), "TasksMax": dbus.Uint64(NoLimit)}},
	} {
		got, err := unitProperties(one.r, one.v2, version(252))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		for property, want := range one.want {
			if v := find(got, property); v == nil || !sameValue(*v, want) {
				t.Errorf("%s: %s is missing or wrong", name, property)
			}
		}
	}
	if got, err := unitProperties(&specs.LinuxResources{CPU: &specs.LinuxCPU{Idle: ptr(int64(1))}}, true, version(251)); err != nil || len(got) != 0 {
		t.Errorf("idle on an old systemd: %d properties, %v", len(got), err)
	}
	idle := &specs.LinuxResources{Unified: map[string]string{"cpu.idle": "1", "cpu.weight": "8"}}
	if got, err := unitProperties(idle, true, version(252)); err != nil || len(got) != 1 || !sameValue(*find(got, "CPUWeight"), dbus.Uint64(0)) {
		t.Errorf("a weight beside unified's idle: %v, %v", got, err)
	}
	for file, value := range map[string]string{"memory.max": "lots", "cpu.max": "a", "cpuset.cpus": "", "pids.max": "-7"} {
		if _, err := unitProperties(&specs.LinuxResources{Unified: map[string]string{file: value}}, true, version(252)); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("unified %s=%q: %v; want an error that names the file", file, value, err)
		}
	}
	for n, want := range map[int]int{252: 0, 253: 1} {
		if got, err := oomPolicy(&specs.LinuxResources{Unified: map[string]string{"memory.oom.group": "1"}}, version(n)); err != nil || len(got) != want {
			t.Errorf("OOM policy with systemd %d: %d, %v", n, len(got), err)
		}
	}
}

// The kernel gets the quota that systemd has.
func TestQuotaForUnit(t *testing.T) {
	for _, one := range []struct{ quota, period, want int64 }{
		{4000, 10000, 4000}, {1234, 10000, 1300}, {500, 100000, 1000}, {-1, 1000, -1}, {100000, 0, 100000},
	} {
		r := &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &one.quota, Period: ptr(uint64(one.period))}}
		if got := *forUnit(r).CPU.Quota; got != one.want {
			t.Errorf("quota %d of %d: %d, want %d", one.quota, one.period, got, one.want)
		}
	}
}

func TestDeviceProperties(t *testing.T) {
	const devices = "Character devices:\n  1 mem\n  5 /dev/tty\n136 pts\n\nBlock devices:\n  1 ramdisk\n"
	f, err := newDeviceFilter([]specs.LinuxDeviceCgroup{
		{Access: "rwm"},
		{Allow: true, Type: "b", Major: ptr(int64(1)), Access: "r"},
		{Allow: true, Type: "c", Major: ptr(int64(77)), Access: "r"}, // nobody has it
	})
	if err != nil {
		t.Fatal(err)
	}
	got := deviceProperties(f, devices)
	text := string(dbus.Marshal(*find(got, "DeviceAllow")))
	for _, want := range []string{"char-pts\x00", "block-ramdisk\x00", "/dev/char/1:3\x00", "char-*\x00", "block-*\x00"} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not allowed", want)
		}
	}
	if v := find(got, "DevicePolicy"); !sameValue(*v, dbus.String("strict")) {
		t.Error("the policy is not strict")
	}
	for name, f := range map[string]deviceFilter{
		"everything":           {allow: true},
		"a minor of any major": {exceptions: []exception{{deviceNodes{'c', any64, 3}, accessAll}}},
	} {
		if v := find(deviceProperties(f, devices), "DevicePolicy"); !sameValue(*v, dbus.String("auto")) {
			t.Errorf("%s: the policy is not auto", name)
		}
	}
}

func TestAnnotatedProperties(t *testing.T) {
	for text, want := range map[string]dbus.Value{
		`'inactive-or-failed'`:     dbus.String("inactive-or-failed"),
		`"a\"b"`:                   dbus.String(`a"b`),
		`true`:                     dbus.Bool(true),
		`uint64 5`:                 dbus.Uint64(5),
		`@t 0x10`:                  dbus.Uint64(16),
		`-3`:                       dbus.Int32(-3),
		`1.5`:                      dbus.Double(1.5),
		`byte 7`:                   dbus.Byte(7),
		`['a', 'b']`:               dbus.Strings("a", "b"),
		`@as []`:                   dbus.Array("s"),
		`[uint64 1, 2]`:            dbus.Array("t", dbus.Uint64(1), dbus.Uint64(2)),
		`[('/dev/sda', uint64 1)]`: dbus.Array("(st)", dbus.Struct(dbus.String("/dev/sda"), dbus.Uint64(1))),
		`(true, @as ['x'])`:        dbus.Struct(dbus.Bool(true), dbus.Strings("x")),
		` <int16 4> `:              dbus.Variant(dbus.Int16(4)),
	} {
		v, err := parseVariant(text)
		if err != nil || !sameValue(v.value, want) {
			t.Errorf("%s: %v", text, err)
		}
	}
	for _, text := range []string{"", "x", "'a", "[", "[]", "()", "[1, 'a']", "byte 256", "uint32 -1", "1 2", "@(x 1", "@zz 1", "@s 1", "<1", "boolean 1",
		strings.Repeat("[", 50), strings.Repeat("uint64 ", 50) + "1", "'a\x00b'", "@(st) ('a',)", "int32 uint32 4"} {
		if v, err := parseVariant(text); err == nil {
			t.Errorf("%.40q was taken as %s", text, v.value.Signature())
		}
	}
	all, err := annotatedProperties(map[string]string{
		AnnotationPrefix + "TimeoutStopUSec": "uint64 3", AnnotationPrefix + "RuntimeMaxSec": "2.5", "other": "x",
	})
	if err != nil || len(all) != 2 {
		t.Fatalf("%d properties, %v", len(all), err)
	}
	if v := find(all, "RuntimeMaxUSec"); v == nil || !sameValue(*v, dbus.Uint64(2500000)) {
		t.Error("seconds have not become microseconds")
	}
	for key, value := range map[string]string{"A-B": "1", "x": "1", "TimeoutStopSec": "'a'", "Delegate": "maybe"} {
		if _, err := annotatedProperties(map[string]string{AnnotationPrefix + key: value}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", AnnotationPrefix+key)) {
			t.Errorf("%s=%s: %v; want an error that names the annotation", key, value, err)
		}
	}
}

func FuzzVariant(f *testing.F) {
	for _, text := range []string{`['a', "b"]`, `@a(st) [('x', 1)]`, `<uint64 0x5>`, `(true, 1.5e3)`} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if v, err := parseVariant(text); err == nil {
			dbus.Marshal(v.value)
		}
	})
}

func TestParseList(t *testing.T) {
	for text, want := range map[string]string{"0-2,7": "[0 1 2 7]", " 3 , 1\n": "[3 1]", "": "[]"} {
		if got, err := parseList(text); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"a", "3-1", "1-", "-", "0-99999", "16384"} {
		if got, err := parseList(text); err == nil {
			t.Errorf("%q was taken: %v", text, got)
		}
	}
}
