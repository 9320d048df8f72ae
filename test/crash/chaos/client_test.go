package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// client does one verb after the other, as a kubelet does for one of its pods:
// what fails, or takes too long, is asked for again. What it has asked for is its
// model of the node.
type client struct {
	*world
	name string
	rng  *rand.Rand
	pods []*podModel
	made int
}

type podModel struct {
	config     *cri.PodSandboxConfig
	id, ip     string
	createdAt  int64
	stopped    bool
	containers []*containerModel
	made       uint32
}

type containerModel struct {
	config    *cri.ContainerConfig
	kind      *kind
	id        string
	state     cri.ContainerState
	createdAt int64
	startedAt int64
	stopped   bool // we have asked for its end
	signalled bool // and given it time
	shares    int64
	rotations int
}

func (k *containerModel) String() string {
	return k.config.Metadata.Name + " (" + k.kind.name + ", " + k.id + ")"
}

// kind is what a container does.
type kind struct {
	name    string
	command []string
	code    int32  // of its own end; -1: it runs until it is stopped
	reason  string // of that end
	polite  bool   // ends with 42 on the stop signal
	memory  int64
}

const counter = `trap 'exit 42' TERM
i=0
while :; do
	j=0
	while [ $j -lt 50 ]; do i=$((i+1)); j=$((j+1)); echo $i; done
	sleep 0.2
done`

