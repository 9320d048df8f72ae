package sys_test

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// In a mount namespace that was made on another CPU there are pins, too.
func TestPinsInAMountNamespace(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	if runtime.NumCPU() < 2 {
		t.Skip("needs two CPUs")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, cpus := range [][2]string{{"0", "1"}, {"1", "0"}} {
		out, err := exec.Command("taskset", "-c", cpus[0], "unshare", "-m", "taskset", "-c", cpus[1],
			self, "-test.run=^TestPins$").CombinedOutput()
		if err != nil {
			t.Errorf("namespace of CPU %s, on CPU %s: %v\n%s", cpus[0], cpus[1], err, out)
		}
	}
}

// What is pinned outlives everybody who had it open, a process's exit code too.
func TestPins(t *testing.T) {
	testutil.RequireRoot(t, "mounts")
	testutil.CheckLeaks(t)
	dir, err := os.MkdirTemp("/run", "strake-pins-")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	for range 2 { // the second finds them
		if err := sys.MakePins(dir); err != nil {
			t.Fatal(err)
		}
	}
	defer func() {
		if err := sys.RemovePins(dir); err != nil {
			t.Error(err)
		}
	}()
	pins, err := sys.OpenPins(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pins.Close() }()
	cmd := exec.Command("sh", "-c", "exit 42")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := sys.OpenPidFD(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	shm, err := sys.NewTmpfs([]string{"mode=1777"})
	if err != nil {
		t.Fatal(err)
	}
	clone, err := sys.CanClone(shm)
	if err != nil {
		t.Fatal(err)
	}
	var pidErr error
	err = pins.Do(func() error {
		if err := sys.PinGroup("/pod"); err != nil {
			return err
		}
		if clone {
			if err := sys.Pin(shm, "/pod/shm"); err != nil {
				return err
			}
			if err := os.WriteFile("/pod/shm/file", []byte("kept"), 0o600); err != nil {
				return err
			}
		}
		pidErr = sys.Pin(pidfd, "/pod/pid")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	_, _ = pidfd.Close(), shm.Close()
	_ = cmd.Wait() // collected, with nobody having a pidfd
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	entries := 0
	for line := range strings.Lines(string(mounts)) {
		if strings.HasPrefix(strings.Fields(line)[4], dir) {
			entries++
		}
	}
	if err != nil || entries != 2 {
		t.Errorf("the host's mount table (%v):\n%s", err, mounts)
	}
	err = pins.Do(func() error {
		if pidErr == nil {
			f, err := sys.OpenPinnedPidFD("/pod/pid")
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			if exit, known, ended := sys.PidFDExit(sys.Fd(f)); ended && known && exit.Status != 42 || !ended {
				t.Errorf("exit: %+v %v %v", exit, known, ended)
			}
		}
		if clone {
			m, err := sys.OpenPinnedMount("/pod/shm")
			if err != nil {
				return err
			}
			defer func() { _ = m.Close() }()
			if data, err := os.ReadFile("/pod/shm/file"); string(data) != "kept" {
				t.Errorf("file: %q, %v", data, err)
			}
		}
		if err := sys.Unpin("/pod/pid"); err != nil {
			return err
		}
		return sys.UnpinGroup("/pod")
	})
	if err != nil {
		t.Fatal(err)
	}
}
