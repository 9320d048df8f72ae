package pod

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/cleanup"
	"github.com/strake-containers/strake/internal/span"
	"github.com/strake-containers/strake/pod/bundle"
	"github.com/strake-containers/strake/pod/hooks"
	"github.com/strake-containers/strake/pod/nri"
	"github.com/strake-containers/strake/shim/client"
)

// CreateContainer makes a container, whose process waits for StartContainer, and
// returns its id. The same request again gets the same container.
func (m *Manager) CreateContainer(ctx context.Context, podID string, config ContainerConfig) (string, error) {
	p, err := m.findPod(podID)
	if err != nil {
		return "", err
	}
	err = bundle.ValidateContainer(&p.record.Config, &config)
	if err == nil {
		err = m.checkSELinux("linux.security_context", config.Security.SELinux)
	}
	if err == nil {
		_, err = m.logOf(&p.record.Config, &config)
	}
	if err != nil {
		return "", fmt.Errorf("create container %s/%s: %w", p.what, config.Name, err)
	}
	c, w, err := m.beginContainer(ctx, p, config)
	if err != nil {
		return "", err
	}
	if !sameConfig(&c.record.Config, &config) { // never changes after its birth
		return "", fmt.Errorf("create container %s: attempt %d is container %s: raise metadata.attempt, or remove that container first: %w",
			c.what, config.Attempt, c.id, ErrExists)
	}
	if err := w.wait(ctx); err != nil {
		return "", err
	}
	m.claimContainer(c)
	return c.id, nil
}

// beginContainer returns the container of that identity that lives or is being
// made, or begins to make it.
func (m *Manager) beginContainer(caller context.Context, p *sandbox, config ContainerConfig) (*container, *work, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.names[containerKey{config.Name, config.Attempt}]; c != nil {
		return c, c.making, nil
	}
	if p.record.Phase != phaseReady || p.stopping || p.ended || p.monitor == nil {
		return nil, nil, errorf(ErrState, "create container %s/%s: pod %s is not ready", p.what, config.Name, p.id)
	}
	c := newContainer(p, containerRecord{ID: newID(), PodID: p.id, Config: config, State: ContainerCreated, CreatedAt: now()})
	if config.Resources != nil {
		c.record.Resources = *config.Resources
	}
	c.record.CountForbidden, c.record.StopForbidden = notifier(p.record.Config.Annotations, config.Name)
	verb := "create container " + c.id
	c.making = m.tracker.start(span.Continue(m.life, caller), "create container", c.what, verbTimeout, func(ctx context.Context, w *work) error {
		return m.createContainer(ctx, w, c)
	}, func(w *work, err error) {
		p.mu.Lock()
		delete(p.lane, verb)
		if err != nil {
			delete(p.names, c.key)
		}
		p.mu.Unlock()
		if err == nil && w.abandoned() {
			m.abandonContainer(c)
		}
	})
	select {
	case <-c.making.done: // refused: shutting down
	default:
		p.names[c.key], p.lane[verb] = c, c.making
	}
	return c, c.making, nil
}

