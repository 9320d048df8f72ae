package host

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
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

// TestNoFile: the limit of open files that a process gets is the one that we were started
// with, whatever Go has made of ours since.
func TestNoFile(t *testing.T) {
	if os.Getenv("STRAKE_TEST_NOFILE") != "" {
		h, err := Facts()
		fmt.Printf("limit=%d:%d %v\n", h.NoFile.Soft, h.NoFile.Hard, err)
		return
	}
	for _, c := range []struct{ soft, hard, want string }{
		{"100", "2000", "100:2000"},
		{"1024", "2000", "1024:2000"},
		{"1500", "2000", "1500:2000"},
		{"2000", "2000", "0:0"}, // Go leaves it alone, and so do we
	} {
		limits := "ulimit -Sn " + c.soft + " && ulimit -Hn " + c.hard + ` && exec "$0" -test.run='^TestNoFile$'`
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sh", "-c", limits, self)
		cmd.Env = append(os.Environ(), "STRAKE_TEST_NOFILE=1")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "limit="+c.want+" <nil>\n") {
			t.Errorf("a limit of %s:%s: %s, %v; want %s", c.soft, c.hard, out, err, c.want)
		}
	}
}
