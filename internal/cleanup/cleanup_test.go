package cleanup

import (
	"errors"
	"slices"
	"testing"
)

func TestRun(t *testing.T) {
	cause, broken := errors.New("cause"), errors.New("broken")
	var ran []string
	step := func(name string, e error) func() error {
		return func() error { ran = append(ran, name); return e }
	}
	verb := func(fail bool) (err error) {
		var s Stack
		defer s.Run(&err)
		s.Push("one", step("one", nil))
		s.Push("two", step("two", broken))
		s.Push("three", step("three", nil))
		if fail {
			return cause
		}
		s.Release()
		return nil
	}

	if err := verb(false); err != nil || len(ran) != 0 {
		t.Errorf("after Release: err %v, ran %v", err, ran)
	}
	err := verb(true)
	if want := []string{"three", "two", "one"}; !slices.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}
	if !errors.Is(err, cause) || !errors.Is(err, broken) {
		t.Errorf("err %v, want both causes", err)
	}
}