var kinds = []*kind{
	{name: "exits", command: []string{"/bin/sh", "-c", "echo hello; exit 3"}, code: 3, reason: "Error"},
	{name: "succeeds", command: []string{"/bin/true"}, code: 0, reason: "Completed"},
	{name: "later", command: []string{"/bin/sh", "-c", "sleep 0.3; exit 9"}, code: 9, reason: "Error"},
	{name: "sleeps", command: []string{"/bin/sleep", "100000"}, code: -1},
	{name: "counts", command: []string{"/bin/sh", "-c", counter}, code: -1, polite: true},
	{name: "missing", command: []string{"/no/such/command"}},
	{name: "eats", command: []string{"/bin/sh", "-c", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"}, code: 137, reason: "OOMKilled", memory: 16 << 20},
}

func newClient(w *world, i int) *client {
	return &client{world: w, name: fmt.Sprintf("c%d", i), rng: rand.New(rand.NewPCG(*seed, uint64(i)))}
}

// work carries out verbs until enough is closed.
func (c *client) work(enough <-chan struct{}) {
	for c.ctx.Err() == nil && c.awaitCalm(enough) {
		c.step()
	}
}

// awaitCalm waits until no other client asks for calm, and says whether there is more to
// do.
func (w *world) awaitCalm(enough <-chan struct{}) bool {
	for {
		select {
		case <-enough:
			return false
		default:
		}
		if w.calm.Load() == 0 {
			return true
		}
		select {
		case <-enough:
		case <-w.ctx.Done():
			return false
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// step is one random verb that makes sense.
func (c *client) step() {
	if len(c.pods) == 0 || len(c.pods) < 2 && c.rng.IntN(6) == 0 {
		c.runPod()
		return
	}
	p := c.pods[c.rng.IntN(len(c.pods))]
	if p.stopped {
		if c.rng.IntN(2) == 0 {
			c.removePod(p)
		} else {
			c.verifyPod(p)
		}
		return
	}
	switch r := c.rng.IntN(30); {
	case r < 1:
		c.stopPod(p)
	case r < 2:
		c.removePod(p)
	case r < 4:
		c.verifyPod(p)
	case r < 5:
		c.stats()
	case len(p.containers) == 0 || r < 8 && len(p.containers) < 4:
		c.create(p)
	default:
		k := p.containers[c.rng.IntN(len(p.containers))]
		c.onContainer(p, k)
	}
}

func (c *client) onContainer(p *podModel, k *containerModel) {
	switch r := c.rng.IntN(12); {
	case k.state == cri.ContainerState_CONTAINER_CREATED:
		if r < 10 {
			c.start(k)
		} else {
			c.removeContainer(p, k)
		}
	case k.state == cri.ContainerState_CONTAINER_EXITED:
		c.removeContainer(p, k)
	case r < 4:
		c.exec(k)
	case r < 6:
		c.stop(k)
	case r < 7:
		c.removeContainer(p, k)
	case r < 9:
		c.update(k)
	case r < 10:
		c.rotate(p, k)
	default:
		c.verifyContainer(k)
	}
}

// verb repeats f until it succeeds or fails for good. Every now and then the
// client has next to no patience.
func (c *client) verb(what string, f func(context.Context) error) bool {
	began, calm := time.Now(), false
	until := began.Add(enduring)
	defer func() {
		if calm {
			c.calm.Add(-1)
		}
	}()
	for {
		limit := patience
		if !calm && c.rng.IntN(8) == 0 {
			limit = time.Duration(1+c.rng.IntN(40)) * time.Millisecond
		}
		ctx, cancel := context.WithTimeout(c.ctx, limit)
		err := f(ctx)
		cancel()
		if err == nil {
			c.verbs.Add(1)
			return true
		}
		if c.ctx.Err() != nil {
			return false
		}
		switch status.Code(err) {
		case codes.NotFound, codes.AlreadyExists, codes.InvalidArgument, codes.Unimplemented, codes.DataLoss:
			c.problem("%s: %s: %v", c.name, what, err)
			return false
		}
		late := time.Now().After(until)
		if strings.Contains(err.Error(), "reserved") || calm && late {
			c.problem("%s: %s still fails after %v: %v", c.name, what, time.Since(began), err)
			return false
		}
		if late {
			calm, until = true, time.Now().Add(patience)
			c.calm.Add(1)
			c.count("calm")
		}
		c.retries.Add(1)
		select {
		case <-time.After(time.Duration(5+c.rng.IntN(50)) * time.Millisecond):
		case <-c.ctx.Done():
			return false
		}
	}
}

func (c *client) runPod() {
	c.made++
	config := c.PodConfig(fmt.Sprintf("%s-%d", c.name, c.made), c.rng.IntN(3) == 0)
	if c.rng.IntN(4) == 0 {
		config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	}
	if config.Linux.SecurityContext.NamespaceOptions.Network == cri.NamespaceMode_POD && c.rng.IntN(3) == 0 {
		config.PortMappings = []*cri.PortMapping{{HostPort: c.hostPort.Add(1), ContainerPort: 80}}
	}
	p := &podModel{config: config}
	if !c.verb("run pod", func(ctx context.Context) (err error) { p.id, err = c.RunPod(ctx, config); return err }) {
		return
	}
	c.pods = append(c.pods, p)
	c.verifyPod(p)
}

func (c *client) stopPod(p *podModel) {
	if c.verb("stop pod "+p.id, func(ctx context.Context) error {
		_, err := c.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id})
		return err
	}) {
		p.stopped = true
		for _, k := range p.containers {
			if k.state != cri.ContainerState_CONTAINER_EXITED {
				k.stopped = true
				c.verifyContainer(k)
			}
		}
	}
}

func (c *client) removePod(p *podModel) {
	if c.verb("remove pod "+p.id, func(ctx context.Context) error {
		_, err := c.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		return err
	}) {
		c.pods = slices.DeleteFunc(c.pods, func(q *podModel) bool { return q == p })
		for _, k := range p.containers {
			c.checkLog(p, k)
		}
		c.removeLogs(p.config.LogDirectory)
	}
}

// removeLogs does what the kubelet does; a disk that has no room has room for that.
func (c *client) removeLogs(dir string) {
	if err := os.RemoveAll(dir); err != nil {
		c.problem("%s: remove logs: %v", c.name, err)
	}
}

func (c *client) create(p *podModel) {
	p.made++
	k := &containerModel{kind: kinds[c.rng.IntN(len(kinds))], shares: unknownShares}
	k.config = c.ContainerConfig(fmt.Sprintf("k%d", p.made), k.kind.command...)
	if k.kind.memory != 0 {
		k.config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: k.kind.memory, MemorySwapLimitInBytes: k.kind.memory}
	}
	if c.verb("create container in "+p.id, func(ctx context.Context) error {
		r, err := c.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: p.id, Config: k.config, SandboxConfig: p.config})
		k.id = r.GetContainerId()
		if k.kind.name == "missing" && err != nil && strings.Contains(err.Error(), "no such file or directory") {
			return nil
		}
		return err
	}) && k.id != "" {
		k.state = cri.ContainerState_CONTAINER_CREATED
		p.containers = append(p.containers, k)
		c.verifyContainer(k)
	}
}

