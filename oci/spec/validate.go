package spec

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
)

// checker collects the first error with the path of its field.
type checker struct {
	err        error
	domainname string // the config's
}

func (c *checker) bad(field, format string, args ...any) {
	if c.err == nil {
		c.err = fmt.Errorf("%s: %w: %s", field, ErrInvalid, fmt.Sprintf(format, args...))
	}
}

func (c *checker) unsupported(field string, is bool) {
	if is && c.err == nil {
		c.err = fmt.Errorf("%s: %w", field, ErrUnsupported)
	}
}

func (c *checker) text(field, s string) {
	if strings.IndexByte(s, 0) >= 0 {
		c.bad(field, "contains a NUL byte")
	}
}

func (c *checker) abs(field, p string) {
	c.text(field, p)
	if !path.IsAbs(p) {
		c.bad(field, "%q is not an absolute path", p)
	}
}

// textAt and absAt are text and abs for a member of an entry of a list, which they put
// into words only if something is wrong with it: a config has a hundred of them.
func (c *checker) textAt(list string, i int, member, s string) {
	if strings.IndexByte(s, 0) >= 0 {
		c.text(index(list, i)+member, s)
	}
}

func (c *checker) absAt(list string, i int, member, p string) {
	if strings.IndexByte(p, 0) >= 0 || !path.IsAbs(p) {
		c.abs(index(list, i)+member, p)
	}
}

func index(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

// Validate checks a config that Default has completed.
func Validate(s *specs.Spec) error {
	c := &checker{domainname: s.Domainname}
	c.version(s.Version)
	c.unsupported("solaris", s.Solaris != nil)
	c.unsupported("windows", s.Windows != nil)
	c.unsupported("vm", s.VM != nil)
	c.unsupported("zos", s.ZOS != nil)
	c.unsupported("freebsd", s.FreeBSD != nil)
	if s.Root == nil || s.Root.Path == "" {
		c.bad("root.path", "is missing")
		return c.err
	}
	c.text("root.path", s.Root.Path)
	c.process("process", s.Process)
	c.namespaces(s)
	c.mounts(s)
	c.linux(s)
	c.hooks(s.Hooks)
	return c.err
}

// ValidateIntelRdt checks classes of service that a container is to have from now on.
func ValidateIntelRdt(r *specs.LinuxIntelRdt) error {
	c := &checker{}
	c.intelRdt(r)
	return c.err
}

// ValidateProcess checks a process to be added to a container.
func ValidateProcess(p *specs.Process) error {
	c := &checker{}
	c.process("process", p)
	return c.err
}

func (c *checker) version(v string) {
	if v == "" {
		c.bad("ociVersion", "is missing")
		return
	}
	major, _, _ := strings.Cut(v, ".")
	if major != "1" {
		c.bad("ociVersion", "%q: only 1.x is known", v)
	}
}

func (c *checker) process(f string, p *specs.Process) {
	if len(p.Args) == 0 || p.Args[0] == "" {
		c.bad(f+".args", "must name a program")
		return
	}
	args, env := f+".args", f+".env"
	for i, a := range p.Args {
		c.textAt(args, i, "", a)
	}
	for i, e := range p.Env {
		c.textAt(env, i, "", e)
	}
	c.abs(f+".cwd", p.Cwd)
	seen := map[string]bool{}
	for i, l := range p.Rlimits {
		fi := index(f+".rlimits", i)
		if !slices.Contains(abi.Rlimits, l.Type) {
			c.bad(fi+".type", "unknown resource %q", l.Type)
		}
		if seen[l.Type] {
			c.bad(fi+".type", "%s is there twice", l.Type)
		}
		seen[l.Type] = true
		if l.Soft > l.Hard {
			c.bad(fi, "soft limit %d is above the hard limit %d", l.Soft, l.Hard)
		}
	}
	if p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000) {
		c.bad(f+".oomScoreAdj", "%d is not between -1000 and 1000", *p.OOMScoreAdj)
	}
	if p.User.Umask != nil && *p.User.Umask > 0o777 {
		c.bad(f+".user.umask", "%#o is not a umask", *p.User.Umask)
	}
	c.text(f+".apparmorProfile", p.ApparmorProfile)
	c.text(f+".selinuxLabel", p.SelinuxLabel)
	if caps := p.Capabilities; caps != nil {
		c.capabilities(f+".capabilities", caps)
	}
}

func (c *checker) capabilities(f string, caps *specs.LinuxCapabilities) {
	for _, name := range caps.Effective {
		if !slices.Contains(caps.Permitted, name) {
			c.bad(f+".effective", "%s must be permitted too", name)
		}
	}
}

var namespaceTypes = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
	specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

