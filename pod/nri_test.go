package pod

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/pod/nri"
)

// plugin is an NRI plugin in this process. It notes all that it is told.
type plugin struct {
	stub   stub.Stub
	synced chan struct{}

	mu     sync.Mutex
	events []string
	known  map[string]int // pods and containers: how often each was told of
	adjust func(*api.Container) (*api.ContainerAdjustment, error)
	update func(*api.Container, *api.LinuxResources) []*api.ContainerUpdate
}

func (p *plugin) note(event, id string, is ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, strings.TrimSpace(event+" "+strings.Join(is, " ")))
	if strings.HasPrefix(event, "run") || strings.HasPrefix(event, "create") || strings.HasPrefix(event, "sync") {
		p.known[id]++
	}
}

func (p *plugin) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.events, "\n")
}

func (p *plugin) Synchronize(_ context.Context, pods []*api.PodSandbox, containers []*api.Container) ([]*api.ContainerUpdate, error) {
	for _, pod := range pods {
		p.note("sync pod", pod.Id, pod.Name)
	}
	for _, c := range containers {
		p.note("sync container", c.Id, c.Name)
	}
	close(p.synced)
	return nil, nil
}
func (p *plugin) RunPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("run", pod.Id, pod.Name)
	return nil
}
func (p *plugin) StopPodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("stop pod", pod.Id)
	return nil
}
func (p *plugin) RemovePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("remove pod", pod.Id)
	return nil
}
func (p *plugin) UpdatePodSandbox(_ context.Context, pod *api.PodSandbox, _, r *api.LinuxResources) error {
	p.note("update pod", pod.Id, fmt.Sprint(r.GetMemory().GetLimit().GetValue()))
	return nil
}
func (p *plugin) PostUpdatePodSandbox(_ context.Context, pod *api.PodSandbox) error {
	p.note("updated pod", pod.Id)
	return nil
}
func (p *plugin) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	p.note("create", c.Id, c.Name)
	if p.adjust == nil {
		return nil, nil, nil
	}
	a, err := p.adjust(c)
	return a, nil, err
}
func (p *plugin) PostCreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("is created", c.Id)
	return nil
}
func (p *plugin) StartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("start", c.Id)
	return nil
}
func (p *plugin) PostStartContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("is started", c.Id, c.State.String())
	return nil
}
func (p *plugin) UpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container, r *api.LinuxResources) ([]*api.ContainerUpdate, error) {
	p.note("update", c.Id)
	if p.update == nil {
		return nil, nil
	}
	return p.update(c, r), nil
}
func (p *plugin) PostUpdateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("is updated", c.Id)
	return nil
}
func (p *plugin) StopContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) ([]*api.ContainerUpdate, error) {
	p.note("stop", c.Id, c.StatusReason)
	return nil, nil
}
func (p *plugin) RemoveContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) error {
	p.note("remove", c.Id)
	return nil
}

// plugged is a node with NRI; connect registers a plugin, which is ended with the test.
func plugged(t *testing.T) (n *realNode, connect func(idx string, p *plugin)) {
	t.Helper()
	n = newRealNode(t)
	socket := filepath.Join(n.state, "nri.sock")
	n.change = func(o *Options) {
		o.NRI = &nri.Config{Socket: socket, Dir: filepath.Join(n.root, "plugins"), ConfigDir: n.root, RegistrationTimeout: time.Minute, RequestTimeout: time.Minute}
	}
	return n, func(idx string, p *plugin) {
		p.synced, p.known = make(chan struct{}), map[string]int{}
		s, err := stub.New(p, stub.WithPluginName("test"), stub.WithPluginIdx(idx), stub.WithSocketPath(socket))
		if err != nil {
			t.Error(err)
			return
		}
		p.stub = s
		if err := s.Start(t.Context()); err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(s.Stop)
		<-p.synced
	}
}

