// Package config reads straked's TOML file: decode, default, validate.
//
// It opens nothing and changes nothing: the bytes of one file and its drop-ins go in,
// a Config or an error that names every wrong key with its file and line comes out. An unknown key is an error, as
// a misspelt one would otherwise be silently without effect. The file format is
// described in docs/format/config.md; default.toml is what `straked config
// default` prints, and a test holds it to Default.
package config

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/strake-containers/strake/internal/annotation"
	"github.com/strake-containers/strake/internal/logdriver"
)

// MaxSize limits the file; a real one has a few hundred bytes.
const MaxSize = 1 << 20

// DefaultPath is read when no --config is given; it need not exist.
const DefaultPath = "/etc/strake/config.toml"

//go:embed default.toml
var defaultTOML []byte

// DefaultTOML returns the commented default file.
func DefaultTOML() []byte { return slices.Clone(defaultTOML) }

// Config is the whole configuration, every field set.
type Config struct {
	Root           string              `toml:"root" json:"root"`
	State          string              `toml:"state" json:"state"`
	Address        string              `toml:"address" json:"address"`
	LogLevel       string              `toml:"log_level" json:"log_level"`
	LogFormat      string              `toml:"log_format" json:"log_format"`
	CgroupDriver   string              `toml:"cgroup_driver" json:"cgroup_driver"`
	DefaultRuntime string              `toml:"default_runtime" json:"default_runtime"`
	CNI            CNI                 `toml:"cni" json:"cni"`
	Network        Network             `toml:"network" json:"network"`
	Registry       Registry            `toml:"registry" json:"registry"`
	Images         Images              `toml:"images" json:"images"`
	Runtimes       map[string]Runtime  `toml:"runtimes" json:"runtimes"`
	Stream         Stream              `toml:"stream" json:"stream"`
	GRPC           GRPC                `toml:"grpc" json:"grpc"`
	Metrics        Metrics             `toml:"metrics" json:"metrics"`
	Tracing        Tracing             `toml:"tracing" json:"tracing"`
	Monitor        Monitor             `toml:"monitor" json:"monitor"`
	ContainerLog   ContainerLog        `toml:"container_log" json:"container_log"`
	CDI            CDI                 `toml:"cdi" json:"cdi"`
	NRI            NRI                 `toml:"nri" json:"nri"`
	HooksDirs      []string            `toml:"hooks_dirs" json:"hooks_dirs"`
	Workloads      map[string]Workload `toml:"workloads" json:"workloads"`
}

// NRI says where plugins of the Node Resource Interface are: Socket is where they
// register, "" for none at all; PluginDir has those that are started.
type NRI struct {
	Socket              string `toml:"socket" json:"socket"`
	PluginDir           string `toml:"plugin_dir" json:"plugin_dir"`
	PluginConfigDir     string `toml:"plugin_config_dir" json:"plugin_config_dir"`
	RegistrationTimeout string `toml:"registration_timeout" json:"registration_timeout"`
	RequestTimeout      string `toml:"request_timeout" json:"request_timeout"`
}

// Timeouts are the two; Validate has seen to it that they are durations.
func (n NRI) Timeouts() (registration, request time.Duration) {
	registration, _ = time.ParseDuration(n.RegistrationTimeout)
	request, _ = time.ParseDuration(n.RequestTimeout)
	return registration, request
}

// CDI says where the Container Device Interface's files are; a later directory's
// devices win.
type CDI struct {
	SpecDirs []string `toml:"spec_dirs" json:"spec_dirs"`
}

// Workload gives the containers of pods that have ActivationAnnotation other CPU
// resources, which ANNOTATION_PREFIX/CONTAINER of the pod changes.
type Workload struct {
	ActivationAnnotation string            `toml:"activation_annotation" json:"activation_annotation"`
	AnnotationPrefix     string            `toml:"annotation_prefix" json:"annotation_prefix"`
	Resources            WorkloadResources `toml:"resources" json:"resources"`
}

// WorkloadResources are CPU resources; 0 and "" leave what the container asks for.
// CPULimit is in thousandths of a CPU.
type WorkloadResources struct {
	CPUShares int64  `toml:"cpushares" json:"cpushares"`
	CPUQuota  int64  `toml:"cpuquota" json:"cpuquota"`
	CPUPeriod int64  `toml:"cpuperiod" json:"cpuperiod"`
	CPULimit  int64  `toml:"cpulimit" json:"cpulimit"`
	CPUSet    string `toml:"cpuset" json:"cpuset"`
}

