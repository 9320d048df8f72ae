// Package runtime tests the strake-runtime program from outside: bundles go in,
// and what is looked at is output, exit codes, files and the kernel's own view.
package runtime

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/testutil"
)

// program is the strake-runtime under test.
var program string

// The test program is also the program in the containers: argument 1 says what
// it is to do there.
func TestMain(m *testing.M) {
	if os.Getenv("STRAKE_E2E_INSIDE") != "" {
		os.Exit(inside(os.Args[1:]))
	}
	os.Exit(testutil.MainWith(m, "strake-runtime", &program))
}

// inside is what runs in a container.
func inside(args []string) int {
	switch args[0] {
	case "kill-self":
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	case "exit":
		n, _ := strconv.Atoi(args[1])
		return n
	case "echo":
		fmt.Println(strings.Join(args[1:], " "))
	case "sleep":
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGUSR2)
		<-c
	case "term": // until SIGTERM, and says so
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		fmt.Println("ready")
		<-c
		fmt.Println("terminated")
		return 5
	case "status": // of a field of /proc/self/status
		data, _ := os.ReadFile("/proc/self/status")
		for line := range strings.Lines(string(data)) {
			if strings.HasPrefix(line, args[1]+":") {
				fmt.Print(line)
			}
		}
	case "slack": // of its timers, in nanoseconds
		fmt.Println(unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)) // threads inherit it
	case "env":
		fmt.Println(os.Getenv(args[1]))
	case "cgroups":
		data, err := os.ReadFile("/proc/self/cgroup")
		fmt.Print(string(data), err)
	case "write": // a variable to a file
		_ = os.WriteFile(args[1], []byte(os.Getenv(args[2])), 0o644) // without it the test fails
	case "cwd":
		dir, err := os.Getwd()
		fmt.Println(dir, err)
	case "mkdir":
		fmt.Println(errors.Is(os.Mkdir(args[1], 0o755), syscall.Errno(77)))
	case "open":
		f, err := os.OpenFile(args[1], os.O_RDWR, 0)
		if err == nil {
			_ = f.Close()
		}
		fmt.Println(err)
	case "fd": // writes to a descriptor
		n, _ := strconv.Atoi(args[1])
		_, err := os.NewFile(uintptr(n), "").WriteString("from inside\n")
		fmt.Println(err)
	case "descriptors": // to standard output, or to a file
		if len(args) > 1 {
			_ = os.WriteFile(args[1], []byte(openDescriptors()), 0o644) // without it the test fails
			return 0
		}
		fmt.Println(openDescriptors())
	case "type":
		fmt.Println(pushInput())
	case "limits":
		fmt.Println(processLimits())
	case "keyrings":
		fmt.Println(sessionKeyring())
	case "labels":
		labels(args[1:])
	case "touch":
		fmt.Println(touch(args[1]))
	case "thief":
		_ = os.WriteFile("/result", []byte(steal()), 0o644) // without it the test fails
	case "notify":
		fmt.Println(sayToManager(args[1:]))
	case "tty":
		fmt.Println(isTerminal(0), isTerminal(1), isTerminal(2))
		var line string
		_, _ = fmt.Scanln(&line)
		fmt.Println("got", line)
	}
	return 0
}

// host is a state directory and bundles for one test.
type host struct {
	t    *testing.T
	root string
}

func newHost(t *testing.T) *host {
	t.Helper()
	testutil.RequireRoot(t, "containers are root's to make")
	testutil.RequireStatic(t)
	root, err := os.MkdirTemp("/run", "strake-e2e-runtime-")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t, root}
	t.Cleanup(func() {
		left, _ := os.ReadDir(filepath.Join(root, "state"))
		for _, e := range left {
			t.Errorf("container %s is left", e.Name())
			_ = h.command("delete", "--force", e.Name()).Run()
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), root) {
			t.Errorf("mounts are left: %v", err)
		}
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
		for _, pattern := range []string{"/sys/fs/cgroup/*/", "/sys/fs/cgroup/"} {
			if dirs, _ := filepath.Glob(pattern + filepath.Base(root)); len(dirs) > 0 {
				t.Errorf("cgroups are left: %v", dirs)
			}
		}
	})
	return h
}

