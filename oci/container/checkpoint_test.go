package container

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/oci/criu"
)

// counterSpec is a container that answers each line with the number of lines.
func (e *env) counterSpec() *specs.Spec {
	return e.spec("n=0; while read line; do n=$((n+1)); echo $n; done")
}

// stream is a pair of pipes to a counter.
type stream struct {
	in, out   *os.File // the container's
	to        *os.File
	from      *bufio.Reader
	fromClose func() error
}

func newStream(t *testing.T) *stream {
	t.Helper()
	in, to, err := os.Pipe()
	must(t, err)
	from, out, err := os.Pipe()
	must(t, err)
	s := &stream{in: in, out: out, to: to, from: bufio.NewReader(from), fromClose: from.Close}
	t.Cleanup(func() { _ = errors.Join(s.to.Close(), s.fromClose()) })
	return s
}

// handedOn closes the ends that the container has.
func (s *stream) handedOn(t *testing.T) {
	t.Helper()
	must(t, errors.Join(s.in.Close(), s.out.Close()))
}

// count sends a line and returns the answer.
func (s *stream) count(t *testing.T) string {
	t.Helper()
	_, err := s.to.WriteString("x\n")
	must(t, err)
	line, err := s.from.ReadString('\n')
	must(t, err)
	return strings.TrimSpace(line)
}

// A container goes on from a checkpoint: with its memory, other streams, its
// mounts from outside, and the things that the runtime knows of it.
func TestCheckpointAndRestore(t *testing.T) {
	e := newEnv(t)
	if out, err := exec.Command("criu", "check").CombinedOutput(); err != nil {
		t.Skipf("needs a CRIU that works on this kernel (test/vm has one): %v: %s", err, out)
	}
	s := e.counterSpec()
	s.Annotations = map[string]string{"a": "b"}
	volume := t.TempDir()
	must(t, os.WriteFile(filepath.Join(volume, "file"), []byte("outside"), 0o644))
	must(t, os.MkdirAll(filepath.Join(e.bundle, "rootfs/real"), 0o755))
	must(t, os.Symlink("/real", filepath.Join(e.bundle, "rootfs/link")))
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/link/volume", Source: volume, Options: []string{"rbind"}})
	s.Linux.MaskedPaths = append(s.Linux.MaskedPaths, "/proc/keys")
	before := newStream(t)
	c, p := e.start(s, func(o *CreateOptions) { o.Stdin, o.Stdout, o.Stderr = before.in, before.out, before.out })
	before.handedOn(t)
	if got := before.count(t); got != "1" {
		t.Fatalf("it counts %s", got)
	}

	images := t.TempDir()
	must(t, c.Checkpoint(t.Context(), CheckpointOptions{Images: Images{Path: images}, LeaveRunning: true}))
	if got := before.count(t); got != "2" {
		t.Errorf("left running, it counts %s", got)
	}
	must(t, c.Checkpoint(t.Context(), CheckpointOptions{Images: Images{Path: images}}))
	if code := wait(t, p); code != 128+int(syscall.SIGKILL) {
		t.Errorf("it ended with %d", code)
	}
	state, err := c.State()
	must(t, err)
	if state.Status != specs.StateStopped {
		t.Errorf("after the checkpoint it is %s", state.Status)
	}
	must(t, c.Delete(t.Context(), false))
	must(t, os.RemoveAll(filepath.Join(e.bundle, "rootfs/real/volume"))) // as in a fresh copy of the image

	after := newStream(t)
	o := RestoreOptions{Images: Images{Path: images}}
	o.ID, o.Bundle, o.StateRoot, o.Spec = e.id(), e.bundle, e.state, s
	o.Stdin, o.Stdout, o.Stderr = after.in, after.out, after.out
	o.PidFile = filepath.Join(t.TempDir(), "pid")
	c, p, err = Restore(t.Context(), o)
	must(t, err)
	after.handedOn(t)
	if got := after.count(t); got != "3" {
		t.Errorf("restored, it counts %s", got)
	}
	state, err = c.State()
	must(t, err)
	if state.Status != specs.StateRunning || state.Pid != p.Pid || state.Annotations["a"] != "b" {
		t.Errorf("state %+v", state)
	}
	if pid, err := os.ReadFile(o.PidFile); err != nil || string(pid) != strconv.Itoa(p.Pid) {
		t.Errorf("pid file: %s, %v", pid, err)
	}
	r, err := e.exec(c, sh("cat /real/volume/file; grep ' /proc/keys ' /proc/self/mountinfo; readlink /proc/self/ns/time; readlink /proc/1/ns/time"))
	must(t, err)
	contains(t, r.out, "outside", " ro,nosuid,noexec")
	if l := lines([]byte(r.out)); l[len(l)-1] != l[len(l)-2] {
		t.Errorf("exec is in another time namespace: %s", r.out)
	}
	must(t, c.Kill(syscall.SIGKILL, false))
	wait(t, p)
	must(t, c.Delete(t.Context(), false))
	e.gone(o.ID)
}

