package pod

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/testutil"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/shim/client"
)

// archived are the entries of a checkpoint archive.
func archived(t *testing.T, location string) map[string]string {
	t.Helper()
	f, err := os.Open(location)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	entries := map[string]string{}
	for r := tar.NewReader(f); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		entries[h.Name] = string(data)
	}
}

// archive writes a tar of entries: files, or with "->" in its name a link.
func archive(t *testing.T, entries map[string]string) string {
	t.Helper()
	location := filepath.Join(t.TempDir(), "archive.tar")
	f, err := os.Create(location)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	for _, name := range slices.Sorted(maps.Keys(entries)) {
		h := &tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(entries[name]))}
		if link, to, ok := strings.Cut(name, "->"); ok {
			h = &tar.Header{Name: link, Typeflag: tar.TypeSymlink, Linkname: to}
		}
		if strings.HasSuffix(name, "/") {
			h.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, entries[name]); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	return location
}

// A checkpoint has the processes, the files and the description of a container; a
// container that is made of it has them, and its process from its start on.
func TestCheckpointAndRestore(t *testing.T) {
	testutil.RequireRoot(t, "makes whiteouts of overlayfs")
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	upper := filepath.Join(m.store.ContainerDir(pod, id), "upper")
	if err := errors.Join(
		os.WriteFile(filepath.Join(n.root, "layer", "old"), []byte("image's"), 0o644),
		os.MkdirAll(filepath.Join(upper, "var"), 0o711),
		os.WriteFile(filepath.Join(upper, "var", "data"), []byte("written"), 0o640),
		syscall.Mknod(filepath.Join(upper, "old"), syscall.S_IFCHR, 0), // overlayfs's whiteout
	); err != nil {
		t.Fatal(err)
	}
	location := filepath.Join(t.TempDir(), "checkpoint.tar")
	if err := m.CheckpointContainer(t.Context(), id, location, 0); err != nil {
		t.Fatal(err)
	}
	entries := archived(t, location)
	if entries["checkpoint/pages-1.img"] != "memory" || entries["dump.log"] != "log" || entries["deleted.files"] != `["/old"]` ||
		!strings.Contains(entries["config.dump"], `"id":"`+id) || !strings.Contains(entries["spec.dump"], `"ociVersion"`) {
		t.Errorf("%.2000q", entries)
	}
	if s := mustContainer(t, m, id); s.State != ContainerRunning {
		t.Errorf("it is %s", s.State)
	}
	if left, err := filepath.Glob(filepath.Join(m.store.ContainerDir(pod, id), "checkpoint*")); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}

	// Restored, over two restarts of the daemon.
	c := containerConfig("again")
	c.Image, c.UserImage = location, location
	again, err := m.CreateContainer(t.Context(), pod, c)
	if err != nil {
		t.Fatal(err)
	}
	s := mustContainer(t, m, again)
	if s.State != ContainerCreated || s.Pid != 0 || s.ImageName != "repo@sha256:2" || s.ImageID != mustContainer(t, m, id).ImageID {
		t.Errorf("created: %+v", s)
	}
	upper = rootfs.Written(m.store.ContainerDir(pod, again))
	data, err := os.ReadFile(filepath.Join(upper, "var", "data"))
	info, statErr := os.Stat(filepath.Join(upper, "var"))
	gone, goneErr := os.Lstat(filepath.Join(upper, "old"))
	if err := errors.Join(err, statErr, goneErr); err != nil || string(data) != "written" || info.Mode().Perm() != 0o711 || gone.Mode()&os.ModeCharDevice == 0 {
		t.Errorf("its files: %q, %v, %v, %v", data, info, gone, err)
	}
	m = n.open()
	if s := mustContainer(t, m, again); s.State != ContainerCreated {
		t.Errorf("after a restart: %+v", s)
	}
	if err := m.StartContainer(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	if images := n.container(again).checkpoint; archivedMemory(images) != "memory" {
		t.Errorf("restored from %q", images)
	}
	m = n.open()
	n.exit(again, 4)
	if s := mustExit(t, m, again); s.ExitCode != 4 || s.StartedAt.IsZero() {
		t.Errorf("exited: %+v", s)
	}

	// One that is stopped before its start has ended, and cannot be started.
	c.Attempt = 1
	stopped, err := m.CreateContainer(t.Context(), pod, c)
	if err != nil {
		t.Fatal(err)
	}
	if err := m.StopContainer(t.Context(), stopped, 0); err != nil {
		t.Fatal(err)
	}
	if err := m.StartContainer(t.Context(), stopped); !errors.Is(err, ErrState) {
		t.Errorf("start of a stopped one: %v", err)
	}
	// One that CRIU does not restore has ended, and says why.
	c.Attempt = 2
	failed, err := m.CreateContainer(t.Context(), pod, c)
	if err != nil {
		t.Fatal(err)
	}
	n.fails("Create")
	if err := m.StartContainer(t.Context(), failed); !errors.Is(err, errInjected) {
		t.Errorf("start: %v", err)
	}
	n.fails("")
	if s := mustExit(t, m, failed); s.ExitCode != exitStartError || s.Reason != ReasonStartError || !strings.Contains(s.Message, "injected") {
		t.Errorf("failed: %+v", s)
	}
	if err := errors.Join(m.StopPod(t.Context(), pod), m.RemovePod(t.Context(), pod)); err != nil {
		t.Fatal(err)
	}
	n.checkEmpty()
}