// CNI says where network configurations and plugins are found.
type CNI struct {
	ConfDir string   `toml:"conf_dir" json:"conf_dir"`
	BinDirs []string `toml:"bin_dirs" json:"bin_dirs"`
	// Networks is how many of ConfDir's configurations, by file name, a pod is
	// connected to.
	Networks int `toml:"networks" json:"networks"`
}

// Network configures the built-in bridge, used while CNI.ConfDir holds no
// network configuration.
//
// Subnets are of its pods, one of each address family at most; none takes an
// IPv4 one that the host does not use.
type Network struct {
	Bridge  string   `toml:"bridge" json:"bridge"`
	Subnets []string `toml:"subnets" json:"subnets"`
}

// Registry configures pulls. ConfigPath is a certs.d tree, or several separated
// by colons; "" for none. RegistriesConf is containers' registries.conf; "" for
// none, and a file that is not there says nothing.
type Registry struct {
	ConfigPath     string `toml:"config_path" json:"config_path"`
	RegistriesConf string `toml:"registries_conf" json:"registries_conf"`
}

// Images configures the image store. Driver makes the roots of containers: auto,
// overlay, overlay-userxattr, btrfs or copy. MaxLayer… bound what one layer may unpack
// to: bytes of content, entries of its tar, times its packed size beyond the first
// GiB, bytes of holes in sparse files. KeepLayerBlobs keeps layers packed as well:
// for push and save bit by bit, and to unpack them again without a registry. Verity has
// the kernel check what is read of blobs and layers, where the file system can. The
// others name containers' signature files; "" is none, and a file that is not there
// says nothing.
type Images struct {
	Driver            string `toml:"driver" json:"driver"`
	KeepLayerBlobs    bool   `toml:"keep_layer_blobs" json:"keep_layer_blobs"`
	Verity            bool   `toml:"verity" json:"verity"`
	MaxLayerBytes     int64  `toml:"max_layer_bytes" json:"max_layer_bytes"`
	MaxLayerEntries   int64  `toml:"max_layer_entries" json:"max_layer_entries"`
	MaxLayerRatio     int64  `toml:"max_layer_ratio" json:"max_layer_ratio"`
	MaxLayerHoles     int64  `toml:"max_layer_holes" json:"max_layer_holes"`
	SignaturePolicy   string `toml:"signature_policy" json:"signature_policy"`
	RegistriesD       string `toml:"registries_d" json:"registries_d"`
	NamespacePolicies string `toml:"namespace_policies" json:"namespace_policies"`
}

// Runtime is one runtime handler; docs/handlers.md.
//
// Type "strake" is the built-in one; its Path is the monitor's binary, "" to look
// beside straked and in PATH. Type "oci" is an OCI runtime's program at Path, called
// with Args before its command. Type "shim" is a containerd shim (runtime v2): the
// program at Path, or the one that RuntimeType (io.containerd.NAME.vN) means. Sandboxer
// says how it is asked for a pod: by its first task ("podsandbox", and "") or by the
// sandbox API ("shim"), and Options are its own.
type Runtime struct {
	Type        string            `toml:"type" json:"type"`
	Path        string            `toml:"path" json:"path"`
	RuntimeType string            `toml:"runtime_type" json:"runtime_type,omitempty"`
	Args        []string          `toml:"args" json:"args,omitempty"`
	Sandboxer   string            `toml:"sandboxer" json:"sandboxer,omitempty"`
	Options     map[string]string `toml:"options" json:"options"`
	// SeccompProfile is the profile that RuntimeDefault means; "" is docker's.
	SeccompProfile string `toml:"seccomp_profile" json:"seccomp_profile"`
	// AllowedAnnotations are those of pods that are honoured with this handler, where that
	// is not so by itself: of annotation.Notifier.
	AllowedAnnotations []string `toml:"allowed_annotations" json:"allowed_annotations"`
}

// Stream configures the server of exec, attach and port-forward. Without TLS, it is on
// loopback.
type Stream struct {
	Address string `toml:"address" json:"address"`
	TLS     TLS    `toml:"tls" json:"tls"`
}