func (c *checker) namespaces(s *specs.Spec) {
	have, joined := map[specs.LinuxNamespaceType]bool{}, map[specs.LinuxNamespaceType]bool{}
	newUser := false
	for i, n := range s.Linux.Namespaces {
		if !slices.Contains(namespaceTypes, n.Type) {
			c.bad(index("linux.namespaces", i)+".type", "unknown namespace %q", n.Type)
		}
		if have[n.Type] {
			c.bad(index("linux.namespaces", i)+".type", "%s is there twice", n.Type)
		}
		have[n.Type] = true
		if n.Path != "" {
			c.absAt("linux.namespaces", i, ".path", n.Path)
			joined[n.Type] = true
		}
		newUser = newUser || n.Type == specs.UserNamespace && n.Path == ""
	}
	if s.Hostname != "" && !have[specs.UTSNamespace] {
		c.bad("hostname", "needs a UTS namespace")
	}
	if s.Domainname != "" && !have[specs.UTSNamespace] {
		c.bad("domainname", "needs a UTS namespace")
	}
	c.text("hostname", s.Hostname)
	c.text("domainname", s.Domainname)
	lx := s.Linux
	if newUser && (len(lx.UIDMappings) == 0 || len(lx.GIDMappings) == 0) {
		c.bad("linux.uidMappings", "a new user namespace needs uidMappings and gidMappings")
	}
	if !have[specs.UserNamespace] && len(lx.UIDMappings)+len(lx.GIDMappings) > 0 {
		c.bad("linux.uidMappings", "needs a user namespace")
	}
	c.mappings("linux.uidMappings", lx.UIDMappings)
	c.mappings("linux.gidMappings", lx.GIDMappings)
	if len(lx.TimeOffsets) > 0 && !have[specs.TimeNamespace] {
		c.bad("linux.timeOffsets", "needs a time namespace")
	}
	if len(lx.TimeOffsets) > 0 && joined[specs.TimeNamespace] {
		c.bad("linux.timeOffsets", "cannot change a time namespace that is joined")
	}
	for clock := range lx.TimeOffsets {
		if clock != "monotonic" && clock != "boottime" {
			c.bad("linux.timeOffsets."+clock, "is not monotonic or boottime")
		}
	}
	c.sysctls(lx.Sysctl, have)
	if len(lx.NetDevices) > 0 && !have[specs.NetworkNamespace] {
		c.bad("linux.netDevices", "needs a network namespace")
	}
	for name, d := range lx.NetDevices {
		f := "linux.netDevices[" + name + "]"
		c.deviceName(f, name)
		if d.Name != "" {
			c.deviceName(f+".name", d.Name)
		}
	}
}

// maxDeviceName is IFNAMSIZ with its NUL.
const maxDeviceName = 15

// deviceName lets through what the kernel takes for a network device's name.
func (c *checker) deviceName(f, name string) {
	if name == "" || len(name) > maxDeviceName || name == "." || name == ".." || strings.ContainsAny(name, "/: \t\n\v\f\r\x00") {
		c.bad(f, "%q is not the name of a network device", name)
	}
}

// maxMappings is the kernel's limit (user_namespaces(7)).
const maxMappings = 340

func (c *checker) mappings(f string, m []specs.LinuxIDMapping) {
	if len(m) > maxMappings {
		c.bad(f, "%d entries, the kernel takes %d", len(m), maxMappings)
	}
	for i, e := range m {
		if e.Size == 0 {
			c.bad(index(f, i)+".size", "is 0")
		}
		if uint64(e.ContainerID)+uint64(e.Size) > 1<<32 || uint64(e.HostID)+uint64(e.Size) > 1<<32 {
			c.bad(index(f, i), "goes beyond the largest id")
		}
	}
}

// SysctlPath is the path of a sysctl below /proc/sys. Its separators are what its
// name has first: slashes, or dots, between which a slash stands for a dot
// (sysctl.d(5)).
func SysctlPath(key string) string {
	if i := strings.IndexAny(key, "./"); i < 0 || key[i] == '/' {
		return key
	}
	return strings.NewReplacer(".", "/", "/", ".").Replace(key)
}

// ipcSysctls belong to the IPC namespace.
var ipcSysctls = []string{"kernel/msgmax", "kernel/msgmnb", "kernel/msgmni", "kernel/sem", "kernel/shmall",
	"kernel/shmmax", "kernel/shmmni", "kernel/shm_rmid_forced"}

// sysctls lets through those that belong to a namespace that the container has:
// all others would change the host.
func (c *checker) sysctls(m map[string]string, have map[specs.LinuxNamespaceType]bool) {
	for key, value := range m {
		f := "linux.sysctl[" + key + "]"
		c.text(f, key)
		c.text(f, value)
		file := SysctlPath(key)
		if path.Clean("/"+file) != "/"+file {
			c.bad(f, "is not a sysctl's name")
		}
		var ns specs.LinuxNamespaceType
		switch {
		case slices.Contains(ipcSysctls, file) || strings.HasPrefix(file, "fs/mqueue/"):
			ns = specs.IPCNamespace
		case strings.HasPrefix(file, "net/"):
			ns = specs.NetworkNamespace
		case file == "kernel/hostname":
			c.bad(f, "conflicts with the field hostname: use that")
			continue
		case file == "kernel/domainname" && c.domainname != "" && c.domainname != value:
			c.bad(f, "conflicts with the field domainname: leave one out")
			continue
		case file == "kernel/domainname":
			ns = specs.UTSNamespace
		case strings.HasPrefix(file, "user/"):
			ns = specs.UserNamespace
		default:
			c.bad(f, "belongs to no namespace: it would change the host")
			continue
		}
		if !have[ns] {
			c.bad(f, "needs a %s namespace: it would change the host", ns)
		}
	}
}

