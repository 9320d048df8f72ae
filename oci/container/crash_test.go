package container

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/testutil"
)

// creatorEnv makes the test binary a creator of one container, to be killed.
const creatorEnv = "STRAKE_TEST_CREATOR"

func TestMain(m *testing.M) {
	if v := os.Getenv(creatorEnv); v != "" {
		if err := beCreator(v); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if v := os.Getenv(watcherEnv); v != "" {
		fmt.Fprintln(os.Stderr, beWatcher(v))
		os.Exit(1)
	}
	if v := os.Getenv(sealEnv); v != "" {
		if v == "yes" {
			if err := Seal(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
		}
		fmt.Println("ready")
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}
	if os.Getenv(sealedTestEnv) != "" {
		if err := Seal(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// sealedTestEnv has the tests run in a sealed program.
const sealedTestEnv = "STRAKE_TEST_SEALED"

// sealed says whether the program is sealed. If not, it runs the test in one that
// is, and the caller has nothing more to do.
func sealed(t *testing.T) bool {
	t.Helper()
	if os.Getenv(sealedTestEnv) != "" {
		return true
	}
	cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), sealedTestEnv+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("sealed: %v\n%s", err, out)
	}
	return false
}

const sealEnv = "STRAKE_TEST_SEAL"

// CVE-2019-5736 (runc before 1.0-rc7) once more: even who has our /proc/PID/exe cannot open it for
// writing, not even when no process executes the file any more.
func TestSealedProgramCannotBeWrittenTo(t *testing.T) {
	testutil.RequireRoot(t, "a mount is made")
	self, err := os.Executable()
	must(t, err)
	data, err := os.ReadFile(self)
	must(t, err)
	for seal, want := range map[string]error{"yes": syscall.EROFS, "no": nil} {
		program := filepath.Join(t.TempDir(), "program")
		must(t, os.WriteFile(program, data, 0o755))
		cmd := exec.Command(program)
		cmd.Env = []string{sealEnv + "=" + seal}
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		must(t, err)
		out, err := cmd.StdoutPipe()
		must(t, err)
		must(t, cmd.Start())
		_, err = io.ReadFull(out, make([]byte, len("ready\n")))
		must(t, err)
		handle, err := os.OpenFile(fmt.Sprintf("/proc/%d/exe", cmd.Process.Pid), sys.OPath, 0)
		must(t, err)
		must(t, in.Close())
		must(t, cmd.Wait())
		f, err := os.OpenFile("/proc/self/fd/"+fdOf(handle), os.O_WRONLY, 0)
		if !errors.Is(err, want) {
			t.Errorf("sealed: %s: open for writing: %v, want %v", seal, err, want)
		}
		_ = closeFile(f)
		must(t, handle.Close())
	}
}

type creation struct {
	ID, Bundle, State string
	Spec              *specs.Spec
}

func beCreator(v string) error {
	var c creation
	if err := json.Unmarshal([]byte(v), &c); err != nil {
		return err
	}
	ctx := context.Background()
	made, _, err := Create(ctx, CreateOptions{ID: c.ID, Bundle: c.Bundle, StateRoot: c.State, Spec: c.Spec})
	if err != nil {
		return err
	}
	if err := made.Start(ctx); err != nil {
		return err
	}
	return made.Delete(ctx, true)
}

// A creator that is killed at any moment of create, start or delete leaves
// something that Delete with force removes.
func TestKilledCreatorLeavesWhatDeleteRemoves(t *testing.T) {
	e := newEnv(t)
	self, err := os.Executable()
	must(t, err)
	steps := 120
	if testing.Short() {
		steps = 20
	}
	states := map[string]int{}
	seconds := fmt.Sprint(1000000 + os.Getpid()) // tells our processes from others
	for i := range steps {
		c := creation{ID: e.id(), Bundle: e.bundle, State: e.state, Spec: e.spec("exec sleep " + seconds)}
		data, err := json.Marshal(c)
		must(t, err)
		cmd := exec.Command(self)
		cmd.Env = []string{creatorEnv + "=" + string(data)}
		must(t, cmd.Start())
		// From its first moment on, wherever that falls in its work.
		dir := filepath.Join(e.state, c.ID)
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
			if _, err := os.Stat(dir); err == nil {
				break
			}
		}
		time.Sleep(time.Duration(i) * 60 * time.Microsecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // killed, or done
		left, err := Load(e.state, c.ID)
		if errors.Is(err, ErrNotExist) {
			states["gone"]++
			e.gone(c.ID)
			continue
		}
		must(t, err)
		if s, err := left.State(); err == nil {
			states[string(s.Status)]++
		}
		must(t, left.Delete(t.Context(), true))
		e.gone(c.ID)
	}
	t.Logf("found after the kill: %v", states)
	if n := countProcesses("sleep\x00" + seconds + "\x00"); n > 0 {
		t.Errorf("%d processes are left", n)
	}
}