// createContainer is the path of CreateContainer.
func (m *Manager) createContainer(ctx context.Context, w *work, c *container) (err error) {
	p, r := c.pod, &c.record // nobody else has the record before step 6
	var undo cleanup.Stack
	var files cleanup.Stack // what it is made of: last
	defer files.Run(&err)
	defer undo.Run(&err)
	ctx, cancel := m.untilStopping(ctx, p)
	defer cancel()
	span.Describe(ctx, append(c.attributes(), span.ImageRef.String(r.Config.Image))...)

	// 1. Its directory, and what it is made of: an image, kept from removal while the
	// container is there, or a checkpoint of a container of that.
	w.enter("image")
	dir, bundleDir := m.store.ContainerDir(p.id, c.id), m.containerState(p.id, c.id)
	files.Push("remove container directory", func() error { return m.store.RemoveContainer(p.id, c.id) })
	if err := m.store.AddContainer(p.id, c.id); err != nil {
		return err
	}
	config := r.Config
	var archive *unpacked
	if filepath.IsAbs(config.Image) {
		if archive, err = m.openArchive(ctx, c, dir); err != nil {
			return err
		}
		config.Image, config.UserImage = archive.image(m.o.Images), ""
	}
	img, err := m.o.Images.Get(config.Image)
	if err != nil {
		return err
	}
	if img.Artifact {
		return errorf(ErrInvalid, "image.image: %s is an artifact, which has nothing to run: mount it as a volume", config.Image)
	}
	// What was let in yesterday may not be today.
	if err := m.o.Images.Permit(img.ID, cmp.Or(config.UserImage, config.Image), p.record.Config.Namespace); err != nil {
		return err
	}
	r.ImageID, r.ImageName, r.ImageRef = img.ID, imageName(&config, img), imageRef(img)
	files.Push("release image", func() error { return m.releaseImages(r) })
	lease, err := m.o.Images.Rootfs(img.ID, c.id)
	if err != nil {
		return err
	}
	imageMounts, err := m.imageMounts(r, p.record.Config.Namespace)
	if err != nil {
		return err
	}

	// 2. Its root, durable, and its bundle, which is not.
	w.enter("directories")
	files.Push("remove bundle", func() error { return os.RemoveAll(bundleDir) })
	for _, d := range []string{bundleDir, filepath.Join(bundleDir, "rootfs")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	root, err := m.o.Images.PrepareRoot(lease, dir)
	if err != nil {
		return err
	}
	labels, err := m.labelContainer(p, &config.Security)
	if err != nil {
		return err
	}
	if err := m.labelRoot(&root, labels.Mount); err != nil {
		return err
	}
	if user := p.record.Config.UserNS(); user != nil {
		if err := mapRoot(&root, user, dir); err != nil {
			return err
		}
	}
	if archive != nil {
		if err := archive.apply(ctx, lease, dir); err != nil {
			return err
		}
	}

	// 3. Its spec.
	w.enter("spec")
	compiled, err := m.compile(ctx, c, &img, lease.Layers, imageMounts, labels)
	if err != nil {
		return err
	}
	undo.Push("tell plugins", func() error { m.withdraw(ctx, c, func() {}); return nil })
	if err := m.adjust(ctx, c, compiled.Spec); err != nil {
		return err
	}
	r.User, r.StopSignal, c.process = compiled.User, compiled.StopSignal, compiled.Spec.Process
	for _, warning := range compiled.Warnings {
		m.o.Log.Warn("left out", "container", c.what, "what", warning)
	}
	if err := writeSpec(bundleDir, compiled.Spec); err != nil {
		return err
	}

	if archive != nil {
		if err := archive.fits(compiled.Spec); err != nil {
			return err
		}
	}

	// 4. A place for its log.
	w.enter("log")
	log, err := m.prepareLog(p, c)
	if err != nil {
		return err
	}

	// 5. Its process. Also a call whose answer never came is undone. One that is restored
	// comes with its start: it cannot be held back.
	w.enter("process")
	monitor, err := p.live()
	if err != nil {
		return err
	}
	mount := client.Mount{Type: root.Type, Source: root.Source, Options: root.Options}
	if archive != nil {
		r.Restore = &restoring{Images: filepath.Join(archive.dir, archiveImages), Root: mount, Log: log}
	} else {
		undo.Push("delete container", func() error {
			err := m.destroy(ctx, p, c.id)
			if err != nil { // it may run on, with what it is made of
				files.Release()
				m.undoLater(p.id, func(ctx context.Context) error { return m.discardHalfMade(ctx, c) })
			}
			return err
		})
		if r.Pid, err = m.createProcess(ctx, monitor, m.createOptions(r, bundleDir, mount, log)); err != nil {
			m.suspect(p, monitor, err)
			return err
		}
		m.hold(c)
		undo.Push("let its FIFOs go", func() error { c.release(); return nil })
	}

	// 6. It is created, and known.
	w.enter("publish")
	if err := m.store.SaveContainer(p.id, c.id, r, false); err != nil {
		return err
	}
	// The monitor may be another by now. Whoever changes it from here on knows of the
	// container.
	p.mu.Lock()
	stopping := p.stopping
	monitor = p.monitor
	if !stopping && monitor != nil {
		p.containers[c.id] = c
	}
	p.mu.Unlock()
	switch {
	case stopping:
		return errorf(ErrState, "the pod is being stopped")
	case monitor == nil:
		return errorf(ErrState, "pod %s: %w", p.id, errMonitorGone)
	}
	undo.Release()
	files.Release()
	m.mu.Lock()
	m.containers[c.id] = c
	m.mu.Unlock()
	m.publish(p, Event{Type: EventCreated, ContainerID: c.id})
	m.told("container created", m.tellContainer(ctx, c, (*nri.Plugins).ContainerCreated))
	go m.watch(c, monitor)
	return nil
}

// discardHalfMade undoes a container that could not be finished, and that its monitor
// could not be made to forget then.
func (m *Manager) discardHalfMade(ctx context.Context, c *container) error {
	err := m.discardContainer(ctx, c.pod, storedContainer{ID: c.id, Err: fs.ErrNotExist})
	if err == nil {
		err = m.releaseImages(&c.record)
	}
	if err != nil {
		return fmt.Errorf("container %s: %w", c.id, err)
	}
	return nil
}

// createProcess is not cut short when the pod is being stopped: what the monitor
// has half made when it is asked to delete it, it would finish afterwards.
func (m *Manager) createProcess(ctx context.Context, monitor Monitor, o client.CreateOptions) (pid int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, context.Cause(ctx)
	}
	ctx, cancel := undoContext(ctx)
	defer cancel()
	return monitor.Create(ctx, o)
}

