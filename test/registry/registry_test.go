package registry

import "testing"

// Who closes it by hand and in a cleanup does not wait for ever.
func TestClosedTwice(t *testing.T) {
	s, err := New().Start("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}