// GRPC configures where else than on Address calls are answered: TCPAddress, "" for
// nowhere, for clients with a certificate of TLS.ClientCA's.
type GRPC struct {
	TCPAddress string `toml:"tcp_address" json:"tcp_address"`
	TLS        TLS    `toml:"tls" json:"tls"`
}

// TLS names PEM files, which may be renewed at any time: a server's certificate and key,
// and the authorities of its clients, "" to ask those for no certificate.
type TLS struct {
	Cert     string `toml:"cert" json:"cert"`
	Key      string `toml:"key" json:"key"`
	ClientCA string `toml:"client_ca" json:"client_ca"`
}

// Metrics configures the Prometheus endpoint; Address "" turns it off.
type Metrics struct {
	Address string `toml:"address" json:"address"`
}

// Tracing says where spans of calls go, by which protocol of tracingProtocols; without
// an Endpoint nowhere. SamplesPerMillion is how many of a million calls are recorded
// that are not part of a trace of their caller's.
type Tracing struct {
	Endpoint          string `toml:"endpoint" json:"endpoint"`
	Protocol          string `toml:"protocol" json:"protocol"`
	SamplesPerMillion int    `toml:"samples_per_million" json:"samples_per_million"`
}

// tracingProtocols have the names that OpenTelemetry gives them.
var tracingProtocols = []string{"grpc", "http/protobuf"}

// ContainerLog configures the logs of containers. MaxBytes ends one that has CRI's
// format at a place that its caller named, as the kubelet's; 0 is no end. Driver keeps
// the output of the others, unless they say otherwise, with the options it has.
type ContainerLog struct {
	MaxBytes int64             `toml:"max_bytes" json:"max_bytes"`
	Driver   string            `toml:"driver" json:"driver"`
	Options  map[string]string `toml:"options" json:"options"`
}

// Config is the driver; Validate has seen to it that there is one.
func (l ContainerLog) Config() logdriver.Config {
	c, _ := logdriver.Parse(l.Driver, l.Options)
	return c
}

// Monitor configures the monitors: Pods is how many pods one holds at most.
type Monitor struct {
	Pods int `toml:"pods" json:"pods"`
}

// The limits of a layer are bounded themselves: what is computed of them must not
// overflow.
const (
	maxLayerLimit = 1 << 50
	maxNetworks   = 100 // of one pod
	maxLayerRatio = 1 << 20
)

// minLogBytes is the least ContainerLog.MaxBytes: a few of the longest lines.
const minLogBytes = 128 << 10

// maxMonitorPods bounds Monitor.Pods.
const maxMonitorPods = 1000

// Default returns the configuration of an empty file.
func Default() Config {
	return Config{
		Root:           "/var/lib/strake",
		State:          "/run/strake",
		Address:        "/run/strake/strake.sock",
		LogLevel:       "info",
		LogFormat:      "text",
		CgroupDriver:   "cgroupfs",
		DefaultRuntime: "strake",
		CNI: CNI{
			ConfDir:  "/etc/cni/net.d",
			BinDirs:  []string{"/opt/cni/bin", "/usr/lib/cni"},
			Networks: 1,
		},
		Network:  Network{Bridge: "strake0", Subnets: []string{}},
		Registry: Registry{RegistriesConf: "/etc/containers/registries.conf"},
		Images: Images{
			Driver: "auto", SignaturePolicy: "/etc/containers/policy.json", RegistriesD: "/etc/containers/registries.d",
			MaxLayerBytes: 128 << 30, MaxLayerEntries: 4_000_000, MaxLayerRatio: 200, MaxLayerHoles: 1 << 30,
		},
		Runtimes:     map[string]Runtime{"strake": {Type: "strake", AllowedAnnotations: []string{}}},
		Stream:       Stream{Address: "127.0.0.1:0"},
		Tracing:      Tracing{Protocol: "grpc"},
		Monitor:      Monitor{Pods: 50},
		ContainerLog: ContainerLog{Driver: logdriver.K8sFile, Options: map[string]string{}},
		CDI:          CDI{SpecDirs: []string{"/etc/cdi", "/var/run/cdi"}},
		NRI:          NRI{PluginDir: "/opt/nri/plugins", PluginConfigDir: "/etc/nri/conf.d", RegistrationTimeout: "5s", RequestTimeout: "5s"},
		HooksDirs:    []string{"/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"},
		Workloads:    map[string]Workload{},
	}
}

