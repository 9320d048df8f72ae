package task

import (
	"runtime"
	"testing"
)

// Whoever comes last gives it back, in whichever order they came.
func TestSecondProcessor(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	var p secondProcessor
	want := func(n int) {
		t.Helper()
		if got := runtime.GOMAXPROCS(0); got != n {
			t.Errorf("GOMAXPROCS is %d, want %d", got, n)
		}
	}
	for range 2 {
		first := p.use()
		second := p.use()
		want(2)
		first()
		want(2)
		second()
		want(1)
	}
}
