// Package nri lets the node's NRI plugins (github.com/containerd/nri) see pods and
// containers, adjust the spec of a container that is being made, and change the
// limits of those that run.
//
// A plugin may register at any time. It is told once of each pod and container:
// either they are in what it is synchronized with, or their events come afterwards.
// For that the caller holds plugins out (Hold) from an event to the moment when what
// it is about is, or is no more, in what Pods lists; and for no longer, so that a verb
// that hangs elsewhere keeps no plugin waiting, and none waits for it.
//
// The package decides nothing and keeps no state of pods. A nil *Plugins has none.
// Lock order: Hold before whatever Pods.List takes.
package nri

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	"github.com/containerd/nri/pkg/runtime-tools/generate"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Config says where plugins are. Dir has those that are started, ConfigDir their
// configuration; Socket is where others register.
type Config struct {
	Socket, Dir, ConfigDir string
	// RegistrationTimeout and RequestTimeout bound what a plugin may take; one that
	// takes longer is dropped. 0 is the library's (5 s and 2 s).
	RegistrationTimeout, RequestTimeout time.Duration

	Version string // the daemon's
	Log     *slog.Logger
}

// Pod is what plugins see of a pod.
type Pod struct {
	ID, Name, UID, Namespace string
	Labels, Annotations      map[string]string
	Handler                  string
	CgroupParent             string
	IPs                      []string
	Namespaces               []specs.LinuxNamespace
	Overhead, Resources      *specs.LinuxResources
}

// State is a container's.
type State int

// States of a container.
const (
	Created State = iota
	Running
	Stopped
)

// Container is what plugins see of a container.
type Container struct {
	ID, PodID, Name                  string
	State                            State
	Labels, Annotations              map[string]string
	Spec                             *specs.Spec
	CDIDevices                       []string
	Pid                              int
	Image, ImageDigest, ConfigDigest string
	Created, Started, Finished       time.Time
	ExitCode                         int32
	Reason, Message                  string
}

// Pods is what plugins may ask of the pods' owner. Its methods take no hold.
type Pods interface {
	List() ([]Pod, []Container)
	// Update changes limits of a container; nil fields stay.
	Update(ctx context.Context, containerID string, r *specs.LinuxResources) error
	// Evict stops a container.
	Evict(ctx context.Context, containerID, reason string) error
}

// Plugins are those of a node.
type Plugins struct {
	lib   *adaptation.Adaptation
	pods  Pods
	log   *slog.Logger
	count atomic.Int32
}

// Start starts the plugins of Dir and listens for others. Close ends them.
func Start(c Config, pods Pods) (*Plugins, error) {
	p := &Plugins{pods: pods, log: c.Log}
	nrilog.Set(logger{c.Log})
	if c.RegistrationTimeout > 0 {
		adaptation.SetPluginRegistrationTimeout(c.RegistrationTimeout)
	}
	if c.RequestTimeout > 0 {
		adaptation.SetPluginRequestTimeout(c.RequestTimeout)
	}
	lib, err := adaptation.New("strake", c.Version, p.synchronize, p.unsolicited,
		adaptation.WithSocketPath(c.Socket), adaptation.WithPluginPath(c.Dir), adaptation.WithPluginConfigPath(c.ConfigDir),
		adaptation.WithMetrics(counter{&p.count}))
	if err == nil {
		p.lib = lib
		err = lib.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("nri: %w", err)
	}
	return p, nil
}

// Close disconnects all plugins and ends those that were started.
func (p *Plugins) Close() {
	if p != nil {
		p.lib.Stop()
	}
}

// Hold keeps plugins that register out until release, which is called once. Verbs do
// not wait for each other in it.
func (p *Plugins) Hold() (release func()) {
	if p == nil {
		return func() {}
	}
	return p.lib.BlockPluginSync().Unblock
}

// Active reports whether there is a plugin to be told anything. It counts under Hold.
func (p *Plugins) Active() bool { return p != nil && p.count.Load() > 0 }

// counter is the library's metrics, of which the number of plugins is needed.
type counter struct{ n *atomic.Int32 }

func (counter) RecordPluginInvocation(_, _ string, _ error)      {}
func (counter) RecordPluginLatency(_, _ string, _ time.Duration) {}
func (counter) RecordPluginAdjustments(_, _ string, _ *adaptation.ContainerAdjustment, _, _ int) {
}
func (c counter) UpdatePluginCount(n int) { c.n.Store(int32(n)) } //nolint:gosec // far below

// logger is the library's log. What it has to say of each step is for debugging.
type logger struct{ to *slog.Logger }

func (l logger) Debugf(ctx context.Context, format string, args ...any) {
	l.to.DebugContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}
func (l logger) Infof(ctx context.Context, format string, args ...any) {
	l.Debugf(ctx, format, args...)
}
func (l logger) Warnf(ctx context.Context, format string, args ...any) {
	l.to.WarnContext(ctx, "nri: "+fmt.Sprintf(format, args...))
}
func (l logger) Errorf(ctx context.Context, format string, args ...any) {
	l.Warnf(ctx, format, args...)
}

