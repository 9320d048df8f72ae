package main

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/strake-containers/strake/oci/launch"
)

// TestEntry: linked with its own entry, the program has one thread's worth of Go's
// scheduler, or what its caller wants, and finds its arguments and environment.
func TestEntry(t *testing.T) {
	program := withEntry(t)
	for _, c := range []struct {
		env  []string
		want string
	}{
		{nil, "gomaxprocs=1 "},
		{[]string{"HOME=/", "X="}, "gomaxprocs=1 "},
		{[]string{"A=1", "GOMAXPROCS=3", "B=2"}, "gomaxprocs=3 "},
	} {
		if got := schedulerOf(t, program, append(c.env, "GODEBUG=schedtrace=1")); !strings.Contains(got, c.want) {
			t.Errorf("environment %q: %q, want %s", c.env, got, c.want)
		}
	}
	cmd := exec.Command(program, "--version")
	cmd.Args[0] = "" // and no environment
	cmd.Env = []string{}
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "spec: ") {
		t.Errorf("without name and environment: %v, %s", err, out)
	}
}

// withEntry builds the program with its own entry.
func withEntry(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "strake-runtime")
	build := exec.Command("go", "build", "-ldflags", "-E main.entry", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return program
}

// schedulerOf is the first line by which a program's scheduler describes itself. The
// program waits meanwhile, for a reader of its log (and --debug has it wait there, and
// not before Go starts).
func schedulerOf(t *testing.T, program string, env []string) string {
	t.Helper()
	log := filepath.Join(t.TempDir(), "log")
	if err := syscall.Mkfifo(log, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "--debug", "--log", log, "list")
	cmd.Env = env
	stderr, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stderr).ReadString('\n')
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // it says that it was killed
	if err != nil {
		t.Fatalf("standard error: %v", err)
	}
	return line
}

func TestLeaveEnvironment(t *testing.T) {
	t.Setenv("GOMAXPROCS", "2")
	t.Setenv(launch.SealedEnv, "1")
	leaveEnvironment()
	if got, ok := os.LookupEnv(launch.SealedEnv); ok {
		t.Errorf("%s of the sealed start stays: %q", launch.SealedEnv, got)
	}
	if got := os.Getenv("GOMAXPROCS"); got != "2" {
		t.Errorf("the caller's GOMAXPROCS has become %q", got)
	}
	entered = true
	t.Cleanup(func() { entered = false })
	leaveEnvironment()
	if got, ok := os.LookupEnv("GOMAXPROCS"); ok {
		t.Errorf("GOMAXPROCS of the entry stays: %q", got)
	}
}
