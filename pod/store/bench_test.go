package store

import (
	"fmt"
	"strings"
	"testing"
)

// What a start reads of 300 pods with a container each.
func BenchmarkLoad(b *testing.B) {
	type record struct {
		ID     string
		Labels map[string]string
		Args   []string
	}
	s, err := Open[record, record](b.TempDir())
	if err != nil {
		b.Fatal(err)
	}
	r := record{ID: strings.Repeat("a", 64), Labels: map[string]string{}, Args: strings.Fields(strings.Repeat("word ", 100))}
	for i := range 40 {
		r.Labels[fmt.Sprint("key", i)] = strings.Repeat("v", 40)
	}
	for i := range 300 {
		id := fmt.Sprintf("%064x", i)
		for _, err := range []error{s.AddPod(id), s.SavePod(id, &r, false), s.AddContainer(id, id), s.SaveContainer(id, id, &r, false)} {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		if pods, _, err := s.Load(); err != nil || len(pods) != 300 {
			b.Fatal(len(pods), err)
		}
	}
}
