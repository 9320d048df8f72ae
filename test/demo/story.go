package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/cli/logfile"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

func (d *demo) prepare(ctx context.Context) error {
	err := d.step("build and serve an image", func() (result string, err error) {
		d.image, err = serveImage(ctx, d.dir)
		return d.image, err
	})
	if err != nil {
		return err
	}
	err = d.step("start straked", func() (string, error) {
		err := d.start(ctx)
		return fmt.Sprintf("process %d, %s", d.daemon.Process.Pid, d.dir), err
	})
	if err != nil {
		return err
	}
	system, err := d.strake.System(ctx, &strakev1.SystemRequest{})
	if err != nil {
		return err
	}
	d.quote("straked", fmt.Sprintf("%s, kernel %s, cgroups %s, network %s, storage %s",
		system.Version, system.Kernel, system.CgroupMode, system.GetNetwork().GetName(), system.Storage))
	return d.step("pull", func() (string, error) { return d.pull(ctx) })
}

// pull fetches the image with our own service, which is CRI's PullImage and
// tells what it does.
func (d *demo) pull(ctx context.Context) (string, error) {
	stream, err := d.strake.Pull(ctx, &strakev1.PullRequest{Reference: d.image})
	if err != nil {
		return "", err
	}
	transferred := map[string]int64{}
	for {
		news, err := stream.Recv()
		if err != nil {
			return "", err
		}
		if p := news.GetProgress(); p != nil {
			transferred[p.Layer] = p.Done
		}
		if img := news.GetImage(); img != nil {
			var sum int64
			for _, n := range transferred {
				sum += n
			}
			return fmt.Sprintf("%.19s, %.1f MB fetched, %.1f MB on disk", img.Id, float64(sum)/1e6, float64(img.Size)/1e6), nil
		}
	}
}

func (d *demo) runPod(ctx context.Context) error {
	if err := os.Mkdir(d.path("logs"), 0o755); err != nil { // the kubelet makes it
		return err
	}
	namespaces := &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER}
	seccomp := &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault}
	d.config = &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: "demo", Namespace: "default", Uid: d.name},
		Hostname:     "demo",
		LogDirectory: d.path("logs"),
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent:    "/" + d.name,
			SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: namespaces, Seccomp: seccomp},
		},
	}
	err := d.step("RunPodSandbox", func() (string, error) {
		made, err := d.pods.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: d.config})
		if err != nil {
			return "", err
		}
		d.pod = made.PodSandboxId
		is, err := d.pods.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: d.pod})
		if err != nil {
			return "", err
		}
		d.ip = is.Status.GetNetwork().GetIp()
		return fmt.Sprintf("pod %.12s at %s, no pause process", d.pod, d.ip), d.rememberNetNS()
	})
	if err != nil {
		return err
	}
	if d.web, err = d.container(ctx, "web", nil); err != nil {
		return err
	}
	d.client, err = d.container(ctx, "client", []string{"/app/client"})
	return err
}

// container creates and starts one container of the pod.
func (d *demo) container(ctx context.Context, name string, command []string) (id string, err error) {
	config := &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name},
		Image:    &cri.ImageSpec{Image: d.image},
		Command:  command,
		LogPath:  name + ".log",
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{MemoryLimitInBytes: 64 << 20, CpuQuota: 50_000, CpuPeriod: 100_000},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: d.config.Linux.SecurityContext.NamespaceOptions,
				Seccomp:          d.config.Linux.SecurityContext.Seccomp,
				ReadonlyRootfs:   true,
			},
		},
	}
	err = d.step("CreateContainer "+name, func() (string, error) {
		made, err := d.pods.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: d.pod, Config: config, SandboxConfig: d.config})
		if err != nil {
			return "", err
		}
		id = made.ContainerId
		return fmt.Sprintf("%.12s, 64 MB, half a CPU, read-only root", id), nil
	})
	if err != nil {
		return "", err
	}
	return id, d.step("StartContainer "+name, func() (string, error) {
		_, err := d.pods.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: id})
		return "", err
	})
}