// Error is one thing wrong in a file.
type Error struct {
	File string
	Line int    // from 1; 0 if it has no line, as for a key given by a flag
	Key  string // dotted, "" for a syntax error
	Msg  string
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	if e.Key != "" {
		b.WriteString(": " + e.Key)
	}
	b.WriteString(": " + e.Msg)
	return b.String()
}

// File is a file's content; Name only names it in errors.
type File struct {
	Name string
	Data []byte
}

// Parse decodes files one over the other, completes and validates what comes of it:
// a key of a later file replaces an earlier one's, an array whole. All errors found
// are joined, each an *Error.
func Parse(files ...File) (Config, error) {
	c := Default()
	var errs []error
	for _, f := range files {
		if len(f.Data) > MaxSize {
			errs = append(errs, &Error{File: f.Name, Msg: fmt.Sprintf("larger than %d bytes", MaxSize)})
		} else if err := toml.NewDecoder(bytes.NewReader(f.Data)).DisallowUnknownFields().Decode(&c); err != nil {
			errs = append(errs, decodeErrors(f.Name, err))
		}
	}
	if len(errs) > 0 {
		return Config{}, errors.Join(errs...)
	}
	// A [runtimes.x] table must not take the built-in one away.
	if _, ok := c.Runtimes["strake"]; !ok {
		c.Runtimes["strake"] = Runtime{Type: "strake"}
	}
	problems := c.validate()
	if len(problems) == 0 {
		return c, nil
	}
	where := newIndex(files)
	for _, p := range problems {
		file, line := where.of(p.key)
		errs = append(errs, &Error{File: file, Line: line, Key: p.key, Msg: p.msg})
	}
	return Config{}, errors.Join(errs...)
}

// TOML is the whole configuration as a file that Parse reads.
func (c Config) TOML() ([]byte, error) { return toml.Marshal(c) }

// Validate checks a Config whose fields flags have changed since Parse.
func (c Config) Validate() error {
	var errs []error
	for _, p := range c.validate() {
		errs = append(errs, &Error{File: "configuration", Key: p.key, Msg: p.msg})
	}
	return errors.Join(errs...)
}

// decodeErrors turns the TOML library's errors into ours.
func decodeErrors(file string, err error) error {
	var missing *toml.StrictMissingError
	if errors.As(err, &missing) {
		var errs []error
		for i := range missing.Errors {
			e := &missing.Errors[i]
			line, _ := e.Position()
			errs = append(errs, &Error{File: file, Line: line, Key: strings.Join(e.Key(), "."), Msg: "unknown key"})
		}
		return errors.Join(errs...)
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		return &Error{File: file, Line: line, Key: strings.Join(wrong.Key(), "."), Msg: decodeMessage(wrong.Error())}
	}
	return &Error{File: file, Msg: err.Error()}
}

var wrongType = regexp.MustCompile(`^cannot decode TOML (.+) into .*?([^ ]+)$`)

// decodeMessage says in TOML's words what the library says in Go's.
func decodeMessage(msg string) string {
	msg = strings.TrimPrefix(msg, "toml: ")
	m := wrongType.FindStringSubmatch(msg)
	if m == nil {
		return msg
	}
	due := "a table"
	switch typ := m[2]; {
	case typ == "string":
		due = "a string in quotes"
	case strings.HasPrefix(typ, "[]"):
		due = "an array"
	}
	return fmt.Sprintf("this is %s, not %s", m[1], due)
}

// problem is a value that cannot be used; key is dotted.
type problem struct{ key, msg string }

// maxSocketPath is sun_path without its terminating zero, less what the atomic
// replacement of a stale socket appends.
const maxSocketPath = 107 - len(".new")