func archivedMemory(images string) string {
	data, _ := os.ReadFile(filepath.Join(images, "pages-1.img"))
	return string(data)
}

// TestOneCheckpointAtATime: a checkpoint of a container and one of its pod would let each
// other's containers go on, so the second is refused.
func TestOneCheckpointAtATime(t *testing.T) {
	testutil.RequireRoot(t, "makes whiteouts of overlayfs")
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	ofContainer := func() error {
		return m.CheckpointContainer(t.Context(), id, filepath.Join(t.TempDir(), "checkpoint.tar"), 0)
	}
	ofPod := func() error { return m.CheckpointPod(t.Context(), pod, t.TempDir(), []string{id}) }
	for name, c := range map[string]struct{ first, second func() error }{
		"container, pod":       {ofContainer, ofPod},
		"pod, container":       {ofPod, ofContainer},
		"container, container": {ofContainer, ofContainer},
		"pod, pod":             {ofPod, ofPod},
	} {
		t.Run(name, func(t *testing.T) {
			goOn := n.slows("Checkpoint")
			first := make(chan error, 1)
			go func() { first <- c.first() }()
			for !slices.ContainsFunc(m.Dump().Verbs, func(v VerbUnderWay) bool { return v.Stage == "processes" }) {
				time.Sleep(time.Millisecond)
			}
			if err := c.second(); !errors.Is(err, ErrState) || !strings.Contains(err.Error(), "is being made") {
				t.Errorf("the second: %v", err)
			}
			goOn()
			if err := <-first; err != nil {
				t.Errorf("the first: %v", err)
			}
			if err := c.second(); err != nil {
				t.Errorf("after the first: %v", err)
			}
		})
	}
}

// TestRestoreByAnotherRuntime: which runtime a pod has is asked of the settings as they
// are now, not as they were when straked started.
func TestRestoreByAnotherRuntime(t *testing.T) {
	testutil.RequireRoot(t, "makes whiteouts of overlayfs")
	n := newNode(t)
	m := n.open()
	_, id := mustRun(t, m, "web")
	location := filepath.Join(t.TempDir(), "checkpoint.tar")
	if err := m.CheckpointContainer(t.Context(), id, location, 0); err != nil {
		t.Fatal(err)
	}
	is := *m.settings()
	is.Runtimes = maps.Clone(is.Runtimes)
	is.Runtimes["foreign"] = Runtime{Monitor: "monitor", Handler: client.Handler{Program: "/usr/bin/runc"}}
	if _, err := m.Change(is); err != nil {
		t.Fatal(err)
	}
	pod, err := m.RunPod(t.Context(), podConfig("other"), "foreign")
	if err != nil {
		t.Fatal(err)
	}
	c := containerConfig("again")
	c.Image, c.UserImage = location, location
	if _, err := m.CreateContainer(t.Context(), pod, c); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), `the runtime handler "foreign"`) {
		t.Errorf("restored by runc: %v", err)
	}
	if err := errors.Join(m.StopPod(t.Context(), pod), m.RemovePod(t.Context(), pod)); err != nil {
		t.Error(err)
	}
}

