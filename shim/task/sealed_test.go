package task_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/shim/client"
)

// CVE-2019-5736 (runc before 1.0-rc7): a container gets hold of the program that made it, or joins it,
// and writes to it. Attempted with all that a container can be given short of the
// host: CAP_SYS_PTRACE, to look into processes of ours, a script whose interpreter
// is /proc/self/exe, and a command that is a link to that now and to something
// else then.
func TestMonitorsProgramCannotBeWrittenTo(t *testing.T) {
	p := newPod(t)
	defer p.monitor.Close()
	ctx := t.Context()
	held, err := os.OpenFile(fmt.Sprintf("/proc/%d/exe", p.monitorPid()), sysOPath, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	before, err := os.Stat(monitorBinary)
	if err != nil {
		t.Fatal(err)
	}
	sandbox := p.startSandbox()
	if err := os.WriteFile(filepath.Join(p.rootfs, "script"), []byte("#!/proc/self/exe\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, option := range map[string]boxOption{
		"own PID namespace": func(*client.CreateOptions, *specs.Spec) {},
		"in the pod":        inPod(sandbox),
	} {
		t.Run(name, func(t *testing.T) {
			loot := filepath.Join(p.rootfs, "tmp-loot")
			attack := func(_ *client.CreateOptions, s *specs.Spec) {
				for _, set := range []*[]string{&s.Process.Capabilities.Bounding, &s.Process.Capabilities.Effective, &s.Process.Capabilities.Permitted} {
					*set = append(*set, "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE")
				}
			}
			b := p.run([]string{"sh", "-c", `
(while :; do
	busybox ln -sf /proc/self/exe /t1; busybox mv /t1 /trap
	busybox ln -sf /bin/true /t2; busybox mv /t2 /trap
done) &
while :; do for d in /proc/[0-9]*; do
	[ $d/exe -ef /bin/busybox ] || ! [ -e $d/exe ] || [ $d/exe -ef /bin/busybox ] || { echo seen; true >> $d/exe && echo WRITABLE; } >> /tmp-loot
done; done 2>/dev/null`}, option, attack)
			if _, err := p.monitor.ExecSync(ctx, b.id, p.process("/proc/self/exe", "-v"), time.Minute, 1000); err == nil || !strings.Contains(err.Error(), "operation not permitted") {
				t.Errorf("exec of /proc/self/exe: %v", err)
			}
			// This gets it executed inside for certain.
			if r, err := p.monitor.ExecSync(ctx, b.id, p.process("/script"), time.Minute, 1000); err == nil && strings.Contains(string(r.Stderr), "containerd-shim-strake-v2:") {
				t.Log("the interpreter of a script: our program")
			}
			for range 150 {
				r, err := p.monitor.ExecSync(ctx, b.id, p.process("/trap", "-v"), time.Minute, 1000)
				if err == nil && strings.Contains(string(r.Stdout), "containerd-shim") {
					t.Log("our program was executed inside")
				}
			}
			b.remove()
			data, _ := os.ReadFile(loot) // it is there if anything was seen
			_ = os.Remove(loot)
			t.Logf("seen %d times", strings.Count(string(data), "seen"))
			if strings.Contains(string(data), "WRITABLE") {
				t.Errorf("reached from inside:\n%.1000s", data)
			}
		})
	}
	after, err := os.Stat(monitorBinary)
	if err != nil || after.ModTime() != before.ModTime() || after.Size() != before.Size() {
		t.Errorf("the program has changed: %v, %v", after, err)
	}
	// Who has kept it until nothing executes it: not even root of the host.
	monitor := p.monitorPid()
	if err := p.monitor.ShutdownSandbox(ctx, p.id); err != nil {
		t.Fatal(err)
	}
	waitDead(t, "the monitor", monitor)
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", held.Fd()), os.O_WRONLY, 0)
	if !errors.Is(err, syscall.EROFS) {
		t.Errorf("open the monitor's program for writing: %v, %v", f, err)
	}
}

// sysOPath is O_PATH.
const sysOPath = 0x200000
