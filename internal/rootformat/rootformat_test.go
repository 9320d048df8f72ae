package rootformat

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClaim(t *testing.T) {
	root := filepath.Join(t.TempDir(), "root")
	path := filepath.Join(root, File)
	for range 2 { // an empty root, and one of our own
		if err := Claim(root); err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "{\"version\":1}\n" {
			t.Errorf("%q, %v", data, err)
		}
	}
	for text, newer := range map[string]bool{`{"version":2}`: true, `{"version":99,"more":{}}`: true, `{}`: false, `{"version":0}`: false, `x`: false} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Claim(root); err == nil || errors.Is(err, ErrNewer) != newer || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", text, err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != text {
			t.Errorf("%s: touched: %q, %v", text, data, err)
		}
	}
}

// Of the first format there may be no file: a full or broken disk does not keep straked
// from it.
func TestClaimWithoutRoom(t *testing.T) {
	if err := Claim("/proc/self"); err != nil { // where nobody can make a file
		t.Error(err)
	}
}
