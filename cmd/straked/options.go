package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"

	"github.com/sirupsen/logrus"
	"k8s.io/klog/v2"

	"github.com/strake-containers/strake/config"
	"github.com/strake-containers/strake/image"
	"github.com/strake-containers/strake/image/rootfs"
	"github.com/strake-containers/strake/internal/certs"
	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/internal/version"
	"github.com/strake-containers/strake/pod"
	"github.com/strake-containers/strake/pod/nri"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
	"github.com/strake-containers/strake/server/cri"
	"github.com/strake-containers/strake/server/tracing"
	"github.com/strake-containers/strake/shim/client"
)

// monitorName is the monitor's program.
const monitorName = "containerd-shim-strake-v2"

// newLogger logs as the configuration says, and makes the libraries that bring
// loggers of their own do so too. The level can be changed.
func newLogger(w io.Writer, c config.Config) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	_ = level.UnmarshalText([]byte(c.LogLevel)) // validated
	o := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, o)
	if c.LogFormat == "json" {
		h = slog.NewJSONHandler(w, o)
	}
	log := slog.New(h)
	slog.SetDefault(log)
	klog.SetSlogLogger(slog.New(quiet{h}))
	logrus.SetLevel(logrus.FatalLevel) // ttrpc's: what matters of it is in the errors it returns
	return log, level
}

// quiet logs at debug what the kubelet's library calls errors, such as a client
// that goes away: the client has been told, and nobody has to act.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelDebug)
}

func (q quiet) Handle(ctx context.Context, r slog.Record) error {
	r.Level = slog.LevelDebug
	return q.Handler.Handle(ctx, r)
}

func (q quiet) WithAttrs(a []slog.Attr) slog.Handler { return quiet{q.Handler.WithAttrs(a)} }
func (q quiet) WithGroup(name string) slog.Handler   { return quiet{q.Handler.WithGroup(name)} }

// lockState keeps two daemons with different sockets and roots out of one state
// directory, whose pods each would undo as nobody's. The lock is the file's, which
// the caller closes at the end.
func lockState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state: %w", err)
	}
	taken, err := sys.Lock(f)
	if err == nil && !taken {
		err = errors.New("another daemon is using it: stop that, or choose another --state")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("state %s: %w", dir, err), f.Close())
	}
	return f, nil
}

// settingsOf is what of a configuration pods can be made to go by at any time.
func settingsOf(c config.Config) (pod.Settings, error) {
	runtimes, err := monitors(c)
	return pod.Settings{
		Runtimes: runtimes, DefaultRuntime: c.DefaultRuntime, CDIDirs: c.CDI.SpecDirs, HooksDirs: c.HooksDirs,
		Workloads: workloads(c), MonitorPods: c.Monitor.Pods, Debug: c.LogLevel == "debug",
	}, err
}

// secureStreams is the TLS of sessions; nil without any.
func secureStreams(t config.TLS, log *slog.Logger) (*tls.Config, error) {
	if t.Cert == "" {
		return nil, nil
	}
	secure, err := certs.Server(certs.Files(t), "http/1.1", log)
	if err != nil {
		return nil, fmt.Errorf("stream.tls: %w", err)
	}
	return secure, nil
}

// traces is where spans go.
func traces(c config.Config) tracing.Config {
	return tracing.Config{
		Endpoint: c.Tracing.Endpoint, Protocol: c.Tracing.Protocol, SamplesPerMillion: c.Tracing.SamplesPerMillion, Version: version.Version,
	}
}

// trust is where signature files are.
func trust(c config.Config) image.Trust {
	return image.Trust{Policy: c.Images.SignaturePolicy, RegistriesD: c.Images.RegistriesD, NamespaceDir: c.Images.NamespacePolicies}
}

// monitors finds the programs of each runtime: where its path says, beside this
// program, or in PATH.
func monitors(c config.Config) (map[string]pod.Runtime, error) {
	runtimes := map[string]pod.Runtime{}
	for name, rt := range c.Runtimes {
		r, err := runtimeOf(rt)
		if err != nil {
			return nil, fmt.Errorf("runtimes.%s.%w", name, err)
		}
		r.SeccompProfile, r.AllowedAnnotations = rt.SeccompProfile, rt.AllowedAnnotations
		runtimes[name] = r
	}
	return runtimes, nil
}

