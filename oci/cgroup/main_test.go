package cgroup

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/testutil"
)

// The tests' own process, in another role: argument by environment.
const roleVar = "STRAKE_CGROUP_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "":
		os.Exit(m.Run())
	case "wait": // until killed
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		select {}
	case "eat": // memory, once told to
		fmt.Println("ready")
		_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
		for hoard := [][]byte{}; ; {
			page := make([]byte, 1<<20)
			for i := range page {
				page[i] = byte(i)
			}
			hoard = append(hoard, page)
			_ = hoard
		}
	case "null": // open /dev/null, then the device given, once told to
		fmt.Println("ready")
		in := bufio.NewReader(os.Stdin)
		for {
			path, err := in.ReadString('\n')
			if err != nil {
				os.Exit(0)
			}
			f, err := os.OpenFile(strings.TrimSpace(path), os.O_RDWR, 0)
			if err == nil {
				_ = f.Close()
			}
			fmt.Println(errors.Is(err, syscall.EPERM))
		}
	}
}

// helper is a child of the test in some role.
type helper struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func startHelper(t *testing.T, role string) *helper {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), roleVar+"="+role)
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	h := &helper{cmd, in, bufio.NewReader(out)}
	if line := h.line(t); line != "ready" {
		t.Fatalf("helper says %q", line)
	}
	return h
}

func (h *helper) line(t *testing.T) string {
	t.Helper()
	line, err := h.out.ReadString('\n')
	if err != nil {
		t.Fatalf("helper: %v", err)
	}
	return strings.TrimSpace(line)
}

func (h *helper) ask(t *testing.T, question string) string {
	t.Helper()
	if _, err := fmt.Fprintln(h.in, question); err != nil {
		t.Fatal(err)
	}
	return h.line(t)
}

// modes are those that this host can play: a hybrid host is a v1 one too.
func modes(t *testing.T) []Mode {
	t.Helper()
	testutil.RequireRoot(t, "cgroups are root's to make")
	mode, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	if mode == Hybrid {
		return []Mode{Hybrid, Legacy}
	}
	return []Mode{mode}
}

// eachMode runs f as a subtest per mode, with a cgroup that is removed after.
func eachMode(t *testing.T, f func(t *testing.T, c *Cgroup)) {
	for _, mode := range modes(t) {
		t.Run(mode.String(), func(t *testing.T) {
			c := newTest(t, mode)
			f(t, c)
		})
	}
}

func newTest(t *testing.T, mode Mode) *Cgroup {
	t.Helper()
	testutil.CheckLeaks(t)
	c, err := New("/strake-cg-"+rand.Text()[:10]+"/pod/box", mode)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		end(t, c)
		for _, h := range c.all {
			top := h.mount + "/" + strings.Split(c.path, "/")[1]
			if exists(top) {
				t.Errorf("%s, which Create made, is still there", top)
			}
		}
	})
	return c
}

// end ends what is in a cgroup and deletes it.
func end(t *testing.T, c *Cgroup) {
	t.Helper()
	if err := c.Kill(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := c.WaitEmpty(context.Background()); err != nil {
		t.Error(err)
	}
	if err := c.Delete(); err != nil {
		t.Error(err)
	}
	if c.Exists() {
		t.Error("the cgroup is still there")
	}
}

// file reads a file of the cgroup.
func (c *Cgroup) file(t *testing.T, controller, name string) string {
	t.Helper()
	h, ok := c.find(controller)
	if !ok {
		t.Skipf("no %s controller here", controller)
	}
	text, err := readFile(c.dir(h) + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(text)
}

func ctxFor(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

func ptr[T any](v T) *T { return &v }