func (c *checker) mounts(s *specs.Spec) {
	for i, m := range s.Mounts {
		c.textAt("mounts", i, ".destination", m.Destination)
		if m.Destination == "" {
			c.bad(index("mounts", i)+".destination", "is missing")
		}
		c.textAt("mounts", i, ".source", m.Source)
		bind := m.Type == "bind" || m.Type == "rbind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		if bind && m.Source == "" {
			c.bad(index("mounts", i)+".source", "is missing")
		}
		if !bind && m.Type == "" {
			c.bad(index("mounts", i)+".type", "is missing")
		}
		for _, o := range m.Options {
			c.textAt("mounts", i, ".options", o)
		}
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			c.mappings(index("mounts", i)+".uidMappings", m.UIDMappings)
			c.mappings(index("mounts", i)+".gidMappings", m.GIDMappings)
		}
	}
}

func (c *checker) linux(s *specs.Spec) {
	lx := s.Linux
	c.text("linux.cgroupsPath", lx.CgroupsPath)
	c.intelRdt(lx.IntelRdt)
	c.text("linux.mountLabel", lx.MountLabel)
	if sc := lx.Seccomp; sc != nil {
		c.text("linux.seccomp.listenerPath", sc.ListenerPath)
		if sc.ListenerMetadata != "" && sc.ListenerPath == "" {
			c.bad("linux.seccomp.listenerMetadata", "needs listenerPath")
		}
	}
	for i, p := range lx.MaskedPaths {
		c.absAt("linux.maskedPaths", i, "", p)
	}
	for i, p := range lx.ReadonlyPaths {
		c.absAt("linux.readonlyPaths", i, "", p)
	}
	for i, d := range lx.Devices {
		c.absAt("linux.devices", i, ".path", d.Path)
		if !slices.Contains([]string{"c", "u", "b", "p"}, d.Type) {
			c.bad(index("linux.devices", i)+".type", "%q is not c, u, b or p", d.Type)
		}
		if d.Type != "p" && (d.Major < 0 || d.Minor < 0 || d.Major > 0xfff || d.Minor > 0xfffff) {
			c.bad(index("linux.devices", i), "device number %d:%d", d.Major, d.Minor)
		}
	}
	if lx.Personality != nil {
		if d := lx.Personality.Domain; d != specs.PerLinux && d != specs.PerLinux32 {
			c.bad("linux.personality.domain", "%q is not LINUX or LINUX32", d)
		}
		c.unsupported("linux.personality.flags", len(lx.Personality.Flags) > 0)
	}
}

func (c *checker) intelRdt(r *specs.LinuxIntelRdt) {
	if r == nil {
		return
	}
	f := "linux.intelRdt"
	id := r.ClosID
	if id == "." || id == ".." || id == "info" || id == "mon_groups" || id == "mon_data" || id != "/" && strings.ContainsAny(id, "/\n\x00") {
		c.bad(f+".closID", "%q is not the name of a class of service", id)
	}
	line := func(f, s, prefix string) {
		if strings.ContainsAny(s, "\n\x00") {
			c.bad(f, "is more than a line")
		}
		if s != "" && !strings.HasPrefix(s, prefix) {
			c.bad(f, "does not start with %s", prefix)
		}
	}
	line(f+".l3CacheSchema", r.L3CacheSchema, "L3:")
	line(f+".memBwSchema", r.MemBwSchema, "MB:")
	for i, s := range r.Schemata {
		line(index(f+".schemata", i), s, "")
		if s == "" {
			c.bad(index(f+".schemata", i), "is empty")
		}
	}
}

func (c *checker) hooks(h *specs.Hooks) {
	if h == nil {
		return
	}
	for _, set := range []struct {
		name  string
		hooks []specs.Hook
	}{
		{"prestart", h.Prestart}, {"createRuntime", h.CreateRuntime}, {"createContainer", h.CreateContainer}, //nolint:staticcheck // prestart is deprecated, but used
		{"startContainer", h.StartContainer}, {"poststart", h.Poststart}, {"poststop", h.Poststop},
	} {
		for i, hook := range set.hooks {
			f := index("hooks."+set.name, i)
			c.abs(f+".path", hook.Path)
			for _, a := range append(slices.Clone(hook.Args), hook.Env...) {
				c.text(f, a)
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				c.bad(f+".timeout", "must be above 0")
			}
		}
	}
}