// runtimeOf is a runtime with its programs. An error begins with the key it is about.
func runtimeOf(rt config.Runtime) (r pod.Runtime, err error) {
	path := rt.Path
	if path != "" {
		if info, err := os.Stat(path); err != nil {
			return r, fmt.Errorf("path: %w", err)
		} else if info.IsDir() || info.Mode()&0o111 == 0 {
			return r, fmt.Errorf("path: %s is not executable", path)
		}
	}
	if rt.Type == "strake" && path != "" {
		return pod.Runtime{Monitor: path}, nil
	}
	if r.Monitor, err = findProgram(monitorName); err != nil {
		return r, fmt.Errorf("path: %w", err)
	}
	switch rt.Type {
	case "oci":
		r.Handler = client.Handler{Program: path, Args: rt.Args}
	case "shim":
		if path == "" {
			if path, err = findProgram(config.ShimProgram(rt.RuntimeType)); err != nil {
				return r, fmt.Errorf("runtime_type: %w", err)
			}
		}
		r.Handler = client.Handler{Shim: path, Sandboxes: rt.Sandboxer == "shim"}
		if r.Handler.Options, err = client.ShimOptions(rt.Options); err != nil {
			return r, fmt.Errorf("options.%w", err)
		}
	}
	return r, nil
}

// findProgram looks beside this program, then in PATH.
func findProgram(name string) (string, error) {
	self, err := os.Executable()
	if err == nil {
		beside := filepath.Join(filepath.Dir(self), name)
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return beside, nil
		}
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s is neither beside straked (%s) nor in PATH: install it there or set path", name, filepath.Dir(self))
	}
	return filepath.Abs(path)
}

// handlers are the runtimes as CRI's Status tells of them, and the default one.
func handlers(c *config.Config) ([]cri.Handler, string) {
	var out []cri.Handler
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		native := c.Runtimes[name].Type == "strake"
		out = append(out, cri.Handler{Name: name, RecursiveReadOnlyMount: native, UserNamespaces: native && pod.UserNamespaces()})
	}
	return out, c.DefaultRuntime
}

// nodePlugins is where NRI's are; nil without any.
func nodePlugins(c config.Config) *nri.Config {
	if c.NRI.Socket == "" {
		return nil
	}
	registration, request := c.NRI.Timeouts()
	return &nri.Config{
		Socket: c.NRI.Socket, Dir: c.NRI.PluginDir, ConfigDir: c.NRI.PluginConfigDir,
		RegistrationTimeout: registration, RequestTimeout: request, Version: version.Version,
	}
}

// storage says how images are kept, for people.
func storage(driver rootfs.Driver, images *image.Store) string {
	switch on, err := images.Verity(); {
	case on:
		return driver.Name() + ", fs-verity"
	case err != nil:
		return driver.Name() + ", without fs-verity: not on this file system with this kernel"
	}
	return driver.Name()
}

// workloads are the configuration's, in the order of their names.
func workloads(c config.Config) []pod.Workload {
	var out []pod.Workload
	for _, name := range slices.Sorted(maps.Keys(c.Workloads)) {
		w := c.Workloads[name]
		r := w.Resources
		out = append(out, pod.Workload{
			Name: name, Activation: w.ActivationAnnotation, Prefix: w.AnnotationPrefix,
			Resources: pod.WorkloadResources{Shares: r.CPUShares, Quota: r.CPUQuota, Period: r.CPUPeriod, Limit: r.CPULimit, CPUSet: r.CPUSet},
		})
	}
	return out
}

// runtimeList is what `strake info` shows, and the default one. A program that has gone
// since it was looked for has no path.
func runtimeList(c *config.Config) ([]*strakev1.Runtime, string) {
	var out []*strakev1.Runtime
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		rt := c.Runtimes[name]
		r, err := runtimeOf(rt)
		var path string
		if err == nil {
			path = program(r)
		}
		out = append(out, &strakev1.Runtime{Name: name, Type: rt.Type, Path: path})
	}
	return out, c.DefaultRuntime
}

// program is what makes a runtime's containers.
func program(r pod.Runtime) string {
	switch {
	case r.Handler.Program != "":
		return r.Handler.Program
	case r.Handler.Shim != "":
		return r.Handler.Shim
	}
	return r.Monitor
}

// subnets are the bridge's; their text is validated.
func subnets(c config.Config) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range c.Network.Subnets {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// cgroupMode names the layout of /sys/fs/cgroup, for people to read.
func cgroupMode() string {
	for _, m := range []struct{ path, mode string }{
		{"/sys/fs/cgroup/cgroup.controllers", "unified"},
		{"/sys/fs/cgroup/unified/cgroup.procs", "hybrid"},
		{"/sys/fs/cgroup/memory", "legacy"},
	} {
		if _, err := os.Stat(m.path); err == nil {
			return m.mode
		}
	}
	return "unknown"
}
