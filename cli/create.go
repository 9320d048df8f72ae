package cli

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/strake-containers/strake/internal/logdriver"
	strakev1 "github.com/strake-containers/strake/server/api/strake/v1"
)

// runOptions are the flags of `strake run`.
type runOptions struct {
	interactive, tty, detach, rm bool
	name                         string
	env, volumes, ports          []string
	workdir, user                string
	entrypoint                   string
	memory, cpus                 string
	network                      string
	pull                         string
	logDriver                    string
	logOptions                   []string

	hasEntrypoint bool // --entrypoint "" is a request too
}

func (o *runOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.BoolVarP(&o.interactive, "interactive", "i", false, "pass standard input on")
	f.BoolVarP(&o.tty, "tty", "t", false, "give it a terminal")
	f.BoolVarP(&o.detach, "detach", "d", false, "run it in the background and print its id")
	f.BoolVar(&o.rm, "rm", false, "remove it when it has ended")
	f.StringVar(&o.name, "name", "", "its name (default: a random one)")
	f.StringArrayVarP(&o.env, "env", "e", nil, "set a variable: NAME=VALUE, or NAME to pass yours on")
	f.StringArrayVarP(&o.volumes, "volume", "v", nil, "show it a file or directory: HOST_PATH:CONTAINER_PATH[:ro]; the host path must exist")
	f.StringArrayVarP(&o.ports, "publish", "p", nil, "make a port reachable: [IP:]HOST_PORT:CONTAINER_PORT[/tcp|udp|sctp]")
	f.StringVarP(&o.workdir, "workdir", "w", "", "its working directory")
	f.StringVarP(&o.user, "user", "u", "", "run it as NAME or UID[:GID]")
	f.StringVar(&o.entrypoint, "entrypoint", "", "the program to run instead of the image's")
	f.StringVarP(&o.memory, "memory", "m", "", "limit its memory, as in 512m")
	f.StringVar(&o.cpus, "cpus", "", "limit its CPU time, as in 1.5 CPUs")
	f.StringVar(&o.network, "network", "default", "default, host, or none (loopback only)")
	f.StringVar(&o.pull, "pull", "missing", "pull the image: missing, always or never")
	f.StringVar(&o.logDriver, "log-driver", "", "keep its output: "+strings.Join(logdriver.Names, ", ")+" (default: straked's)")
	f.StringArrayVar(&o.logOptions, "log-opt", nil, "an option of the log driver: max-size=10m, max-file=3 of files; tag=NAME of journald")
}