// synchronize gives plugins that have registered all there is.
func (p *Plugins) synchronize(ctx context.Context, tell adaptation.SyncCB) error {
	pods, containers := p.pods.List()
	toldPods, toldContainers := make([]*api.PodSandbox, len(pods)), make([]*api.Container, len(containers))
	for i := range pods {
		toldPods[i] = pods[i].api()
	}
	for i := range containers {
		toldContainers[i] = containers[i].api()
	}
	updates, err := tell(ctx, toldPods, toldContainers)
	if err != nil {
		return err
	}
	_, err = p.apply(ctx, updates)
	return err
}

// unsolicited is a plugin's wish to change containers.
func (p *Plugins) unsolicited(ctx context.Context, updates []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) {
	return p.apply(ctx, updates)
}

// applyTimeout bounds how long what a plugin wants may hold up a verb, or plugins that
// register.
const applyTimeout = 10 * time.Second

// apply changes containers. Those that could not be changed are returned, and are an
// error unless the plugin does not mind.
func (p *Plugins) apply(ctx context.Context, updates []*api.ContainerUpdate) (failed []*api.ContainerUpdate, err error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	for _, u := range updates {
		e := p.pods.Update(ctx, u.GetContainerId(), u.GetLinux().GetResources().ToOCI())
		if e == nil {
			continue
		}
		failed = append(failed, u)
		if !u.GetIgnoreFailure() {
			err = errors.Join(err, fmt.Errorf("nri: update container %s: %w", u.GetContainerId(), e))
		}
	}
	return failed, err
}

func (p *Plugins) evict(evictions []*api.ContainerEviction) {
	for _, e := range evictions {
		go func() { // it may be the one that the caller works on
			if err := p.pods.Evict(context.Background(), e.GetContainerId(), e.GetReason()); err != nil {
				p.log.Error("nri: evict container", "container", e.GetContainerId(), "error", err)
			}
		}()
	}
}

// RunPod tells of a pod that is ready. An error is a plugin's that refuses it.
func (p *Plugins) RunPod(ctx context.Context, pod Pod) error {
	return p.lib.RunPodSandbox(ctx, &api.RunPodSandboxRequest{Pod: pod.api()})
}

// UpdatePod tells of limits that a pod is to have.
func (p *Plugins) UpdatePod(ctx context.Context, pod Pod, overhead, resources *specs.LinuxResources) error {
	_, err := p.lib.UpdatePodSandbox(ctx, &api.UpdatePodSandboxRequest{
		Pod: pod.api(), OverheadLinuxResources: api.FromOCILinuxResources(overhead, nil), LinuxResources: api.FromOCILinuxResources(resources, nil),
	})
	return err
}

// PodUpdated tells that it has them.
func (p *Plugins) PodUpdated(ctx context.Context, pod Pod) error {
	return p.lib.PostUpdatePodSandbox(ctx, &api.PostUpdatePodSandboxRequest{Pod: pod.api()})
}

// StopPod tells of a pod that is stopped.
func (p *Plugins) StopPod(ctx context.Context, pod Pod) error {
	return p.lib.StopPodSandbox(ctx, &api.StopPodSandboxRequest{Pod: pod.api()})
}

// RemovePod tells of a pod that is removed.
func (p *Plugins) RemovePod(ctx context.Context, pod Pod) error {
	return p.lib.RemovePodSandbox(ctx, &api.RemovePodSandboxRequest{Pod: pod.api()})
}

// CreateContainer lets plugins adjust c.Spec before there is anything of the
// container, and changes the others that they want changed for its sake. inject adds
// CDI devices to a spec.
func (p *Plugins) CreateContainer(ctx context.Context, pod Pod, c Container, inject func(*specs.Spec, []string) error) error {
	r, err := p.lib.CreateContainer(ctx, &api.CreateContainerRequest{Pod: pod.api(), Container: c.api()})
	if err != nil {
		return err
	}
	p.evict(r.GetEvict())
	if _, err := p.apply(ctx, r.GetUpdate()); err != nil {
		return err
	}
	return generate.SpecGenerator(editor{c.Spec}, generate.WithCDIDeviceInjector(inject)).Adjust(r.GetAdjust())
}

// ContainerCreated tells that it is there.
func (p *Plugins) ContainerCreated(ctx context.Context, pod Pod, c Container) error {
	return p.lib.PostCreateContainer(ctx, &api.PostCreateContainerRequest{Pod: pod.api(), Container: c.api()})
}

// StartContainer tells of a container that is about to run.
func (p *Plugins) StartContainer(ctx context.Context, pod Pod, c Container) error {
	return p.lib.StartContainer(ctx, &api.StartContainerRequest{Pod: pod.api(), Container: c.api()})
}

// ContainerStarted tells that it runs.
func (p *Plugins) ContainerStarted(ctx context.Context, pod Pod, c Container) error {
	return p.lib.PostStartContainer(ctx, &api.PostStartContainerRequest{Pod: pod.api(), Container: c.api()})
}

