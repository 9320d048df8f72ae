package nri

import (
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// editor changes a spec as the library asks for it.
type editor struct{ spec *specs.Spec }

func (e editor) Spec() *specs.Spec { return e.spec }

func (e editor) process() *specs.Process {
	if e.spec.Process == nil {
		e.spec.Process = &specs.Process{}
	}
	return e.spec.Process
}

func (e editor) hooks() *specs.Hooks {
	if e.spec.Hooks == nil {
		e.spec.Hooks = &specs.Hooks{}
	}
	return e.spec.Hooks
}

func (e editor) linux() *specs.Linux {
	if e.spec.Linux == nil {
		e.spec.Linux = &specs.Linux{}
	}
	return e.spec.Linux
}

func (e editor) resources() *specs.LinuxResources {
	l := e.linux()
	if l.Resources == nil {
		l.Resources = &specs.LinuxResources{}
	}
	return l.Resources
}

func (e editor) cpu() *specs.LinuxCPU {
	r := e.resources()
	if r.CPU == nil {
		r.CPU = &specs.LinuxCPU{}
	}
	return r.CPU
}

func (e editor) memory() *specs.LinuxMemory {
	r := e.resources()
	if r.Memory == nil {
		r.Memory = &specs.LinuxMemory{}
	}
	return r.Memory
}

func put(m *map[string]string, key, value string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[key] = value
}

func (e editor) AddAnnotation(key, value string)  { put(&e.spec.Annotations, key, value) }
func (e editor) RemoveAnnotation(key string)      { delete(e.spec.Annotations, key) }
func (e editor) AddLinuxSysctl(key, value string) { put(&e.linux().Sysctl, key, value) }
func (e editor) RemoveLinuxSysctl(key string)     { delete(e.linux().Sysctl, key) }

func (e editor) AddDevice(d specs.LinuxDevice) {
	e.RemoveDevice(d.Path)
	e.linux().Devices = append(e.linux().Devices, d)
}

func (e editor) RemoveDevice(path string) {
	e.linux().Devices = slices.DeleteFunc(e.linux().Devices, func(d specs.LinuxDevice) bool { return d.Path == path })
}

func (e editor) AddOrReplaceLinuxNamespace(kind, path string) error {
	if err := e.RemoveLinuxNamespace(kind); err != nil {
		return err
	}
	e.linux().Namespaces = append(e.linux().Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(kind), Path: path})
	return nil
}

var namespaceKinds = []specs.LinuxNamespaceType{specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
	specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace}

func (e editor) RemoveLinuxNamespace(kind string) error {
	if !slices.Contains(namespaceKinds, specs.LinuxNamespaceType(kind)) {
		return fmt.Errorf("linux.namespaces: %q is no kind of namespace", kind)
	}
	e.linux().Namespaces = slices.DeleteFunc(e.linux().Namespaces, func(n specs.LinuxNamespace) bool { return string(n.Type) == kind })
	return nil
}

func (e editor) AddPreStartHook(h specs.Hook) {
	e.hooks().Prestart = append(e.hooks().Prestart, h) //nolint:staticcheck // deprecated, yet asked for
}
func (e editor) AddPostStartHook(h specs.Hook) { e.hooks().Poststart = append(e.hooks().Poststart, h) }
func (e editor) AddPostStopHook(h specs.Hook)  { e.hooks().Poststop = append(e.hooks().Poststop, h) }

func (e editor) AddProcessEnv(name, value string) {
	p := e.process()
	at := slices.IndexFunc(p.Env, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	if at >= 0 {
		p.Env[at] = name + "=" + value
		return
	}
	p.Env = append(p.Env, name+"="+value)
}
func (e editor) ClearProcessEnv()             { e.process().Env = nil }
func (e editor) SetProcessArgs(args []string) { e.process().Args = args }
func (e editor) SetProcessOOMScoreAdj(n int)  { e.process().OOMScoreAdj = &n }

func (e editor) AddMount(m specs.Mount) { e.spec.Mounts = append(e.spec.Mounts, m) }
func (e editor) RemoveMount(at string) {
	e.spec.Mounts = slices.DeleteFunc(e.spec.Mounts, func(m specs.Mount) bool { return m.Destination == at })
}
func (e editor) ClearMounts()          { e.spec.Mounts = nil }
func (e editor) Mounts() []specs.Mount { return e.spec.Mounts }

func (e editor) SetLinuxCgroupsPath(path string) { e.linux().CgroupsPath = path }
func (e editor) SetLinuxRootPropagation(p string) error {
	e.linux().RootfsPropagation = p
	return nil
}

func (e editor) AddLinuxResourcesDevice(allow bool, kind string, major, minor *int64, access string) {
	e.resources().Devices = append(e.resources().Devices, specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: major, Minor: minor, Access: access})
}

func (e editor) AddLinuxResourcesHugepageLimit(size string, limit uint64) {
	r := e.resources()
	r.HugepageLimits = slices.DeleteFunc(r.HugepageLimits, func(h specs.LinuxHugepageLimit) bool { return h.Pagesize == size })
	r.HugepageLimits = append(r.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: limit})
}

func (e editor) AddLinuxResourcesUnified(key, value string)  { put(&e.resources().Unified, key, value) }
func (e editor) SetLinuxResourcesCPUCpus(cpus string)        { e.cpu().Cpus = cpus }
func (e editor) SetLinuxResourcesCPUMems(mems string)        { e.cpu().Mems = mems }
func (e editor) SetLinuxResourcesCPUPeriod(v uint64)         { e.cpu().Period = &v }
func (e editor) SetLinuxResourcesCPUQuota(v int64)           { e.cpu().Quota = &v }
func (e editor) SetLinuxResourcesCPURealtimePeriod(v uint64) { e.cpu().RealtimePeriod = &v }
func (e editor) SetLinuxResourcesCPURealtimeRuntime(v int64) { e.cpu().RealtimeRuntime = &v }
func (e editor) SetLinuxResourcesCPUShares(v uint64)         { e.cpu().Shares = &v }
func (e editor) SetLinuxResourcesMemoryLimit(v int64)        { e.memory().Limit = &v }
func (e editor) SetLinuxResourcesMemorySwap(v int64)         { e.memory().Swap = &v }