// namePattern is docker's, and shorter than the kernel's limit for a host name,
// which the name becomes.
var namePattern = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}$`)

// The paths below /proc and /sys that tell of the host or change it: hidden, or
// shown read-only, as every container engine does unless told otherwise.
var (
	maskedPaths = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats", "/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// stdio is annotationStdio's value.
func (o *runOptions) stdio() string {
	var s string
	if o.interactive {
		s += "i"
	}
	if o.tty {
		s += "t"
	}
	return s
}

// check finds what no daemon is needed to refuse.
func (o *runOptions) check() error {
	if o.detach && (o.interactive || o.tty) {
		return fmt.Errorf("-d runs in the background, -i and -t in front: choose (strake attach connects later)")
	}
	if o.name != "" && !namePattern.MatchString(o.name) {
		return fmt.Errorf("--name %s: write letters, digits, and _ . - after the first, 63 at most", o.name)
	}
	switch o.network {
	case "default", "host", "none":
	default:
		return fmt.Errorf("--network %s: choose default, host or none", o.network)
	}
	if o.network != "default" && len(o.ports) > 0 {
		return fmt.Errorf("-p needs --network default: with --network %s there is no address to forward to", o.network)
	}
	switch o.pull {
	case "missing", "always", "never":
	default:
		return fmt.Errorf("--pull %s: choose missing, always or never", o.pull)
	}
	if err := checkWorkdir(o.workdir); err != nil {
		return err
	}
	options, err := o.logOptionMap()
	if err == nil && o.logDriver != "" { // else straked knows which it is
		_, err = logdriver.Parse(o.logDriver, options)
	}
	return err
}

// logOptionMap are the options of --log-opt by name.
func (o *runOptions) logOptionMap() (map[string]string, error) {
	options := map[string]string{}
	for _, s := range o.logOptions {
		name, value, ok := strings.Cut(s, "=")
		if _, twice := options[name]; !ok || twice {
			return nil, fmt.Errorf("--log-opt %s: write NAME=VALUE, once for each name", s)
		}
		options[name] = value
	}
	return options, nil
}

// logAnnotations are how straked is told of the log driver.
func (o *runOptions) logAnnotations(annotations map[string]string) error {
	if o.logDriver != "" {
		annotations[strakev1.LogDriver] = o.logDriver
	}
	if len(o.logOptions) == 0 {
		return nil
	}
	options, err := o.logOptionMap()
	if err != nil {
		return err
	}
	data, err := json.Marshal(options)
	annotations[strakev1.LogOptions] = string(data)
	return err
}

// podConfig is the pod that the container is alone in. Its identity is its name,
// so that two runs cannot both have it; run tells the two apart by the nonce.
func (o *runOptions) podConfig(name, nonce string) (*cri.PodSandboxConfig, error) {
	network := cri.NamespaceMode_POD
	if o.network == "host" {
		network = cri.NamespaceMode_NODE
	}
	p := &cri.PodSandboxConfig{
		Metadata:    &cri.PodSandboxMetadata{Name: name, Namespace: namespaceCLI, Uid: "strake-run"},
		Labels:      map[string]string{labelCLI: "run"},
		Annotations: map[string]string{strakev1.Owner: nonce},
		Linux: &cri.LinuxPodSandboxConfig{
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Network: network, Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_POD},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}
	if o.network != "host" {
		p.Hostname = strings.ReplaceAll(name, "_", "-")
	}
	if o.network == "none" {
		p.Annotations[strakev1.PodNetwork] = "none"
	}
	if o.rm {
		p.Annotations[strakev1.AutoRemove] = "true"
	}
	for _, s := range o.ports {
		port, err := parsePort(s)
		if err != nil {
			return nil, err
		}
		p.PortMappings = append(p.PortMappings, port)
	}
	return p, nil
}

// containerConfig is the container; args are what stands after the image.
func (o *runOptions) containerConfig(pod *cri.PodSandboxConfig, image string, args []string) (*cri.ContainerConfig, error) {
	c := &cri.ContainerConfig{
		Metadata:    &cri.ContainerMetadata{Name: pod.Metadata.Name},
		Image:       &cri.ImageSpec{Image: image, UserSpecifiedImage: image},
		Args:        args,
		WorkingDir:  o.workdir,
		Stdin:       o.interactive,
		StdinOnce:   o.interactive,
		Tty:         o.tty,
		Labels:      map[string]string{labelCLI: "run"},
		Annotations: map[string]string{annotationStdio: o.stdio()},
		Linux: &cri.LinuxContainerConfig{
			Resources: &cri.LinuxContainerResources{},
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: pod.Linux.SecurityContext.NamespaceOptions,
				Seccomp:          pod.Linux.SecurityContext.Seccomp,
				MaskedPaths:      maskedPaths,
				ReadonlyPaths:    readonlyPaths,
			},
		},
	}
	if o.hasEntrypoint {
		// CRI's Command takes the place of the image's entry point and of its
		// command, as docker's --entrypoint does. An empty one leaves only args.
		if o.entrypoint != "" {
			c.Command = []string{o.entrypoint}
		} else if len(args) == 0 {
			return nil, fmt.Errorf(`--entrypoint "": then the command must follow the image`)
		} else {
			c.Command, c.Args = args[:1], args[1:]
		}
	}
	if err := o.logAnnotations(c.Annotations); err != nil {
		return nil, err
	}
	if o.tty {
		c.Envs = append(c.Envs, &cri.KeyValue{Key: "TERM", Value: []byte("xterm")})
	}
	for _, s := range o.env {
		kv, ok, err := parseEnv(s, os.LookupEnv)
		if err != nil {
			return nil, err
		}
		if ok {
			c.Envs = append(c.Envs, kv)
		}
	}
	for _, s := range o.volumes {
		m, err := parseVolume(s)
		if err != nil {
			return nil, err
		}
		c.Mounts = append(c.Mounts, m)
	}
	if o.user != "" {
		if err := parseUser(o.user, c.Linux.SecurityContext); err != nil {
			return nil, err
		}
	}
	if o.memory != "" {
		n, err := parseBytes(o.memory)
		if err != nil {
			return nil, fmt.Errorf("--memory %w", err)
		}
		c.Linux.Resources.MemoryLimitInBytes = n
	}
	if o.cpus != "" {
		quota, err := parseCPUs(o.cpus)
		if err != nil {
			return nil, err
		}
		c.Linux.Resources.CpuPeriod, c.Linux.Resources.CpuQuota = cpuPeriod, quota
	}
	if len(pod.PortMappings) > 0 {
		ports := make([]string, len(pod.PortMappings))
		for i, p := range pod.PortMappings {
			ports[i] = portText(p)
		}
		c.Annotations[annotationPorts] = strings.Join(ports, ", ")
	}
	return c, nil
}