// UpdateContainer lets plugins change limits that a container is to have, and
// returns what became of them.
func (p *Plugins) UpdateContainer(ctx context.Context, pod Pod, c Container, r *specs.LinuxResources) (*specs.LinuxResources, error) {
	answer, err := p.lib.UpdateContainer(ctx, &api.UpdateContainerRequest{
		Pod: pod.api(), Container: c.api(), LinuxResources: api.FromOCILinuxResources(r, nil),
	})
	if err != nil {
		return nil, err
	}
	p.evict(answer.GetEvict())
	var others []*api.ContainerUpdate
	for _, u := range answer.GetUpdate() {
		if u.GetContainerId() == c.ID {
			r = u.GetLinux().GetResources().ToOCI()
		} else {
			others = append(others, u)
		}
	}
	_, err = p.apply(ctx, others)
	return r, err
}

// ContainerUpdated tells that it has them.
func (p *Plugins) ContainerUpdated(ctx context.Context, pod Pod, c Container) error {
	return p.lib.PostUpdateContainer(ctx, &api.PostUpdateContainerRequest{Pod: pod.api(), Container: c.api()})
}

// StopContainer tells of a container that has ended, and changes the others that
// plugins want changed then.
func (p *Plugins) StopContainer(ctx context.Context, pod Pod, c Container) error {
	r, err := p.lib.StopContainer(ctx, &api.StopContainerRequest{Pod: pod.api(), Container: c.api()})
	if err != nil {
		return err
	}
	_, err = p.apply(ctx, r.GetUpdate())
	return err
}

// RemoveContainer tells of a container that is removed, or was not finished.
func (p *Plugins) RemoveContainer(ctx context.Context, pod Pod, c Container) error {
	return p.lib.RemoveContainer(ctx, &api.RemoveContainerRequest{Pod: pod.api(), Container: c.api()})
}

func (p *Pod) api() *api.PodSandbox {
	return &api.PodSandbox{
		Id: p.ID, Name: p.Name, Uid: p.UID, Namespace: p.Namespace, Labels: p.Labels, Annotations: p.Annotations,
		RuntimeHandler: p.Handler, Ips: p.IPs,
		Linux: &api.LinuxPodSandbox{
			CgroupParent: p.CgroupParent, Namespaces: api.FromOCILinuxNamespaces(p.Namespaces),
			PodOverhead: api.FromOCILinuxResources(p.Overhead, nil), PodResources: api.FromOCILinuxResources(p.Resources, nil),
		},
	}
}

func (c *Container) api() *api.Container {
	out := &api.Container{
		Id: c.ID, PodSandboxId: c.PodID, Name: c.Name, Labels: c.Labels, Annotations: c.Annotations, Pid: uint32(max(c.Pid, 0)), //nolint:gosec // a pid
		State: map[State]api.ContainerState{
			Created: api.ContainerState_CONTAINER_CREATED, Running: api.ContainerState_CONTAINER_RUNNING, Stopped: api.ContainerState_CONTAINER_STOPPED,
		}[c.State],
		CreatedAt: nanos(c.Created), StartedAt: nanos(c.Started), FinishedAt: nanos(c.Finished),
		ExitCode: c.ExitCode, StatusReason: c.Reason, StatusMessage: c.Message,
		Image: &api.Image{Name: c.Image, Digest: c.ImageDigest, ConfigDigest: c.ConfigDigest},
	}
	for _, d := range c.CDIDevices {
		out.CDIDevices = append(out.CDIDevices, &api.CDIDevice{Name: d})
	}
	s := c.Spec
	if s == nil {
		return out
	}
	out.Mounts, out.Hooks = api.FromOCIMounts(s.Mounts), api.FromOCIHooks(s.Hooks)
	if s.Linux != nil {
		out.Linux = &api.LinuxContainer{
			Namespaces: api.FromOCILinuxNamespaces(s.Linux.Namespaces), Devices: api.FromOCILinuxDevices(s.Linux.Devices),
			Resources: api.FromOCILinuxResources(s.Linux.Resources, nil), CgroupsPath: s.Linux.CgroupsPath,
			Sysctl: s.Linux.Sysctl, NetDevices: api.FromOCILinuxNetDevices(s.Linux.NetDevices),
		}
		if s.Linux.Seccomp != nil {
			out.Linux.SeccompPolicy = api.FromOCILinuxSeccomp(s.Linux.Seccomp)
		}
	}
	if s.Process != nil {
		out.Args, out.Env = s.Process.Args, s.Process.Env
		out.User = &api.User{Uid: s.Process.User.UID, Gid: s.Process.User.GID, AdditionalGids: s.Process.User.AdditionalGids}
		if out.Linux != nil {
			out.Linux.OomScoreAdj = api.Int(s.Process.OOMScoreAdj)
			out.Linux.IoPriority = api.FromOCILinuxIOPriority(s.Process.IOPriority)
			out.Linux.Scheduler = api.FromOCILinuxScheduler(s.Process.Scheduler)
		}
		for _, l := range s.Process.Rlimits {
			out.Rlimits = append(out.Rlimits, &api.POSIXRlimit{Type: l.Type, Hard: l.Hard, Soft: l.Soft})
		}
	}
	return out
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
