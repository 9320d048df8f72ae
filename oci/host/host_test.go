package host

import (
	"testing"
)

func TestFacts(t *testing.T) {
	h, err := Facts()
	if err != nil {
		t.Fatal(err)
	}
	if h.Kernel[0] < 5 || h.Arch != arch {
		t.Errorf("facts %+v", h)
	}
	if h.NoFile.Hard != 0 && h.NoFile.Soft >= h.NoFile.Hard {
		t.Errorf("limit of open files to restore: %+v", h.NoFile)
	}
}