func (c *client) start(k *containerModel) {
	if c.verb("start container "+k.id, func(ctx context.Context) error {
		_, err := c.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: k.id})
		if err == nil {
			return nil
		}
		// It may have happened: the kubelet looks, too.
		if s, e := c.Status(ctx, k.id); e == nil && s.State != cri.ContainerState_CONTAINER_CREATED {
			return nil
		}
		return err
	}) {
		k.state = cri.ContainerState_CONTAINER_RUNNING
		c.verifyContainer(k)
	}
}

func (c *client) stop(k *containerModel) {
	grace := int64(c.rng.IntN(3))
	if c.verb("stop container "+k.id, func(ctx context.Context) error {
		_, err := c.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: k.id, Timeout: grace})
		return err
	}) {
		k.stopped, k.signalled = true, k.signalled || grace > 0
		c.verifyContainer(k)
	}
}

func (c *client) removeContainer(p *podModel, k *containerModel) {
	if c.verb("remove container "+k.id, func(ctx context.Context) error {
		_, err := c.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: k.id})
		return err
	}) {
		p.containers = slices.DeleteFunc(p.containers, func(q *containerModel) bool { return q == k })
		c.checkLog(p, k)
		for _, file := range k.logs(p) {
			if err := os.RemoveAll(file); err != nil {
				c.problem("%s: remove log: %v", c.name, err)
			}
		}
	}
}

// ended says whether an error of a verb on a running container is because it does
// not run any more.
func (c *client) ended(ctx context.Context, k *containerModel) bool {
	s, err := c.Status(ctx, k.id)
	return err == nil && s.State == cri.ContainerState_CONTAINER_EXITED
}

// hasEnded asks for that until there is an answer: straked may be dead at the moment.
func (c *client) hasEnded(k *containerModel) (ended bool) {
	c.verb("status of container "+k.id, func(ctx context.Context) error {
		s, err := c.Status(ctx, k.id)
		ended = err == nil && s.State == cri.ContainerState_CONTAINER_EXITED
		return err
	})
	return ended
}

func (c *client) exec(k *containerModel) {
	word := strconv.FormatUint(c.rng.Uint64(), 36)
	c.verb("exec in "+k.id, func(ctx context.Context) error {
		r, err := c.Runtime.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: k.id, Cmd: []string{"/bin/sh", "-c", "echo " + word + "; exit 5"}})
		if err != nil && c.ended(ctx, k) {
			return nil
		}
		// It is killed when its container ends, which may be about to.
		ends := k.kind.code >= 0 && r.GetExitCode() == 137
		if err == nil && (string(r.Stdout) != word+"\n" || r.ExitCode != 5) && !ends && !c.wasKilled(k.id) {
			c.problem("%s: exec in %v: %q, %q, exit code %d", c.name, k, r.Stdout, r.Stderr, r.ExitCode)
		}
		return err
	})
	c.verifyContainer(k)
}

// unknownShares are the kernel's own, or those of an update of which nobody knows.
const unknownShares = 2

func (c *client) update(k *containerModel) {
	shares := int64(100 + c.rng.IntN(1000))
	gone := false
	if c.verb("update container "+k.id, func(ctx context.Context) error {
		_, err := c.Runtime.UpdateContainerResources(ctx, &cri.UpdateContainerResourcesRequest{
			ContainerId: k.id, Linux: &cri.LinuxContainerResources{CpuShares: shares},
		})
		if err != nil && c.ended(ctx, k) {
			gone = true
			return nil
		}
		return err
	}) {
		k.shares = shares
		if gone { // an attempt before, which straked did not live to answer, may have succeeded
			k.shares = unknownShares
		}
	}
	c.verifyContainer(k)
}