// untilStopping cancels ctx when the pod is being stopped.
func (m *Manager) untilStopping(ctx context.Context, p *sandbox) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(p.ending, func() { cancel(errorf(ErrState, "the pod is being stopped")) })
	return ctx, func() { stop(); cancel(nil) }
}

func (m *Manager) createOptions(r *containerRecord, bundleDir string, rootfs client.Mount, log string) client.CreateOptions {
	o := client.CreateOptions{
		ID: r.ID, Bundle: bundleDir, Rootfs: []client.Mount{rootfs}, Terminal: r.Config.TTY,
		StdinOnce: r.Config.StdinOnce, RuntimeRoot: m.runtimeState(), LogMaxBytes: m.o.MaxLogBytes,
		CountForbidden: r.CountForbidden, StopForbidden: r.StopForbidden,
	}
	o.Stdout = log
	if !r.Config.TTY {
		o.Stderr = o.Stdout
	}
	if r.Config.Stdin {
		o.Stdin = "attach:"
	}
	return o
}

// mapRoot asks for the root of a container in a user namespace: the image's files
// are idmapped, while what an overlay's container writes has the host's ids.
func mapRoot(root *rootfs.Mount, user *bundle.UserNamespace, dir string) error {
	for _, m := range user.UIDs {
		root.Options = append(root.Options, fmt.Sprintf("uidmap=%d:%d:%d", m.ContainerID, m.HostID, m.Length))
	}
	for _, m := range user.GIDs {
		root.Options = append(root.Options, fmt.Sprintf("gidmap=%d:%d:%d", m.ContainerID, m.HostID, m.Length))
	}
	if rootfs.Whole(dir) {
		return nil
	}
	return chownRoot(user, rootfs.Written(dir))
}

// chownRoot gives a file of ours to root of a user namespace; nil is the host's.
func chownRoot(user *bundle.UserNamespace, path string) error {
	uid, gid := user.Root()
	return os.Lchown(path, uid, gid)
}

// compile gathers what the container's spec depends on and compiles it.
func (m *Manager) compile(ctx context.Context, c *container, img *image.Image, layers []string, imageMounts map[int][]string, labels bundle.Labels) (*bundle.Compiled, error) {
	p, config := c.pod, &c.record.Config
	accounts, err := readAccounts(layers)
	if err != nil {
		return nil, err
	}
	if config, err = m.workload(&p.record.Config, config); err != nil {
		return nil, err
	}
	if config.Resources != nil {
		c.record.Resources = *config.Resources
	}
	runtime := m.settings().Runtimes[p.record.Runtime]
	devices, err := hostDevices(config, !runtime.PrivilegedWithoutHostDevices)
	if err != nil {
		return nil, err
	}
	if err := prepareHostPaths(config.Mounts); err != nil {
		return nil, err
	}
	if err := m.relabel(config.Mounts, labels.Mount); err != nil {
		return nil, err
	}
	host := m.host
	host.Seccomp = m.seccompOf(runtime)
	in := bundle.ContainerInput{
		ID: c.id, PodID: p.id, Pod: &p.record.Config, Config: config, Image: &img.Config, Accounts: accounts,
		Host: &host, Devices: devices, ImageMounts: imageMounts, MaxPids: m.o.MaxPids, Labels: labels,
	}
	p.mu.Lock()
	joined := p.shared.Hosts != ""
	p.mu.Unlock()
	if !joined { // its monitor did not answer when the daemon started
		if err := m.joinMonitor(ctx, p); err != nil {
			return nil, err
		}
	}
	p.mu.Lock()
	in.Sandbox = p.shared
	p.mu.Unlock()
	if config.Namespaces.PID == bundle.NamespaceTarget {
		if in.TargetPID, err = m.targetPID(p, config.Namespaces.TargetID); err != nil {
			return nil, err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, context.Cause(ctx)
	}
	compiled, err := bundle.Container(in)
	if err != nil {
		return nil, err
	}
	if !runtime.Handler.Native() {
		bundle.ForOthers(compiled.Spec, runtime.Handler.Shim != "")
	}

	// What the node adds.
	cdi, err := cdiDevices(config)
	if err != nil {
		return nil, err
	}
	if err := m.injectDevices(compiled.Spec, cdi); err != nil {
		return nil, err
	}
	return compiled, hooks.Add(compiled.Spec, m.settings().HooksDirs, hooks.Container{
		Annotations: config.Annotations, HasBindMounts: len(config.Mounts) > 0,
	})
}

// targetPID is the PID namespace of another container of the pod.
func (m *Manager) targetPID(p *sandbox, id string) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := p.containers[id]
	if t == nil {
		return "", errorf(ErrInvalid, "linux.security_context.namespace_options.target_id: no container %q in the pod", id)
	}
	if t.record.State != ContainerRunning {
		return "", errorf(ErrState, "linux.security_context.namespace_options.target_id: container %s is %s, not running", id, t.record.State)
	}
	return fmt.Sprintf("/proc/%d/ns/pid", t.record.Pid), nil
}