func (c Config) validate() []problem {
	var ps []problem
	bad := func(key, format string, args ...any) {
		ps = append(ps, problem{key, fmt.Sprintf(format, args...)})
	}
	absolute := func(key, p string) {
		if !path.IsAbs(p) || path.Clean(p) != p || p == "/" || strings.ContainsRune(p, 0) {
			bad(key, "%q is not a clean absolute path", p)
		}
	}
	absolute("root", c.Root)
	absolute("state", c.State)
	absolute("address", c.Address)
	if len(c.Address) > maxSocketPath {
		bad("address", "%d bytes long: a unix socket's path has at most %d", len(c.Address), maxSocketPath)
	}
	oneOf := func(key, value string, values ...string) {
		if !slices.Contains(values, value) {
			bad(key, "%q is not one of %s", value, strings.Join(values, ", "))
		}
	}
	oneOf("log_level", c.LogLevel, "debug", "info", "warn", "error")
	oneOf("log_format", c.LogFormat, "text", "json")
	oneOf("cgroup_driver", c.CgroupDriver, "cgroupfs", "systemd")
	oneOf("images.driver", c.Images.Driver, "auto", "overlay", "overlay-userxattr", "btrfs", "copy")
	for key, n := range map[string]int64{
		"images.max_layer_bytes": c.Images.MaxLayerBytes, "images.max_layer_entries": c.Images.MaxLayerEntries,
		"images.max_layer_ratio": c.Images.MaxLayerRatio, "images.max_layer_holes": c.Images.MaxLayerHoles,
	} {
		most := int64(maxLayerLimit)
		if key == "images.max_layer_ratio" {
			most = maxLayerRatio
		}
		if n < 1 || n > most {
			bad(key, "%d is not between 1 and %d", n, most)
		}
	}
	absolute("cni.conf_dir", c.CNI.ConfDir)
	for _, d := range c.CNI.BinDirs {
		absolute("cni.bin_dirs", d)
	}
	if n := c.CNI.Networks; n < 1 || n > maxNetworks {
		bad("cni.networks", "%d is not between 1 and %d", n, maxNetworks)
	}
	if n := len(c.Network.Bridge); n == 0 || n > 15 || strings.ContainsAny(c.Network.Bridge, "/: \t\n\x00") {
		bad("network.bridge", "%q is not an interface name (1 to 15 bytes, no slash, colon or space)", c.Network.Bridge)
	}
	families := map[bool]bool{}
	for _, text := range c.Network.Subnets {
		subnet, err := netip.ParsePrefix(text)
		switch v4 := subnet.Addr().Is4(); {
		case err != nil:
			bad("network.subnets", "%q is not a subnet such as 10.190.0.0/16", text)
		case subnet.Masked() != subnet:
			bad("network.subnets", "%q has bits set behind its length; did you mean %s?", text, subnet.Masked())
		case subnet.Addr().BitLen()-subnet.Bits() < 3:
			bad("network.subnets", "%q has no room for pods: leave at least three bits", text)
		case families[v4]:
			bad("network.subnets", "%q is the second of its address family", text)
		default:
			families[v4] = true
		}
	}
	if c.Registry.ConfigPath != "" {
		for tree := range strings.SplitSeq(c.Registry.ConfigPath, ":") {
			absolute("registry.config_path", tree)
		}
	}
	for key, p := range map[string]string{
		"registry.registries_conf": c.Registry.RegistriesConf, "images.signature_policy": c.Images.SignaturePolicy,
		"images.registries_d": c.Images.RegistriesD, "images.namespace_policies": c.Images.NamespacePolicies,
	} {
		if p != "" {
			absolute(key, p)
		}
	}
	for _, d := range c.CDI.SpecDirs {
		absolute("cdi.spec_dirs", d)
	}
	if c.NRI.Socket != "" {
		absolute("nri.socket", c.NRI.Socket)
	}
	absolute("nri.plugin_dir", c.NRI.PluginDir)
	absolute("nri.plugin_config_dir", c.NRI.PluginConfigDir)
	for key, text := range map[string]string{"nri.registration_timeout": c.NRI.RegistrationTimeout, "nri.request_timeout": c.NRI.RequestTimeout} {
		if d, err := time.ParseDuration(text); err != nil || d <= 0 {
			bad(key, "%q is not a time such as 2s", text)
		}
	}
	for _, d := range c.HooksDirs {
		absolute("hooks_dirs", d)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Workloads)) {
		if c.Workloads[name].ActivationAnnotation == "" {
			bad("workloads."+name+".activation_annotation", "is empty: say which pods it is for")
		}
	}
	c.validateRuntimes(bad, absolute)
	c.validateServers(bad, absolute)
	if c.Monitor.Pods < 1 || c.Monitor.Pods > maxMonitorPods {
		bad("monitor.pods", "%d is not between 1 and %d", c.Monitor.Pods, maxMonitorPods)
	}
	if c.ContainerLog.MaxBytes < 0 || c.ContainerLog.MaxBytes > 0 && c.ContainerLog.MaxBytes < minLogBytes {
		bad("container_log.max_bytes", "%d is not 0, for no limit, or at least %d", c.ContainerLog.MaxBytes, minLogBytes)
	}
	if _, err := logdriver.Parse(c.ContainerLog.Driver, nil); err != nil {
		bad("container_log.driver", "%v", err)
	} else if _, err := logdriver.Parse(c.ContainerLog.Driver, c.ContainerLog.Options); err != nil {
		bad("container_log.options", "%v", err)
	}
	if c.Metrics.Address != "" {
		if _, err := netip.ParseAddrPort(c.Metrics.Address); err != nil {
			bad("metrics.address", "%q is not IP:PORT, such as 127.0.0.1:9090", c.Metrics.Address)
		}
	}
	c.validateTracing(bad, oneOf)
	return ps
}

