package cgroup

import (
	"slices"
	"strings"
	"testing"
)

// FuzzFiles: whatever is in the files that this package reads, a container's own
// cgroup namespace or a foreign kernel perhaps, is read or refused.
func FuzzFiles(f *testing.F) {
	for _, text := range []string{
		"0-3,7\n", "16383-1,", "65535", "-", "c 1:3 rwm\nb *:* m\na *:* rwm\n", "c : \n", "8:0 Read 4096\nTotal 1\n",
		"some avg10=0.00 avg60=1e300 avg300=-0 total=18446744073709551615\nfull\n", "3:freezer,name=x:/a/../b\n0::/\n", "::\n",
		"30 1 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n31 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,name=\n32 30 0:29 / /sys/fs/cgroup/u rw - cgroup2 c rw\n",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if list, err := parseList(text); err == nil {
			for _, n := range list {
				if n >= maxCPU {
					t.Errorf("%q has %d", text, n)
				}
			}
		}
		if filter, err := parseDeviceList(text); err == nil {
			for _, e := range filter.exceptions {
				if e.access&^(accessRead|accessWrite|accessMknod) != 0 {
					t.Errorf("%q: access %#x", text, e.access)
				}
			}
		}
		if p := freezerPath(text); p != "" && (p[0] != '/' || slices.Contains(strings.Split(p, "/"), "..")) {
			t.Errorf("%q: freezer at %q", text, p)
		}
		for i, h := range parseMountinfo(text) {
			if !strings.HasPrefix(h.mount, root) || !h.v2 && len(h.controllers) == 0 || h.v2 && i != len(parseMountinfo(text))-1 {
				t.Errorf("%q: hierarchy %+v", text, h)
			}
		}
		_ = parsePressure(text)
		_, _, _ = parseDevice(text)
		_, _ = parseUint(text)
	})
}