func TestCheckpointRefusals(t *testing.T) {
	testutil.RequireRoot(t, "makes whiteouts of overlayfs")
	n := newNode(t)
	m := n.open()
	pod, id := mustRun(t, m, "web")
	for _, location := range []string{"", "relative", "/a/../b", "/a/"} {
		if err := m.CheckpointContainer(t.Context(), id, location, 0); !errors.Is(err, ErrInvalid) {
			t.Errorf("location %q: %v", location, err)
		}
	}
	dir := t.TempDir()
	// What fails leaves no file, and the container goes on.
	n.fails("Checkpoint")
	if err := m.CheckpointContainer(t.Context(), id, filepath.Join(dir, "a"), 0); !errors.Is(err, errInjected) {
		t.Errorf("%v", err)
	}
	n.fails("")
	if err := m.CheckpointContainer(t.Context(), id, filepath.Join(dir, "no", "a"), 0); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	spec, err := readSpec(m.containerState(pod, id))
	if err != nil {
		t.Fatal(err)
	}
	whole := func(change func(map[string]string)) string {
		text, err := json.Marshal(spec)
		if err != nil {
			t.Fatal(err)
		}
		e := map[string]string{"config.dump": `{"rootfsImage":"busybox:latest"}`, "spec.dump": string(text), "checkpoint/pages-1.img": "x"}
		change(e)
		return archive(t, e)
	}
	mounted := func(s specs.Spec) string {
		s.Mounts = append(slices.Clone(s.Mounts), specs.Mount{Destination: "/data", Type: "bind"})
		text, _ := json.Marshal(s)
		return string(text)
	}
	for i, a := range []struct{ location, want string }{
		{filepath.Join(dir, "none"), "no such file"},
		{dir, "is not a file"},
		{whole(func(e map[string]string) { delete(e, "config.dump") }), "config.dump"},
		{whole(func(e map[string]string) { e["spec.dump"] = "{" }), "spec.dump"},
		{whole(func(e map[string]string) { delete(e, "checkpoint/pages-1.img") }), "no checkpoint/"},
		{whole(func(e map[string]string) { e["checkpoint/x->/etc/shadow"] = "" }), `"checkpoint/x" is not a file`},
		{whole(func(e map[string]string) { delete(e, "config.dump"); e["config.dump->/etc/passwd"] = "" }), `"config.dump" is not a file`},
		{whole(func(e map[string]string) { e["./config.dump"] = "{}" }), "file exists"},
		{whole(func(e map[string]string) { e["config.dump"] = `{"rootfsImage":"missing"}` }), "missing"},
		{whole(func(e map[string]string) { e["config.dump"] = `{"rootfsImage":"refused"}` }), "refused"},
		{whole(func(e map[string]string) { e["spec.dump"] = mounted(*spec) }), `one on "/data"`},
		{whole(func(e map[string]string) { e["deleted.files"] = `["/.."]` }), "has the root"},
		{whole(func(e map[string]string) { e["rootfs-diff.tar"] = "nonsense" }), "rootfs-diff.tar"},
	} {
		c := containerConfig(fmt.Sprint("bad", i))
		c.Image = a.location
		if _, err := m.CreateContainer(t.Context(), pod, c); err == nil || !strings.Contains(err.Error(), a.want) {
			t.Errorf("%d: %v, want %q", i, err, a.want)
		}
	}
	// Entries that nobody reads are left out, wherever they lead.
	c := containerConfig("good")
	c.Image = whole(func(e map[string]string) { e["../../x"], e["checkpoint/../../y"], e["etc/z"] = "", "", "" })
	if _, err := m.CreateContainer(t.Context(), pod, c); err != nil {
		t.Error(err)
	}
	c = containerConfig("more")
	c.Image = whole(func(map[string]string) {})
	c.Mounts = []bundle.Mount{{HostPath: dir, ContainerPath: "/data"}}
	if _, err := m.CreateContainer(t.Context(), pod, c); err == nil || !strings.Contains(err.Error(), `none on "/data"`) {
		t.Errorf("%v", err)
	}
	if err := errors.Join(m.StopPod(t.Context(), pod), m.RemovePod(t.Context(), pod)); err != nil {
		t.Fatal(err)
	}
	n.checkEmpty()
}