// imageMounts leases the images that are mounted as volumes and finds what of
// them is to be seen.
func (m *Manager) imageMounts(r *containerRecord, namespace string) (map[int][]string, error) {
	mounts := map[int][]string{}
	for i := range r.Config.Mounts {
		v := &r.Config.Mounts[i]
		if v.Image == "" {
			continue
		}
		img, err := m.o.Images.Get(v.Image)
		if err != nil {
			return nil, fmt.Errorf("mounts[%d].image: %w", i, err)
		}
		if err := m.o.Images.Permit(img.ID, v.Image, namespace); err != nil {
			return nil, fmt.Errorf("mounts[%d].image: %w", i, err)
		}
		lease, err := m.o.Images.Rootfs(img.ID, imageMountHolder(r.ID, i))
		if err != nil {
			return nil, fmt.Errorf("mounts[%d].image: %w", i, err)
		}
		if mounts[i], err = subPath(lease.Layers, v.ImageSubPath); err != nil {
			return nil, fmt.Errorf("mounts[%d].image_sub_path: %w", i, err)
		}
		if r.MountImages == nil {
			r.MountImages = map[int]string{}
		}
		r.MountImages[i] = img.ID
	}
	return mounts, nil
}

func (m *Manager) releaseImages(r *containerRecord) error {
	var err error
	for _, h := range r.holders() {
		err = errors.Join(err, m.o.Images.Release(h))
	}
	return err
}

// hold keeps the container's FIFOs open.
func (m *Manager) hold(c *container) {
	held := client.Hold(m.containerState(c.pod.id, c.id), c.record.Config.Stdin && !c.record.Config.TTY)
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	c.held = held
}

// release lets them go.
func (c *container) release() {
	c.pod.mu.Lock()
	held := c.held
	c.held = nil
	c.pod.mu.Unlock()
	held.Close()
}

// destroy kills a container and has its monitor, or the one that replaces it,
// forget it. One that is not there is no error.
func (m *Manager) destroy(ctx context.Context, p *sandbox, id string) error {
	ctx, cancel := undoContext(ctx)
	defer cancel()
	err := m.onMonitor(ctx, p, func(monitor Monitor) error { return endNow(ctx, monitor, id) })
	switch {
	case errors.Is(err, errMonitorGone):
		return nil // whoever took it away has ended the container
	case errors.Is(err, client.ErrNotFound):
		return m.endUnknown(ctx, p, id)
	}
	return err
}

// endNow is destroy on one monitor.
func endNow(ctx context.Context, monitor Monitor, id string) error {
	err := monitor.Kill(ctx, id, "", syscall.SIGKILL, true)
	if err == nil {
		_, err = monitor.Wait(ctx, id, "")
	}
	if err == nil || errors.Is(err, client.ErrNotRunning) {
		_, err = monitor.Delete(ctx, id, "")
	}
	return err
}

// endUnknown ends what there still is of a container that its monitor does not know, which
// is nothing as a rule: one before it was killed while it made or removed the container, and
// this one could not finish that.
func (m *Manager) endUnknown(ctx context.Context, p *sandbox, id string) error {
	root := m.runtimeState()
	switch h := m.settings().Runtimes[p.record.Runtime].Handler; {
	case h.Shim != "":
		return nil
	case h.Program != "":
		root = m.programState(p.record.Runtime)
	}
	if _, err := os.Lstat(filepath.Join(root, id)); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return m.cleanup(ctx, p.record.Runtime, id, m.containerState(p.id, id))
}

// imageName is what status shows: what the user wrote, or a name of the image.
func imageName(c *ContainerConfig, img image.Image) string {
	switch {
	case c.UserImage != "":
		return c.UserImage
	case slices.Contains(img.RepoTags, c.Image) || len(img.RepoTags) == 0:
		return c.Image
	default:
		return img.RepoTags[0]
	}
}

func imageRef(img image.Image) string {
	if len(img.RepoDigests) > 0 {
		return img.RepoDigests[0]
	}
	return img.ID
}

// containerProcess is the process of a container's config.json, from which exec
// starts.
func (m *Manager) containerProcess(c *container) (*specs.Process, error) {
	c.pod.mu.Lock()
	process := c.process
	c.pod.mu.Unlock()
	if process != nil {
		return process, nil
	}
	spec, err := readSpec(m.containerState(c.pod.id, c.id))
	if err != nil {
		return nil, err
	}
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	c.process = spec.Process
	return c.process, nil
}