func (d *demo) look(ctx context.Context) error {
	if err := d.waitLog(ctx, "web", "listening", 1); err != nil {
		return err
	}
	err := d.step("GET http://"+d.ip+":8080/", func() (string, error) {
		answer, err := d.get(ctx)
		return "from the host: " + answer, err
	})
	if err != nil {
		return err
	}
	err = d.step("logs", func() (string, error) {
		return "the client asks by localhost", d.waitLog(ctx, "client", "hello from demo", 3)
	})
	if err != nil {
		return err
	}
	for _, name := range []string{"web", "client"} {
		text, err := d.tail(name, 3)
		if err != nil {
			return err
		}
		d.quote(fmt.Sprintf("%-6s", name), text)
	}
	var out string
	err = d.step("ExecSync", func() (string, error) {
		res, err := d.pods.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: d.web, Timeout: 10,
			Cmd: []string{"/bin/sh", "-c", "echo $(id -un) on $(hostname), $(uname -sr); ps -o pid,args; ls /etc"}})
		if err != nil {
			return "", err
		}
		out = string(res.Stdout) + string(res.Stderr)
		return fmt.Sprintf("sh in web, exit code %d", res.ExitCode), nil
	})
	if err != nil {
		return err
	}
	d.quote("web   ", out)
	return d.step("ContainerStats", func() (string, error) {
		res, err := d.pods.ListContainerStats(ctx, &cri.ListContainerStatsRequest{Filter: &cri.ContainerStatsFilter{PodSandboxId: d.pod}})
		if err != nil {
			return "", err
		}
		var texts []string
		for _, s := range res.Stats {
			texts = append(texts, fmt.Sprintf("%s: %.1f MB, %.1f ms of CPU", s.GetAttributes().GetMetadata().GetName(),
				float64(s.GetMemory().GetWorkingSetBytes().GetValue())/1e6, float64(s.GetCpu().GetUsageCoreNanoSeconds().GetValue())/1e6))
		}
		return strings.Join(texts, "; "), nil
	})
}

func (d *demo) kill(ctx context.Context) error {
	before, err := d.state(ctx)
	if err != nil {
		return err
	}
	err = d.step("SIGKILL straked", func() (string, error) {
		return fmt.Sprintf("process %d", d.daemon.Process.Pid), d.stop(syscall.SIGKILL)
	})
	if err != nil {
		return err
	}
	err = d.step("without a daemon", func() (string, error) {
		answer, err := d.get(ctx)
		if err != nil {
			return "", err
		}
		n := d.lines("client")
		if err := d.waitLog(ctx, "client", "hello from demo", n+3); err != nil {
			return "", err
		}
		return fmt.Sprintf("%s; the client's log has grown from %d lines to %d", answer, n, d.lines("client")), nil
	})
	if err != nil {
		return err
	}
	err = d.step("start straked again", func() (string, error) {
		err := d.start(ctx)
		return fmt.Sprintf("process %d", d.daemon.Process.Pid), err
	})
	if err != nil {
		return err
	}
	err = d.step("the same pod", func() (string, error) {
		after, err := d.state(ctx)
		if err != nil {
			return "", err
		}
		if after != before {
			return "", fmt.Errorf("before: %s\nafter: %s", before, after)
		}
		return after, d.noGap("client")
	})
	if err != nil {
		return err
	}
	return d.step("ExecSync", func() (string, error) {
		res, err := d.pods.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: d.client, Cmd: []string{"/bin/wget", "-qO-", "http://localhost:8080/"}, Timeout: 10})
		if err != nil {
			return "", err
		}
		return "from the client: " + strings.TrimSpace(string(res.Stdout)), nil
	})
}