func TestPlugins(t *testing.T) {
	n, connect := plugged(t)
	m := n.open()
	old := n.run(m, n.pod("old"))
	oldID := n.start(m, old, ContainerConfig{Name: "there", Command: []string{"/bin/sleep", "1000"}})
	p := &plugin{adjust: func(c *api.Container) (*api.ContainerAdjustment, error) {
		if c.Name == "refused" {
			return nil, errors.New("not this one")
		}
		a := &api.ContainerAdjustment{}
		a.AddEnv("BY", "plugin")
		a.AddMount(&api.Mount{Destination: "/by-plugin", Source: "/proc/version", Type: "bind", Options: []string{"bind", "ro"}})
		a.SetLinuxCPUShares(300)
		a.AddDevice(&api.LinuxDevice{Path: "/dev/by-plugin", Type: "c", Major: 1, Minor: 3})
		return a, nil
	}, update: func(c *api.Container, r *api.LinuxResources) []*api.ContainerUpdate {
		u := &api.ContainerUpdate{ContainerId: c.Id}
		u.SetLinuxMemoryLimit(r.Memory.Limit.Value / 2)
		return []*api.ContainerUpdate{u}
	}}
	connect("10", p)
	pod := n.run(m, n.pod("new"))
	id := n.start(m, pod, ContainerConfig{Name: "main", Command: []string{"/bin/sh", "-c", sleeper}})
	if got := n.sh(m, id, "echo $BY; wc -l < /by-plugin; ls /dev/by-plugin"); got != "plugin\n1\n/dev/by-plugin\n" {
		t.Errorf("inside: %q", got)
	}
	if r := mustContainer(t, m, id).Resources; r.CPUShares != 300 {
		t.Errorf("resources %+v", r)
	}
	if err := m.UpdateContainer(t.Context(), id, Resources{MemoryLimit: 64 << 20}, nil); err != nil {
		t.Fatal(err)
	}
	if r := mustContainer(t, m, id).Resources; r.MemoryLimit != 32<<20 {
		t.Errorf("updated resources %+v", r)
	}
	wish := &api.ContainerUpdate{ContainerId: oldID}
	wish.SetLinuxCPUShares(77)
	if failed, err := p.stub.UpdateContainers([]*api.ContainerUpdate{wish}); err != nil || len(failed) > 0 {
		t.Errorf("a plugin's own update: %v, %v", failed, err)
	}
	if r := mustContainer(t, m, oldID).Resources; r.CPUShares != 77 {
		t.Errorf("resources %+v", r)
	}
	refused := ContainerConfig{Name: "refused", Image: "busybox", Command: []string{"/bin/true"}}
	if _, err := m.CreateContainer(t.Context(), pod, refused); err == nil || !strings.Contains(err.Error(), "not this one") {
		t.Errorf("refused: %v", err)
	}
	if err := m.UpdatePod(t.Context(), pod, nil, &Resources{MemoryLimit: 1 << 30}); err != nil {
		t.Error(err)
	}
	if err := m.RemovePod(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	want := `sync pod old
sync container there
run new
create main
is created
start
is started CONTAINER_RUNNING
update
is updated
create refused
remove
update pod 1073741824
updated pod
stop Error
stop pod
remove
remove pod`
	if got := p.all(); got != want {
		t.Errorf("events:\n%s\nwant:\n%s", got, want)
	}
	if err := m.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.open() // plugins would register again
}

// Plugins that register while pods come and go are told of each once.
func TestLatePlugins(t *testing.T) {
	n, connect := plugged(t)
	m := n.open()
	const workers, rounds, plugins = 4, 6, 12
	var work sync.WaitGroup
	ids := make(chan string, 2*workers*rounds)
	for w := range workers {
		work.Go(func() {
			for i := range rounds {
				config := n.pod(fmt.Sprintf("w%d-%d", w, i))
				config.Namespaces.Network = bundle.NamespaceNode
				pod, err := m.RunPod(t.Context(), config, "")
				if err != nil {
					t.Error(err)
					return
				}
				c, err := m.CreateContainer(t.Context(), pod, ContainerConfig{Name: "c", Image: "busybox", Command: []string{"/bin/true"}})
				if err != nil {
					t.Error(err)
					return
				}
				ids <- pod
				ids <- c
			}
		})
	}
	all := make([]*plugin, plugins)
	for i := range all {
		all[i] = &plugin{}
		connect(fmt.Sprintf("%02d", i), all[i])
	}
	work.Wait()
	close(ids)
	for id := range ids {
		for i, p := range all {
			p.mu.Lock()
			if times := p.known[id]; times != 1 {
				t.Errorf("plugin %d was told %d times of %s", i, times, id)
			}
			p.mu.Unlock()
		}
	}
}