// rotate moves the log aside, as the kubelet does.
func (c *client) rotate(p *podModel, k *containerModel) {
	current := filepath.Join(p.config.LogDirectory, k.config.LogPath)
	err := os.Rename(current, fmt.Sprintf("%s.%d", current, k.rotations+1))
	if errors.Is(err, os.ErrNotExist) && k.rotations > 0 && c.hasEnded(k) {
		return // it had ended when it was to begin a new one
	} else if err != nil {
		c.problem("%s: rotate the log of %v: %v", c.name, k, err)
		return
	}
	k.rotations++
	c.verb("reopen the log of "+k.id, func(ctx context.Context) error {
		_, err := c.Runtime.ReopenContainerLog(ctx, &cri.ReopenContainerLogRequest{ContainerId: k.id})
		if err != nil && c.ended(ctx, k) {
			return nil
		}
		return err
	})
}

func (c *client) stats() {
	c.verb("stats", func(ctx context.Context) error {
		_, err := c.Runtime.ListContainerStats(ctx, &cri.ListContainerStatsRequest{})
		if err == nil {
			_, err = c.Runtime.ListPodSandboxStats(ctx, &cri.ListPodSandboxStatsRequest{})
		}
		return err
	})
}

// removeAll removes what the client has.
func (c *client) removeAll() {
	for len(c.pods) > 0 && c.ctx.Err() == nil {
		if c.rng.IntN(2) == 0 && !c.pods[0].stopped {
			c.stopPod(c.pods[0])
		}
		c.removePod(c.pods[0])
	}
}

// verifyPod compares a pod, with its containers, with the model.
func (c *client) verifyPod(p *podModel) {
	var s *cri.PodSandboxStatus
	if !c.verb("status of pod "+p.id, func(ctx context.Context) error {
		r, err := c.Runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: p.id})
		s = r.GetStatus()
		return err
	}) {
		return
	}
	want := cri.PodSandboxState_SANDBOX_READY
	if p.stopped {
		want = cri.PodSandboxState_SANDBOX_NOTREADY
	}
	onHost := p.config.Linux.SecurityContext.NamespaceOptions.Network == cri.NamespaceMode_NODE
	if p.createdAt == 0 {
		p.createdAt, p.ip = s.CreatedAt, s.GetNetwork().GetIp()
	}
	if s.State != want || s.CreatedAt != p.createdAt || !p.stopped && s.GetNetwork().GetIp() != p.ip || (p.ip == "") != onHost {
		c.problem("%s: pod %s (%s) is %v, created at %d, address %q; want %v, %d, %q", c.name, p.id, p.config.Metadata.Name,
			s.State, s.CreatedAt, s.GetNetwork().GetIp(), want, p.createdAt, p.ip)
	}
	for _, k := range p.containers {
		c.verifyContainer(k)
	}
}

// verifyContainer compares a container with the model, which learns of an end that
// could be expected.
func (c *client) verifyContainer(k *containerModel) {
	var s *cri.ContainerStatus
	if !c.verb("status of container "+k.id, func(ctx context.Context) (err error) { s, err = c.Status(ctx, k.id); return err }) {
		return
	}
	if k.createdAt == 0 {
		k.createdAt = s.CreatedAt
	}
	if k.startedAt == 0 {
		k.startedAt = s.StartedAt
	}
	// Of a start that was not yet written when straked was killed, the monitor's time
	// counts, which is a little later.
	const little = 90 * time.Second
	if later := time.Duration(s.StartedAt - k.startedAt); later > 0 && later < little {
		k.startedAt = s.StartedAt
	}
	if s.CreatedAt != k.createdAt || s.StartedAt != k.startedAt {
		c.problem("%s: container %v: created at %d and started at %d, was %d and %d", c.name, k, s.CreatedAt, s.StartedAt, k.createdAt, k.startedAt)
	}
	if got := s.GetResources().GetLinux().GetCpuShares(); k.shares != unknownShares && got != k.shares {
		c.problem("%s: container %v has %d cpu shares, want %d", c.name, k, got, k.shares)
	}
	was := k.state
	k.state = s.State
	killed := c.wasKilled(k.id)
	switch {
	case s.State == cri.ContainerState_CONTAINER_RUNNING || s.State == cri.ContainerState_CONTAINER_CREATED:
		if s.State != was || k.stopped {
			c.problem("%s: container %v is %v, was %v; stopped by us: %v", c.name, k, s.State, was, k.stopped)
		}
	case s.State != cri.ContainerState_CONTAINER_EXITED:
		c.problem("%s: container %v is %v", c.name, k, s.State)
	case was != cri.ContainerState_CONTAINER_CREATED && k.kind.code >= 0 && s.ExitCode == k.kind.code && s.Reason == k.kind.reason:
	case (k.stopped || killed) && s.ExitCode == 137 && s.Reason == "Error":
	case killed && k.kind.memory != 0 && s.ExitCode == 137:
	case killed && (s.ExitCode == 128 && s.Reason == "StartError" || k.kind.code < 0 && s.ExitCode == 143):
	case k.signalled && k.kind.polite && (s.ExitCode == 42 || s.ExitCode == 143):
	default:
		c.problem("%s: container %v has exited with %d (%s: %s), was %v; stopped by us: %v, killed by us: %v", c.name, k,
			s.ExitCode, s.Reason, s.Message, was, k.stopped, killed)
	}
}

