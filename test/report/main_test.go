package main

import (
	"encoding/json"
	"slices"
	"testing"
)

// What failed is said again at the end, without the log below the message.
func TestFailuresAgain(t *testing.T) {
	r := report{output: map[test][]string{}, failing: map[string]bool{}}
	for _, line := range []string{
		`{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}`,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: left behind: /x\n"}`,
		`{"Action":"output","Package":"p","Test":"TestA","Output":"        time=1 level=DEBUG\n"}`,
		`{"Action":"fail","Package":"p","Test":"TestA"}`,
		`{"Action":"fail","Package":"p"}`,
		`{"Action":"fail","Package":"q"}`,
	} {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatal(err)
		}
		r.add(e)
	}
	want := []string{"p TestA", "\ta_test.go:7: left behind: /x", "q, outside its tests"}
	if !slices.Equal(r.failures, want) || r.failed != 2 {
		t.Errorf("%d failed, %q; want 2, %q", r.failed, r.failures, want)
	}
}
