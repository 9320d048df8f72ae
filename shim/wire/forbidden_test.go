package wire

import (
	"fmt"
	"testing"
)

// More names than there is room for are counted together, and what is no such file says
// nothing.
func TestForbidden(t *testing.T) {
	file := make([]byte, ForbiddenSize)
	const names = 1000
	for range 2 {
		for i := range names {
			at := ForbiddenAt(file, fmt.Sprintf("a_long_name_of_a_call_%d", i))
			SetForbiddenTimes(file, at, ForbiddenTimes(file, at)+1)
		}
	}
	calls, all := ForbiddenOf(file), uint64(0)
	for _, n := range calls {
		all += n
	}
	if all != 2*names || calls["a_long_name_of_a_call_7"] != 2 || calls["others"] == 0 {
		t.Errorf("%d calls of %d names, %d others", all, len(calls), calls["others"])
	}
	for _, size := range []int{0, ForbiddenCalls, ForbiddenCalls + 1, ForbiddenSize} {
		if calls := ForbiddenOf(make([]byte, size)); len(calls) > 0 {
			t.Errorf("%d bytes: %v", size, calls)
		}
	}
}