func (c Config) validateTracing(bad func(key, format string, args ...any), oneOf func(key, value string, values ...string)) {
	t := c.Tracing
	u, err := url.Parse(t.Endpoint)
	switch {
	case t.Endpoint == "":
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		bad("tracing.endpoint", "%q is not like http://127.0.0.1:4317, or https", t.Endpoint)
	case t.Protocol == "grpc" && strings.Trim(u.Path, "/") != "":
		bad("tracing.endpoint", "%q has a path, which only protocol http/protobuf has", t.Endpoint)
	}
	oneOf("tracing.protocol", t.Protocol, tracingProtocols...)
	if n := t.SamplesPerMillion; n < 0 || n > 1_000_000 {
		bad("tracing.samples_per_million", "%d is not between 0 and 1000000", n)
	}
}

func (c Config) validateServers(bad func(key, format string, args ...any), absolute func(key, p string)) {
	files := func(key string, t TLS) {
		for name, p := range map[string]string{"cert": t.Cert, "key": t.Key, "client_ca": t.ClientCA} {
			if p != "" {
				absolute(key+"."+name, p)
			}
		}
		switch {
		case t.Cert != "" && t.Key == "":
			bad(key+".key", "is missing: the key of cert")
		case t.Cert == "" && (t.Key != "" || t.ClientCA != ""):
			bad(key+".cert", "is missing: without a certificate there is no TLS")
		}
	}
	files("stream.tls", c.Stream.TLS)
	switch at, err := netip.ParseAddrPort(c.Stream.Address); {
	case err != nil:
		bad("stream.address", "%q is not IP:PORT, such as 127.0.0.1:0", c.Stream.Address)
	case at.Addr().IsUnspecified():
		bad("stream.address", "%q is not one address: callers are told to come to it", c.Stream.Address)
	case !at.Addr().IsLoopback() && c.Stream.TLS.Cert == "": // their address is the sessions' key
		bad("stream.address", "%q is not on loopback, and sessions are not encrypted: set [stream.tls] cert and key, or use 127.0.0.1:0", c.Stream.Address)
	}
	files("grpc.tls", c.GRPC.TLS)
	if c.GRPC.TCPAddress == "" {
		if c.GRPC.TLS != (TLS{}) {
			bad("grpc.tls", "there is no grpc.tcp_address that it could be for")
		}
		return
	}
	if at, err := netip.ParseAddrPort(c.GRPC.TCPAddress); err != nil || at.Port() == 0 {
		bad("grpc.tcp_address", "%q is not IP:PORT, such as 10.0.0.1:7443", c.GRPC.TCPAddress)
	}
	if c.GRPC.TLS.Cert == "" || c.GRPC.TLS.ClientCA == "" { // who may call may do all that root may
		bad("grpc.tcp_address", "needs [grpc.tls] cert, key and client_ca: only clients with a certificate are served")
	}
}