// logs lists the container's logs, oldest first.
func (k *containerModel) logs(p *podModel) []string {
	current := filepath.Join(p.config.LogDirectory, k.config.LogPath)
	var files []string
	for i := range k.rotations {
		files = append(files, fmt.Sprintf("%s.%d", current, i+1))
	}
	return append(files, current)
}

// checkLog finds a lost, doubled or torn line of a container that counts. Lines
// are missing only where the log says so, for want of room on the disk, and no more
// than it says: of what was being lost as a monitor was killed, some is said twice.
func (c *client) checkLog(p *podModel, k *containerModel) {
	if k.kind.name != "counts" {
		return
	}
	next, lost := 1, 0
	for _, file := range k.logs(p) {
		data, err := os.ReadFile(file)
		if errors.Is(err, os.ErrNotExist) {
			continue // it did not run any more when it was to begin a new one, or never ran
		} else if err != nil {
			c.problem("%s: %v", c.name, err)
			return
		}
		line := 0
		for text := range strings.Lines(string(data)) {
			line++
			fields := strings.SplitN(strings.TrimSuffix(text, "\n"), " ", 4)
			var bytes int
			if len(fields) == 4 && fields[1] == "stderr" {
				if _, err := fmt.Sscanf(fields[3], "strake: %d bytes of this container's log are lost here", &bytes); err == nil {
					lost += bytes
				} // else the shell says that its sleep was killed
				continue
			}
			for len(fields) == 4 && lost > 0 && fields[3] != strconv.Itoa(next) {
				lost -= len("2006-01-02T15:04:05Z stdout F ") + len(strconv.Itoa(next)) + 1
				next++
			}
			if len(fields) != 4 || fields[1] != "stdout" || fields[2] != "F" || fields[3] != strconv.Itoa(next) {
				c.problem("%s: log of %v: %s, line %d: %q, want %d", c.name, k, filepath.Base(file), line, text, next)
				return
			}
			next++
			lost = 0
		}
	}
}

// commandLine runs "strake run --rm" again and again, some of which is killed: with
// or without that, nothing stays.
func (w *world) commandLine(i int, enough <-chan struct{}) {
	rng := rand.New(rand.NewPCG(*seed, uint64(500+i)))
	for n := 0; w.ctx.Err() == nil && w.awaitCalm(enough); n++ {
		args := []string{"--address", w.Address, "run", "--rm", "--network", "host", "--name", fmt.Sprintf("cli%d-%d", i, n)}
		detached := rng.IntN(3) == 0
		if detached {
			args = append(args, "-d")
		}
		cmd := exec.Command(filepath.Join(w.Bin, "strake"), append(args, w.Image, "/bin/sh", "-c", "echo out; sleep 0.2; exit 6")...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			w.problem("strake: %v", err)
			return
		}
		kill := rng.IntN(2) == 0
		if kill {
			timer := time.AfterFunc(time.Duration(rng.IntN(400))*time.Millisecond, func() {
				_ = cmd.Process.Signal(syscall.SIGKILL) // it may have ended
			})
			defer timer.Stop()
		}
		if cmd.Wait() == nil { // straked may be killed meanwhile, and it with it
			w.verbs.Add(1)
		}
	}
}
