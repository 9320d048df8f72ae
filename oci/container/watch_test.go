package container

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// watcherEnv makes the test binary, inside a container, one that looks into every
// process that appears there. Its value is a file that only the host has.
const watcherEnv = "STRAKE_TEST_WATCHER"

// beWatcher stops each process the moment it appears, takes it apart, and lets it
// go on. What it finds goes to /report.
func beWatcher(marker string) error {
	report, err := os.OpenFile("/report", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return err
	}
	own := statusWord("self", "CapPrm")
	var said []string
	say := func(format string, args ...any) {
		if line := fmt.Sprintf(format, args...); !slices.Contains(said, line) {
			said = append(said, line)
			_, _ = fmt.Fprintln(report, line)
		}
	}
	say("watching")
	last := os.Getpid()
	for {
		// A few numbers ahead of the newest process that there is.
		load, err := os.ReadFile("/proc/loadavg")
		if err != nil {
			return err
		}
		f := strings.Fields(string(load))
		newest, _ := strconv.Atoi(f[len(f)-1])
		for pid := last + 1; pid < max(last, newest)+8; pid++ {
			var st syscall.Stat_t
			if syscall.Stat("/proc/self/task/"+strconv.Itoa(pid), &st) == nil {
				last = pid // a thread of ours
				continue
			}
			if syscall.Kill(pid, syscall.SIGSTOP) != nil {
				continue
			}
			last = pid
			lookInto(strconv.Itoa(pid), marker, own, say)
			_ = syscall.Kill(pid, syscall.SIGCONT)
		}
	}
}

func lookInto(pid, marker string, own uint64, say func(string, ...any)) {
	if statusText(pid, "Tgid") == strconv.Itoa(os.Getpid()) {
		return // a new thread of ours
	}
	proc := "/proc/" + pid + "/"
	say("seen")
	if _, err := os.Stat(proc + "root" + marker); err == nil {
		say("root: the host's")
	}
	if target, err := os.Readlink(proc + "cwd"); err == nil && target != "/" {
		say("cwd: %s", target)
	}
	watcher, _ := os.Stat("/proc/self/exe")
	shell, _ := os.Stat("/bin/busybox")
	if exe, err := os.Stat(proc + "exe"); err == nil && !os.SameFile(exe, watcher) && !os.SameFile(exe, shell) {
		var fs syscall.Statfs_t
		target, _ := os.Readlink(proc + "exe")
		if syscall.Statfs(proc+"exe", &fs) == nil && fs.Flags&unix.ST_RDONLY == 0 && !strings.HasPrefix(target, "/memfd:strake-stub") {
			say("exe: %s, which can be written to", target)
		}
	}
	fds, _ := filepath.Glob(proc + "fd/*") // none that may not be read
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		kind, _, _ := strings.Cut(target, ":")
		if err == nil && !slices.Contains([]string{"pipe", "socket", "/dev/null", "/"}, kind) {
			say("fd: %s", target)
		}
		var inside, outside syscall.Stat_t
		if target == "/" && syscall.Stat("/", &inside) == nil && syscall.Stat(fd, &outside) == nil && inside.Ino != outside.Ino {
			say("fd: another root")
		}
	}
	// What ptrace(2) wants is wanted for this too, and it does not hold anybody up.
	if mem, err := os.OpenFile(proc+"mem", os.O_RDWR, 0); err == nil {
		if more := statusWord(pid, "CapPrm") &^ own; more != 0 {
			say("memory: of one with capabilities %x more", more)
		}
		_ = mem.Close()
	}
}

func statusText(pid, field string) string {
	data, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(data), field+":")
	line, _, _ := strings.Cut(rest, "\n")
	return strings.TrimSpace(line)
}

func statusWord(pid, field string) uint64 {
	n, _ := strconv.ParseUint(statusText(pid, field), 16, 64)
	return n
}

// CVE-2016-9962 (runc before 1.0-rc3): a process of the container looks into one
// that is joining it, which has descriptors of the host and all privileges. To
// see it for certain, it is stopped when it appears, which every process of the
// same user may do. With CAP_SYS_PTRACE not being dumpable does not help; what
// runc 1.5 has there is the memory of a process with all capabilities.
func TestJoinerHasNothingOfTheHost(t *testing.T) {
	testutil.RequireStatic(t)
	inSealed := sealed(t)
	for _, capability := range []string{"", "CAP_SYS_PTRACE"} {
		t.Run("with "+capability, func(t *testing.T) {
			e := newEnv(t)
			marker := filepath.Join(e.state, "marker")
			must(t, os.WriteFile(marker, nil, 0o600))
			self, err := os.ReadFile("/proc/self/exe")
			must(t, err)
			must(t, os.WriteFile(filepath.Join(e.bundle, "rootfs/watcher"), self, 0o755)) // a copy: ours is refused
			s := e.spec("")
			s.Process.Args = []string{"/watcher"}
			s.Process.Env = append(s.Process.Env, watcherEnv+"="+marker)
			if capability != "" {
				grant(s, capability)
			}
			c, _ := e.start(s)
			if !inSealed && capability != "" {
				// Our own program would be in reach (CVE-2019-5736).
				if _, err := e.exec(c, sh("true")); !errors.Is(err, ErrUnsealed) {
					t.Errorf("not sealed: %v", err)
				}
				return
			}
			report := filepath.Join(e.bundle, "rootfs/report")
			read := func() string {
				data, _ := os.ReadFile(report) // there is none at first
				return string(data)
			}
			eventually(t, "watcher starts", func() bool { return strings.Contains(read(), "watching") })
			eventually(t, "the watcher sees somebody", func() bool {
				for range 40 {
					_, err := e.exec(c, sh("true"))
					must(t, err)
				}
				return strings.Contains(read(), "seen")
			})
			// The stub is made for the one process and can be written by nobody.
			got := strings.ReplaceAll(read(), "fd: /memfd:strake-stub (deleted)\n", "")
			if got != "watching\nseen\n" {
				t.Errorf("found by the watcher:\n%s", got)
			}
			if capability == "" {
				return
			}
			// The control: one that is born inside with everything is found out.
			state, err := c.State()
			must(t, err)
			eventually(t, "the watcher finds out a naive joiner", func() bool {
				must(t, runInPIDNamespace(state.Pid, "/bin/true"))
				return strings.Contains(read(), "root: the host's") && strings.Contains(read(), "memory: of one with capabilities")
			})
		})
	}
}

// runInPIDNamespace runs a program in the PID namespace of a process, and in no
// other of its namespaces.
func runInPIDNamespace(pid int, program string) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, of := range []string{strconv.Itoa(pid), "self"} {
		ns, err := os.Open("/proc/" + of + "/ns/pid")
		if err != nil {
			return err
		}
		defer ns.Close()
		if err := unix.Setns(sys.Fd(ns), unix.CLONE_NEWPID); err != nil {
			return err
		}
		if of != "self" {
			cmd := exec.Command(program)
			err = cmd.Start()
			defer func() { _ = cmd.Wait() }()
			if err != nil {
				return err
			}
		}
	}
	return nil
}