// Where CRIU cannot do it, the error has its reason, and nothing has changed.
func TestCheckpointThatFails(t *testing.T) {
	e := newEnv(t)
	streams := newStream(t)
	c, _ := e.start(e.counterSpec(), func(o *CreateOptions) { o.Stdin, o.Stdout = streams.in, streams.out })
	streams.handedOn(t)
	fails := func(want string, o CheckpointOptions) {
		t.Helper()
		if err := c.Checkpoint(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
	}
	images := Images{Path: t.TempDir(), Program: fakeCRIU(t, "echo 'Error (criu/x.c:1): no vDSO' >&2")}
	fails("no vDSO", CheckpointOptions{Images: images})
	fails("/no/criu", CheckpointOptions{Images: Images{Path: images.Path, Program: "/no/criu"}})
	fails("relative", CheckpointOptions{Images: images, Parent: "/x"})
	fails("no such file", CheckpointOptions{Images: images, Parent: "x"})
	fails("no directory", CheckpointOptions{})
	if got := streams.count(t); got != "1" {
		t.Errorf("it counts %s", got)
	}
}

func TestCheckpointOfWhatDoesNotRun(t *testing.T) {
	e := newEnv(t)
	c, _ := e.create(e.counterSpec())
	if err := c.Checkpoint(t.Context(), CheckpointOptions{Images: Images{Path: t.TempDir()}}); !errors.Is(err, ErrNotRunning) {
		t.Error(err)
	}
}

// A restore that fails leaves nothing, at whatever step.
func TestRestoreThatFails(t *testing.T) {
	e := newEnv(t)
	images := t.TempDir()
	restore := func(want string, s *specs.Spec, program string) {
		t.Helper()
		o := RestoreOptions{Images: Images{Path: images, Program: program}}
		o.ID, o.Bundle, o.StateRoot, o.Spec = e.id(), e.bundle, e.state, s
		if _, _, err := Restore(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q in it", err, want)
		}
		e.gone(o.ID)
	}
	restore(descriptorsFile, e.counterSpec(), "/no/criu")
	must(t, writeDescriptors(filepath.Join(images, descriptorsFile), []string{"pipe:[1]", "", "", "file[1:2]"}))
	restore("/no/criu", e.counterSpec(), "/no/criu")
	restore("no vDSO", e.counterSpec(), fakeCRIU(t, "echo 'Error (criu/x.c:1): no vDSO' >&2"))
	s := e.counterSpec()
	s.Hostname = ""
	s.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.MountNamespace, Path: "/proc/self/ns/mnt"}}
	restore("a mount namespace of its own", s, "/no/criu")
	s = e.counterSpec()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Source: "/no/volume", Options: []string{"bind"}})
	restore("mounts[6]", s, "/no/criu")
}

// fakeCRIU is a script in CRIU's place.
func fakeCRIU(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "criu")
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	return path
}

// Streams from outside are named in images, those of the container are not.
func TestDescribeStreams(t *testing.T) {
	e := newEnv(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	must(t, sys.MakeFIFO(fifo, 0o600))
	in, err := os.OpenFile(fifo, os.O_RDWR, 0)
	must(t, err)
	defer func() { _ = in.Close() }()
	r, w, err := os.Pipe()
	must(t, err)
	defer func() { _ = errors.Join(r.Close(), w.Close()) }()
	s := e.spec("exec 2>/tmp/log; echo ready; read line")
	c, p := e.start(s, func(o *CreateOptions) { o.Stdin, o.Stdout = in, w })
	_, err = bufio.NewReader(r).ReadString('\n')
	must(t, err)
	var o criu.Options
	names, err := describeStreams(&o, p.Pid)
	must(t, err)
	pipe, err := os.Readlink("/proc/self/fd/" + fdOf(w))
	must(t, err)
	if len(names) != 4 || !strings.HasPrefix(names[0], "file[") || names[1] != pipe || names[2] != "/tmp/log" ||
		!strings.HasPrefix(names[3], "file[") || !reflect.DeepEqual(o.External, []string{names[0], names[3]}) {
		t.Errorf("names %q, external %q", names, o.External)
	}
	must(t, c.Delete(context.Background(), true))
}

func TestParsePageServer(t *testing.T) {
	for text, want := range map[string]*criu.PageServer{
		"127.0.0.1:27": {Address: "127.0.0.1", Port: 27}, "[::1]:65535": {Address: "::1", Port: 65535}, "host:1": {Address: "host", Port: 1},
		"host": nil, "host:": nil, ":1": nil, "host:0": nil, "host:65536": nil, "host:x": nil,
	} {
		if got, err := parsePageServer(text); !reflect.DeepEqual(got, want) || (err == nil) != (want != nil) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
	}
}

// A restore mounts the rootfs twice: for its places, and for CRIU. The kernel mounts a
// volatile overlay once.
func TestRestoreMountsVolatileOverlayTwice(t *testing.T) {
	e := newEnv(t)
	lower, upper, work := filepath.Join(e.bundle, "rootfs"), t.TempDir(), t.TempDir()
	s := e.spec("true")
	s.Root.Path = t.TempDir()
	s.Mounts = append(s.Mounts, specs.Mount{Destination: "/place", Source: t.TempDir(), Options: []string{"rbind"}})
	options := []string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + work, "volatile", "index=off"}
	o := RestoreOptions{CreateOptions: CreateOptions{ID: e.id(), Bundle: e.bundle, StateRoot: e.state, Spec: s}}
	o.RootfsMounts = []Mount{{Type: "overlay", Source: "overlay", Options: slices.Clone(options)}}
	cg, err := newCgroup(&o.CreateOptions, s)
	must(t, err)
	_, err = o.makePlaces(s, cg)
	must(t, err)
	ns, err := o.mountRootfs(s, cg)
	must(t, err)
	must(t, ns.Close())
	if _, err := os.Stat(filepath.Join(upper, "place")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(work, "work/incompat/volatile")); err != nil {
		t.Errorf("the container's mount is not volatile: %v", err)
	}
	if !slices.Equal(o.RootfsMounts[0].Options, options) {
		t.Errorf("options are now %q", o.RootfsMounts[0].Options)
	}
}
