package abi

import (
	"strings"
	"testing"
)

func TestExpandSlice(t *testing.T) {
	for name, want := range map[string]string{
		"system.slice":                   "/system.slice",
		"-.slice":                        "",
		"kubepods-burstable-pod_1.slice": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod_1.slice",
	} {
		if got, err := ExpandSlice(name); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"", ".slice", "a", "a/b.slice", "a--b.slice", "-a.slice", "a-.slice", strings.Repeat("a", 300) + ".slice"} {
		if got, err := ExpandSlice(name); err == nil {
			t.Errorf("%.20s was taken: %q", name, got)
		}
	}
}