func (c Config) validateRuntimes(bad func(key, format string, args ...any), absolute func(key, p string)) {
	for _, name := range slices.Sorted(maps.Keys(c.Runtimes)) {
		rt, key := c.Runtimes[name], "runtimes."+name
		if !validName(name) {
			bad(key, "not a runtime name: small letters, digits, dash and dot, at most 63")
		}
		if rt.Path != "" {
			absolute(key+".path", rt.Path)
		}
		if rt.SeccompProfile != "" {
			absolute(key+".seccomp_profile", rt.SeccompProfile)
		}
		switch rt.Type {
		case "strake":
		case "oci":
			if rt.Path == "" {
				bad(key+".path", "is missing: the OCI runtime's program, such as /usr/bin/crun")
			}
		case "shim":
			rt.validateShim(key, bad)
		default:
			bad(key+".type", `%q is not one of strake, oci, shim`, rt.Type)
		}
		// A key that its type has no use for would be silently without effect.
		if rt.Type != "shim" && rt.RuntimeType != "" {
			bad(key+".runtime_type", "only type shim has it")
		}
		if rt.Type != "shim" && rt.Sandboxer != "" {
			bad(key+".sandboxer", "only type shim has it")
		}
		if rt.Type != "oci" && len(rt.Args) > 0 {
			bad(key+".args", "only type oci has it")
		}
		for _, a := range rt.AllowedAnnotations {
			if !slices.Contains(annotation.Notifier, a) {
				bad(key+".allowed_annotations", "%q is not one of %s", a, strings.Join(annotation.Notifier, ", "))
			} else if rt.Type != "strake" {
				bad(key+".allowed_annotations", "%q: only type strake has it", a)
			}
		}
		if rt.Type != "shim" {
			for _, option := range slices.Sorted(maps.Keys(rt.Options)) {
				bad(key+".options."+option, "unknown option: type %q has none", rt.Type)
			}
		}
	}
	if _, ok := c.Runtimes[c.DefaultRuntime]; !ok {
		bad("default_runtime", "there is no [runtimes.%s]", c.DefaultRuntime)
	}
}

// shimOptions are those of a shim: of the one message, or of the other.
var (
	genericOptions = []string{"type_url", "config_path", "config_body"}
	runcOptions    = []string{"binary_name", "root", "shim_cgroup", "systemd_cgroup", "no_pivot_root", "no_new_keyring"}
)

func (rt *Runtime) validateShim(key string, bad func(key, format string, args ...any)) {
	switch {
	case rt.Path == "" && rt.RuntimeType == "":
		bad(key+".path", "is missing: the shim's program, or runtime_type, such as io.containerd.runsc.v1")
	case rt.Path != "" && rt.RuntimeType != "":
		bad(key+".runtime_type", "path says which program: leave one out")
	case rt.RuntimeType != "" && ShimProgram(rt.RuntimeType) == "":
		bad(key+".runtime_type", "%q is not like io.containerd.runsc.v1, which means containerd-shim-runsc-v1", rt.RuntimeType)
	}
	if rt.Sandboxer != "" && rt.Sandboxer != "podsandbox" && rt.Sandboxer != "shim" {
		bad(key+".sandboxer", "%q is not one of podsandbox, shim", rt.Sandboxer)
	}
	generic := 0
	for _, option := range slices.Sorted(maps.Keys(rt.Options)) {
		if slices.Contains(genericOptions, option) {
			generic++
		} else if !slices.Contains(runcOptions, option) {
			bad(key+".options."+option, "unknown option: there are %s, or %s", strings.Join(genericOptions, ", "), strings.Join(runcOptions, ", "))
		}
	}
	if generic > 0 && generic < len(rt.Options) {
		bad(key+".options", "%s are for one kind of shim and %s for another: choose", strings.Join(genericOptions, ", "), strings.Join(runcOptions, ", "))
	}
}

// ShimProgram is the name of the program that a runtime type means, as containerd has
// it: io.containerd.runsc.v1 is containerd-shim-runsc-v1. It is "" for what is none.
func ShimProgram(runtimeType string) string {
	parts := strings.Split(runtimeType, ".")
	if len(parts) < 2 || slices.Contains(parts, "") || strings.ContainsAny(runtimeType, "/ \x00") {
		return ""
	}
	return "containerd-shim-" + parts[len(parts)-2] + "-" + parts[len(parts)-1]
}

// validName reports whether s can name a runtime handler: Kubernetes takes it
// as a DNS label in RuntimeClass.handler; dots are harmless.
func validName(s string) bool {
	if s == "" || len(s) > 63 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' && r != '.'
	})
}