// bundle makes a bundle whose process runs inside(args).
func (h *host) bundle(change func(*specs.Spec), args ...string) string {
	h.t.Helper()
	dir, err := os.MkdirTemp(h.root, "bundle-")
	if err != nil {
		h.t.Fatal(err)
	}
	for _, sub := range []string{"proc", "dev", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", sub), 0o755); err != nil {
			h.t.Fatal(err)
		}
	}
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/inside"), self, 0o755); err != nil {
		h.t.Fatal(err)
	}
	if out := h.must("spec", "--bundle", dir); out != "" {
		h.t.Errorf("spec says %q", out)
	}
	file := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(file)
	if err != nil {
		h.t.Fatal(err)
	}
	var s specs.Spec
	if err := json.Unmarshal(data, &s); err != nil {
		h.t.Fatal(err)
	}
	s.Process.Terminal = false
	s.Process.Args = append([]string{"/inside"}, args...)
	s.Process.Env = append(s.Process.Env, "STRAKE_E2E_INSIDE=1")
	s.Linux.CgroupsPath = "/" + filepath.Base(h.root) + "/" + filepath.Base(dir)
	if change != nil {
		change(&s)
	}
	if data, err = json.Marshal(&s); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(file, data, 0o644); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

func (h *host) command(args ...string) *exec.Cmd {
	return exec.Command(program, append([]string{"--root", filepath.Join(h.root, "state")}, args...)...)
}

// result of a command.
type result struct {
	out, err string
	code     int
}

// do runs a command to its end. Its streams are files: a pipe would be held
// open by a detached container.
func (h *host) do(args ...string) result {
	h.t.Helper()
	return h.finish(h.command(args...))
}

func (h *host) finish(cmd *exec.Cmd) result {
	h.t.Helper()
	read := func(name string) (*os.File, func() string) {
		f, err := os.CreateTemp(h.root, name)
		if err != nil {
			h.t.Fatal(err)
		}
		return f, func() string {
			defer f.Close()
			data, err := os.ReadFile(f.Name())
			if err != nil {
				h.t.Fatal(err)
			}
			return string(data)
		}
	}
	out, outText := read("out-")
	errs, errText := read("err-")
	cmd.Stdout, cmd.Stderr = out, errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		h.t.Fatal(err)
	}
	return result{outText(), errText(), cmd.ProcessState.ExitCode()}
}

// must runs a command that succeeds, and returns its output.
func (h *host) must(args ...string) string {
	h.t.Helper()
	r := h.do(args...)
	if r.code != 0 {
		h.t.Fatalf("%s: exit code %d: %s", strings.Join(args, " "), r.code, r.err)
	}
	return r.out
}

// fails runs a command that fails with a code and one line that has some words.
func (h *host) fails(code int, words string, args ...string) {
	h.t.Helper()
	r := h.do(args...)
	if r.code != code || !strings.Contains(r.err, words) {
		h.t.Errorf("%s: exit code %d, %q; want %d and %q", strings.Join(args, " "), r.code, r.err, code, words)
	}
	if strings.Count(r.err, "\n") != 1 {
		h.t.Errorf("%s: not one line: %q", strings.Join(args, " "), r.err)
	}
}

func (h *host) status(id string) string {
	h.t.Helper()
	return h.state(id).Status
}

type state struct {
	Version string `json:"ociVersion"`
	ID      string `json:"id"`
	Pid     int    `json:"pid"`
	Status  string `json:"status"`
	Bundle  string `json:"bundle"`
	Rootfs  string `json:"rootfs"`
	Created string `json:"created"`
	Owner   string `json:"owner"`
}

func (h *host) state(id string) state {
	h.t.Helper()
	var s state
	if err := json.NewDecoder(bytes.NewReader([]byte(h.must("state", id)))).Decode(&s); err != nil {
		h.t.Fatal(err)
	}
	return s
}
