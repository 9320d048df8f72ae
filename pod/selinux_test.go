package pod

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/pod/bundle"
)

// fakeSELinux gives labels as a policy of container_t would.
type fakeSELinux struct {
	mu       sync.Mutex
	last     int
	held     map[string]bool // levels
	relabels []string
}

func (f *fakeSELinux) Labels(asked bundle.SELinux) (bundle.Labels, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if asked.Type == "no_such_t" {
		return bundle.Labels{}, errors.New("no such type")
	}
	level := asked.Level
	for level == "" || asked.Level == "" && f.held[level] {
		f.last++
		level = fmt.Sprintf("s0:c%d,c%d", f.last, f.last+1)
	}
	f.held[level] = true
	user := cmp.Or(asked.User, "system_u")
	return bundle.Labels{
		Process: strings.Join([]string{user, cmp.Or(asked.Role, "system_r"), cmp.Or(asked.Type, "container_t"), level}, ":"),
		Mount:   user + ":object_r:container_file_t:" + level,
	}, nil
}

func (f *fakeSELinux) Reserve(l bundle.Labels) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.held[levelOf(l.Process)] = true
}

func (f *fakeSELinux) Release(l bundle.Labels) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.held, levelOf(l.Process))
}

func (f *fakeSELinux) Relabel(path, label string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.relabels = append(f.relabels, path+" "+label)
	return nil
}

// Each pod has categories of its own, which its containers share, over a restart too;
// what they may write has them, and a privileged container's process none.
func TestSELinux(t *testing.T) {
	n := newNode(t)
	kernel := &fakeSELinux{held: map[string]bool{}}
	n.selinux = kernel
	m := n.open()
	spec := func(pod string, c ContainerConfig) *specs.Spec {
		t.Helper()
		id, err := m.CreateContainer(t.Context(), pod, c)
		if err != nil {
			t.Fatal(err)
		}
		s, err := readSpec(m.containerState(pod, id))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	run := func(name string, asked *bundle.SELinux) string {
		t.Helper()
		c := podConfig(name)
		c.Security.SELinux = asked
		id, err := m.RunPod(t.Context(), c, "")
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	labels := func(s *specs.Spec) string { return s.Process.SelinuxLabel + " " + s.Linux.MountLabel }

	a := run("a", nil)
	volume, plain := t.TempDir(), t.TempDir()
	main := containerConfig("main")
	main.Mounts = []bundle.Mount{{ContainerPath: "/v", HostPath: volume, SELinuxRelabel: true}, {ContainerPath: "/p", HostPath: plain}}
	if got, want := labels(spec(a, main)), "system_u:system_r:container_t:s0:c1,c2 system_u:object_r:container_file_t:s0:c1,c2"; got != want {
		t.Errorf("main: %s, want %s", got, want)
	}
	if !slices.Contains(kernel.relabels, volume+" system_u:object_r:container_file_t:s0:c1,c2") ||
		slices.ContainsFunc(kernel.relabels, func(r string) bool { return strings.HasPrefix(r, plain) }) {
		t.Errorf("relabelled: %q", kernel.relabels)
	}
	if !slices.ContainsFunc(kernel.relabels, func(r string) bool {
		return strings.Contains(r, "/resolv.conf system_u:object_r:container_file_t:s0:c1,c2")
	}) {
		t.Errorf("the pod's files are not labelled: %q", kernel.relabels)
	}
	pod, err := podSpec(m.podState(a))
	if err != nil || !slices.Contains(pod.Mounts[0].Options, "context=system_u:object_r:container_file_t:s0:c1,c2") {
		t.Errorf("/dev/shm: %+v, %v", pod.Mounts, err)
	}

	other := containerConfig("other")
	other.Security.SELinux = &bundle.SELinux{Type: "logreader_t"}
	if got, want := labels(spec(a, other)), "system_u:system_r:logreader_t:s0:c1,c2 system_u:object_r:container_file_t:s0:c1,c2"; got != want {
		t.Errorf("another type: %s, want %s", got, want)
	}
	refused := containerConfig("refused")
	refused.Security.SELinux = &bundle.SELinux{Type: "no_such_t"}
	if _, err := m.CreateContainer(t.Context(), a, refused); !errors.Is(err, ErrInvalid) || !strings.Contains(err.Error(), "selinux_options: no such type") {
		t.Errorf("a type that there is not: %v", err)
	}
	b := run("b", &bundle.SELinux{Level: "s0:c7,c8"})
	if got, want := labels(spec(b, containerConfig("main"))), "system_u:system_r:container_t:s0:c7,c8 system_u:object_r:container_file_t:s0:c7,c8"; got != want {
		t.Errorf("a level: %s, want %s", got, want)
	}

	privileged := podConfig("privileged")
	privileged.Security.Privileged = true
	id, err := m.RunPod(t.Context(), privileged, "")
	if err != nil {
		t.Fatal(err)
	}
	all := containerConfig("all")
	all.Security.Privileged = true
	if s := spec(id, all); s.Process.SelinuxLabel != "" || s.Linux.MountLabel == "" {
		t.Errorf("privileged: %s", labels(s))
	}

	// A restart gives nobody what a pod has; its end does.
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	kernel = &fakeSELinux{held: map[string]bool{}}
	n.selinux = kernel
	m = n.open()
	c := run("c", nil)
	if got := labels(spec(c, containerConfig("main"))); strings.Contains(got, ":c1,c2") {
		t.Errorf("after the restart another pod has %s", got)
	}
	for _, id := range []string{a, b, id, c} {
		if err := m.RemovePod(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	if len(kernel.held) > 0 {
		t.Errorf("held: %v", kernel.held)
	}
	n.checkEmpty()
}

// Labels that nothing would enforce are refused by name; a level alone is left out.
func TestSELinuxIsNotThere(t *testing.T) {
	n := newNode(t)
	m := n.open()
	c := podConfig("web")
	c.Security.SELinux = &bundle.SELinux{Type: "spc_t"}
	if _, err := m.RunPod(t.Context(), c, ""); !errors.Is(err, bundle.ErrUnsupported) || !strings.Contains(err.Error(), "linux.security_context.selinux_options") {
		t.Errorf("a pod's type: %v", err)
	}
	c.Security.SELinux = &bundle.SELinux{Level: "s0:c1,c2"}
	pod, err := m.RunPod(t.Context(), c, "")
	if err != nil {
		t.Fatal(err)
	}
	config := containerConfig("main")
	config.Security.SELinux = &bundle.SELinux{Role: "object_r"}
	if _, err := m.CreateContainer(t.Context(), pod, config); !errors.Is(err, bundle.ErrUnsupported) || !strings.Contains(err.Error(), "selinux_options") {
		t.Errorf("a container's role: %v", err)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Error(err)
	}
	n.checkEmpty()
}

// podSpec reads the config.json of a pod, which has no process.
func podSpec(dir string) (*specs.Spec, error) {
	data, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return nil, err
	}
	var s specs.Spec
	return &s, json.Unmarshal(data, &s)
}
