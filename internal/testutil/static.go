package testutil

import "testing"

// RequireStatic ends a test whose own program runs in containers, if that needs a C
// library, which these have not.
func RequireStatic(tb testing.TB) {
	tb.Helper()
	if linked {
		tb.Fatal("this test program runs in containers without a C library: build it with CGO_ENABLED=0")
	}
}
