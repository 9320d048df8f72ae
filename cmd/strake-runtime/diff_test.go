package main

import (
	"strings"
	"testing"
)

func TestUnifiedDiff(t *testing.T) {
	for _, tt := range []struct{ a, b, want string }{
		{"", "", ""},
		{"a b c", "a b c", ""},
		{"a b c", "a x c", "@@ -1,3 +1,3 @@\n a\n-b\n+x\n c\n"},
		{"a", "a b", "@@ -1,1 +1,2 @@\n a\n+b\n"},
		{"a b", "b", "@@ -1,2 +1,1 @@\n-a\n b\n"},
		{"1 2 3 4 5 6 7 8 9 10 11 12", "1 2 3 4 x 6 7 8 9 10 11 12",
			"@@ -2,7 +2,7 @@\n 2\n 3\n 4\n-5\n+x\n 6\n 7\n 8\n"},
		// Two differences with few lines between are one hunk, with many two.
		{"a 1 2 3 4 5 6 b", "x 1 2 3 4 5 6 y", "@@ -1,8 +1,8 @@\n-a\n+x\n 1\n 2\n 3\n 4\n 5\n 6\n-b\n+y\n"},
		{"a 1 2 3 4 5 6 7 b", "x 1 2 3 4 5 6 7 y", "@@ -1,4 +1,4 @@\n-a\n+x\n 1\n 2\n 3\n@@ -6,4 +6,4 @@\n 5\n 6\n 7\n-b\n+y\n"},
	} {
		if got := unifiedDiff(strings.Fields(tt.a), strings.Fields(tt.b)); got != tt.want {
			t.Errorf("%s\n%s\n%s\nwant\n%s", tt.a, tt.b, got, tt.want)
		}
	}
}