// state is what a restart must not change, in a line.
func (d *demo) state(ctx context.Context) (string, error) {
	is, err := d.pods.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: d.pod})
	if err != nil {
		return "", err
	}
	text := fmt.Sprintf("pod %s at %s", strings.ToLower(strings.TrimPrefix(is.Status.State.String(), "SANDBOX_")), is.Status.GetNetwork().GetIp())
	for _, id := range []string{d.web, d.client} {
		c, err := d.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return "", err
		}
		text += fmt.Sprintf(", %s %s since %s", c.Status.Metadata.Name, strings.ToLower(strings.TrimPrefix(c.Status.State.String(), "CONTAINER_")),
			time.Unix(0, c.Status.StartedAt).Format("15:04:05.000"))
	}
	return text, nil
}

func (d *demo) remove(ctx context.Context) error {
	err := d.step("StopContainer web", func() (string, error) {
		if _, err := d.pods.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: d.web, Timeout: 5}); err != nil {
			return "", err
		}
		c, err := d.pods.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: d.web})
		if err != nil {
			return "", err
		}
		text, err := d.tail("web", 1)
		return fmt.Sprintf("exit code %d, %s; its last word: %s", c.Status.ExitCode, c.Status.Reason, strings.TrimSpace(text)), err
	})
	if err != nil {
		return err
	}
	for _, verb := range []struct {
		name string
		call func() error
	}{
		{"StopPodSandbox", func() error {
			_, err := d.pods.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: d.pod})
			return err
		}},
		{"RemovePodSandbox", func() error {
			_, err := d.pods.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: d.pod})
			return err
		}},
		{"RemoveImage", func() error {
			_, err := d.images.RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: d.image}})
			return err
		}},
		{"stop straked", func() error { return d.stop(syscall.SIGTERM) }},
		{"remove the bridge", func() error { return d.removeHost(ctx) }},
	} {
		if err := d.step(verb.name, func() (string, error) { return "", verb.call() }); err != nil {
			return err
		}
	}
	return nil
}

// get asks the web server by the pod's address.
func (d *demo) get(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.ip+":8080/", nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	return strings.TrimSpace(string(body)), errors.Join(err, res.Body.Close())
}

func (d *demo) logPath(name string) string { return filepath.Join(d.path("logs"), name+".log") }

// tail is the end of a container's log.
func (d *demo) tail(name string, n int) (string, error) {
	var b bytes.Buffer
	err := logfile.Copy(d.logPath(name), logfile.Options{Tail: n}, &b, &b)
	return b.String(), err
}

// lines counts those of a container's log.
func (d *demo) lines(name string) int {
	data, err := os.ReadFile(d.logPath(name))
	if err != nil {
		return 0
	}
	return bytes.Count(data, []byte{'\n'})
}

// waitLog follows a log until n of its lines contain want.
func (d *demo) waitLog(ctx context.Context, name, want string, n int) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	seen := &watcher{want: want, n: n, enough: cancel}
	if err := logfile.Copy(d.logPath(name), logfile.Options{Done: ctx.Done(), Tail: logfile.All}, seen, seen); err != nil {
		return err
	}
	if seen.n > 0 {
		return fmt.Errorf("the log of %s has not said %q often enough in 10 s", name, want)
	}
	return nil
}

// watcher is a writer that counts down.
type watcher struct {
	want   string
	n      int
	enough func()
}

func (w *watcher) Write(p []byte) (int, error) {
	if w.n -= strings.Count(string(p), w.want); w.n <= 0 {
		w.enough()
	}
	return len(p), nil
}

// noGap checks that no line of the client's log is missing: it numbers them.
func (d *demo) noGap(name string) error {
	var b bytes.Buffer
	if err := logfile.Copy(d.logPath(name), logfile.Options{Tail: logfile.All}, &b, &b); err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(b.String()) {
		n++
		if !strings.HasPrefix(line, fmt.Sprintf("request %d: ", n)) {
			return fmt.Errorf("line %d of %s's log is %q", n, name, line)
		}
	}
	return nil
}