// All containers of a pod are frozen before the first is saved, and go on; restored they
// wait for their starts.
func TestCheckpointPod(t *testing.T) {
	testutil.RequireRoot(t, "makes whiteouts of overlayfs")
	n := newNode(t)
	m := n.open()
	pod, first := mustRun(t, m, "web")
	c := containerConfig("side/car")
	second, err := m.CreateContainer(t.Context(), pod, c)
	if err != nil {
		t.Fatal(err)
	}
	out := t.TempDir()
	for _, ids := range [][]string{nil, {first, first}, {first, "other"}, {first, second}} {
		err := m.CheckpointPod(t.Context(), pod, out, ids) // the second one does not run yet
		if !errors.Is(err, ErrInvalid) && !errors.Is(err, ErrState) {
			t.Errorf("%q: %v", ids, err)
		}
	}
	if err := m.StartContainer(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	calls := func() string {
		n.mu.Lock()
		defer n.mu.Unlock()
		var list []string
		for _, c := range n.calls {
			if slices.Contains([]string{"Pause", "Checkpoint", "Resume"}, c) {
				list = append(list, c)
			}
		}
		n.calls = nil
		return strings.Join(list, " ")
	}
	calls()
	if err := m.CheckpointPod(t.Context(), pod, out, []string{first, second}); err != nil {
		t.Fatal(err)
	}
	if got := calls(); got != "Pause Pause Checkpoint Checkpoint Resume Resume" {
		t.Error(got)
	}
	if err := m.CheckpointPod(t.Context(), pod, out, []string{first}); !errors.Is(err, ErrInvalid) {
		t.Errorf("into a directory that is not empty: %v", err)
	}
	failing := t.TempDir()
	n.fails("Checkpoint")
	if err := m.CheckpointPod(t.Context(), pod, failing, []string{first, second}); !errors.Is(err, errInjected) {
		t.Errorf("%v", err)
	}
	n.fails("")
	if got := calls(); got != "Pause Pause Checkpoint Resume Resume" {
		t.Error(got)
	}
	if left, _ := os.ReadDir(failing); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	both := []ContainerConfig{containerConfig("main"), c}
	change := func(change func(*ContainerConfig)) []ContainerConfig {
		changed := slices.Clone(both)
		change(&changed[1])
		return changed
	}
	number := int64(7)
	for i, configs := range [][]ContainerConfig{
		nil, both[:1], {both[0], both[0]}, append(slices.Clone(both), containerConfig("third")),
		change(func(c *ContainerConfig) { c.Image = "missing" }),
		change(func(c *ContainerConfig) { c.Command = []string{"/bin/other"} }),
		change(func(c *ContainerConfig) { c.Args = []string{"more"} }),
		change(func(c *ContainerConfig) { c.WorkingDir = "/tmp" }),
		change(func(c *ContainerConfig) { c.Env = []bundle.KeyValue{{Key: "A", Value: "b"}} }),
		change(func(c *ContainerConfig) { c.Security.RunAsUser = &number }),
		change(func(c *ContainerConfig) { c.Security.RunAsGroup = &number }),
		change(func(c *ContainerConfig) { c.Mounts = []bundle.Mount{{HostPath: out, ContainerPath: "/data"}} }),
	} {
		if _, _, err := m.RestorePod(t.Context(), out, podConfig("again"), "", configs); err == nil {
			t.Errorf("%d: no error", i)
		}
	}
	if _, _, err := m.RestorePod(t.Context(), out, podConfig("web"), "", both); !errors.Is(err, ErrExists) {
		t.Errorf("over a pod that is there: %v", err)
	}
	if pods := m.Pods(PodFilter{}); len(pods) != 1 {
		t.Errorf("left: %+v", pods)
	}
	again, ids, err := m.RestorePod(t.Context(), out, podConfig("again"), "", both)
	if err != nil || len(ids) != 2 {
		t.Fatalf("%v, %v", ids, err)
	}
	for _, id := range ids {
		if s := mustContainer(t, m, id); s.State != ContainerCreated || s.PodID != again {
			t.Errorf("%+v", s)
		}
		if err := m.StartContainer(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	for _, pod := range []string{pod, again} {
		if err := errors.Join(m.StopPod(t.Context(), pod), m.RemovePod(t.Context(), pod)); err != nil {
			t.Fatal(err)
		}
	}
	n.checkEmpty()
}
