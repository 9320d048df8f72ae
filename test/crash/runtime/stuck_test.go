package runtime

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// busybox is a hook that runs one of its programs on the host.
func busybox(args ...string) []specs.Hook {
	return []specs.Hook{{Path: "/bin/busybox", Args: args, Env: []string{"PATH=/bin:/usr/bin"}}}
}

// late runs a command that times out, and checks what it says: where it hangs.
// On a busy machine it may not have got there yet, and gets more time.
func (h *host) late(words string, args ...string) {
	h.t.Helper()
	for _, timeout := range []string{"500ms", "3s", "15s"} {
		command := append([]string{args[0], "--timeout", timeout}, args[1:]...)
		out, code := h.do(command...)
		if code == 0 || strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, ": timed out after "+timeout+"\n") {
			h.t.Fatalf("%s: exit code %d: %s", strings.Join(command, " "), code, out)
		}
		if strings.Contains(out, words) {
			return
		}
		h.t.Logf("%s: %s", strings.Join(command, " "), out)
	}
	h.t.Errorf("%s: nothing about %q", strings.Join(args, " "), words)
}

// TestStuck has something hang in each place that can; the error names it, and
// nothing is left.
func TestStuck(t *testing.T) {
	h := newHost(t)
	create := []string{"create", "--bundle", h.bundle, id}
	run := []string{"run", "--detach", "--bundle", h.bundle, id}
	each := func(name string, change func(*specs.Spec), do func(h *host)) {
		t.Run(name, func(t *testing.T) {
			h := *h
			h.t = t
			h.configure(change)
			do(&h)
			h.clean(name)
		})
	}
	gone := func(h *host, words string, commands ...[]string) {
		h.t.Helper()
		for _, command := range commands {
			h.late(words, command...)
			if status := h.status(); status != "" {
				h.t.Errorf("%s: the container is %s", command[0], status)
			}
			h.clean(command[0])
		}
	}

	each("hook of ours", func(s *specs.Spec) { s.Hooks.CreateRuntime = busybox("sleep", "1000") }, func(h *host) {
		gone(h, "container walk: hooks.createRuntime[0] (/bin/busybox)", create, run)
	})
	each("hook of the child", func(s *specs.Spec) { s.Hooks.CreateContainer = busybox("sleep", "1000") }, func(h *host) {
		gone(h, "container walk: hooks.createContainer[0] (/bin/busybox)", create, run)
	})
	each("hook without a PID namespace", func(s *specs.Spec) {
		s.Linux.Namespaces = s.Linux.Namespaces[1:]
		s.Mounts = s.Mounts[1:] // /proc wants one
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = nil, nil
		s.Hooks.CreateContainer = busybox("sleep", "1000")
	}, func(h *host) {
		gone(h, "container walk: hooks.createContainer[0] (/bin/busybox)", create)
	})
	each("stopped child", func(s *specs.Spec) {
		s.Hooks.CreateRuntime = busybox("sh", "-c", `busybox kill -STOP $(busybox sed 's/.*"pid":\([0-9]*\).*/\1/')`)
	}, func(h *host) {
		gone(h, "container walk: hooks (prestart, createRuntime): wait for the parent", create, run)
	})
	dead := deadFS(t)
	each("source that does not answer", func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/mnt", Type: "bind", Source: dead + "/x", Options: []string{"bind"}})
	}, func(h *host) {
		gone(h, `container walk: mounts[7] ("bind" on "/mnt"): open_tree`, create, run)
	})
	each("hook behind the gate", func(s *specs.Spec) {
		s.Hooks.StartContainer = []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}}}
	}, func(h *host) {
		h.must("create", "--bundle", h.bundle, id)
		h.late("start container walk: hooks.startContainer[0] (/bin/sleep)", "start", id)
		h.ended()
	})
	each("stopped init at the gate", nil, func(h *host) {
		h.must("create", "--bundle", h.bundle, id)
		h.must("kill", id, "STOP")
		if status := h.status(); status != "created" {
			t.Errorf("a stopped init that waits is %s", status)
		}
		h.late("start container walk: its init does not come out of the gate", "start", id)
		h.ended()
	})
	each("exec into a paused container", nil, func(h *host) {
		start(h)
		h.must("pause", id)
		h.late("exec in container walk: ", "exec", "--ignore-paused", id, "true")
		usable(h, trace{}, h.status())
		h.must("delete", "--force", id)
	})
}

// ended says that a start which timed out has ended the container.
func (h *host) ended() {
	h.t.Helper()
	h.stopped()
	if status := h.status(); status != "stopped" {
		h.t.Errorf("the container is %s", status)
	}
	h.must("delete", id)
}

// TestStateWhileCreating asks for the state of a container whose hook is at work.
func TestStateWhileCreating(t *testing.T) {
	h := newHost(t)
	fifo := filepath.Join(h.root, "fifo")
	must(t, syscall.Mkfifo(fifo, 0o600))
	h.configure(func(s *specs.Spec) {
		s.Hooks.CreateRuntime = busybox("sh", "-c", fmt.Sprintf("echo here > %s; busybox cat %s", fifo, fifo))
	})
	cmd := h.command("create", "--bundle", h.bundle, id)
	must(t, cmd.Start())
	f, err := os.Open(fifo) // once the hook is there
	must(t, err)
	_, err = io.ReadAll(f)
	must(t, err)
	must(t, f.Close())
	if status := h.status(); status != "creating" {
		t.Errorf("the container is %s", status)
	}
	for verb, want := range map[string]string{"start": "creating", "exec": "being created", "pause": "creating", "delete": "being created"} {
		args := []string{verb, id}
		if verb == "exec" {
			args = append(args, "true")
		}
		if out, code := h.do(args...); code == 0 || !strings.Contains(out, want) {
			t.Errorf("%s: exit code %d: %s", verb, code, out)
		}
	}
	must(t, os.WriteFile(fifo, nil, 0)) // the hook goes on
	must(t, cmd.Wait())
	if status := h.status(); status != "created" {
		t.Errorf("the container is %s", status)
	}
	h.must("delete", id)
}

// deadFS is a file system whose server never says a word.
func deadFS(t *testing.T) string {
	t.Helper()
	server, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("needs FUSE: %v", err)
	}
	dir, err := os.MkdirTemp("/run", "strake-dead-")
	must(t, err)
	must(t, syscall.Mount("dead", dir, "fuse", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", server.Fd())))
	t.Cleanup(func() {
		must(t, server.Close()) // whoever waits gets an error
		must(t, syscall.Unmount(dir, syscall.MNT_DETACH))
		must(t, os.Remove(dir))
	})
	return dir
}
