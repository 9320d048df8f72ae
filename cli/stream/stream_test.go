package stream

import "testing"

func TestDetachKeys(t *testing.T) {
	for _, test := range []struct {
		name     string
		reads    []string
		typed    string
		detached bool
	}{
		{"nothing special", []string{"ls\r", "exit\r"}, "ls\rexit\r", false},
		{"both at once", []string{"ab\x10\x11cd"}, "ab", true},
		{"in two reads", []string{"a\x10", "\x11"}, "a", true},
		{"the first alone", []string{"\x10", "x"}, "\x10x", false},
		{"the first twice", []string{"\x10\x10\x11"}, "\x10", true},
		{"the second alone", []string{"\x11"}, "\x11", false},
		{"held at the end", []string{"a\x10"}, "a", false},
	} {
		t.Run(test.name, func(t *testing.T) {
			var d detector
			var typed []byte
			detached := false
			for _, r := range test.reads {
				var part []byte
				part, detached = d.filter([]byte(r))
				typed = append(typed, part...)
			}
			if string(typed) != test.typed || detached != test.detached {
				t.Errorf("got %q, %v; want %q, %v", typed, detached, test.typed, test.detached)
			}
		})
	}
}
