package plan

import (
	"encoding/binary"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/abi"
	"github.com/strake-containers/strake/oci/seccomp"
)

func itoa(i int) string     { return strconv.Itoa(i) }
func i64toa(i int64) string { return strconv.FormatInt(i, 10) }
func utoa(u uint32) string  { return strconv.FormatUint(uint64(u), 10) }

// process compiles what the process is, up to where only its program is missing:
// labels, limits, user, capabilities, directory, descriptors.
func (b *builder) process() error {
	p := b.spec.Process
	if err := b.labels(p); err != nil {
		return err
	}
	if err := b.scheduling(p); err != nil {
		return err
	}
	b.env = environment(p.Env)
	if !slices.ContainsFunc(b.env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		b.at("process.user.uid", "home directory")
		b.op(Op{Do: OpHome, A: uint64(p.User.UID)})
	}
	stdio, err := b.stdio(p)
	if err != nil {
		return err
	}
	if err := b.limits(p); err != nil {
		return err
	}
	return b.credentials(p, stdio)
}

// environment leaves out what is set again later, since programs differ in which
// of two values they take, and an empty HOME, which is as good as none.
func environment(env []string) []string {
	last := make(map[string]int, len(env))
	for i, e := range env {
		name, _, _ := strings.Cut(e, "=")
		last[name] = i
	}
	out := make([]string, 0, len(env))
	for i, e := range env {
		if name, _, _ := strings.Cut(e, "="); last[name] == i && e != "HOME=" {
			out = append(out, e)
		}
	}
	return out
}

// labels asks the security modules for the label to take at execve.
func (b *builder) labels(p *specs.Process) error {
	if p.ApparmorProfile != "" {
		b.at("process.apparmorProfile", p.ApparmorProfile)
		b.seal("takes effect at the next execve")
		if !b.host.AppArmor {
			return b.unsupported("AppArmor is not enabled on this host: a profile")
		}
		attr := "self/attr/apparmor/exec"
		if !b.host.AtLeast(5, 8) {
			attr = "self/attr/exec"
		}
		b.op(Op{Do: OpWrite, Dir: b.named(InProc), Path: attr, Data: "exec " + p.ApparmorProfile, C: abi.ResolveInRoot})
	}
	if p.SelinuxLabel != "" {
		b.at("process.selinuxLabel", p.SelinuxLabel)
		b.seal("takes effect at the next execve")
		if !b.host.SELinux {
			return b.unsupported("SELinux is not enabled on this host: a label")
		}
		b.op(Op{Do: OpWrite, Dir: b.named(InProc), Path: "self/attr/exec", Data: p.SelinuxLabel, C: abi.ResolveInRoot})
	}
	if b.spec.Linux.MountLabel != "" && !b.host.SELinux {
		b.at("linux.mountLabel", b.spec.Linux.MountLabel)
		return b.unsupported("SELinux is not enabled on this host: a label")
	}
	return nil
}

// stdio compiles the terminal or the plain descriptors and returns the operation
// that puts them in place.
func (b *builder) stdio(p *specs.Process) (Op, error) {
	b.at("process", "standard descriptors")
	o := Op{Do: OpStdio, Field: b.field, Note: b.note}
	if b.console != 0 {
		b.at("process.terminal", "")
		if !b.bornLast {
			b.op(Op{Do: OpCtty, Dir: b.console})
		}
		b.op(Op{Do: OpChownFD, Dir: b.console, A: uint64(p.User.UID)})
		o.Regs = []Reg{b.console, b.console, b.console}
	} else {
		o.Regs = []Reg{b.named(InStdin), b.named(InStdout), b.named(InStderr)}
		for i, own := range b.cfg.OwnStdio {
			if own && p.User.UID != 0 {
				b.op(Op{Do: OpChownFD, Dir: o.Regs[i], A: uint64(p.User.UID), Allow: []int{abi.EPERM, abi.EINVAL, abi.EROFS}})
			}
		}
	}
	for i := range b.cfg.ExtraFiles {
		o.Regs = append(o.Regs, b.input(Input{Kind: InExtra, Index: i}))
	}
	b.Target = len(o.Regs)
	return o, nil
}

// limits compiles resource limits. In a user namespace the parent sets them,
// since raising one takes privilege on the host.
func (b *builder) limits(p *specs.Process) error {
	nofile := false
	var list []Limit
	for i, l := range p.Rlimits {
		b.at("process.rlimits["+itoa(i)+"]", l.Type)
		res := slices.Index(abi.Rlimits, l.Type)
		if res < 0 {
			return b.errorf("unknown resource")
		}
		nofile = nofile || l.Type == "RLIMIT_NOFILE"
		list = append(list, Limit{(&Op{Field: b.field, Note: b.note}).Where(), uint64(res), l.Soft, l.Hard})
	}
	if b.inUser && len(list) > 0 {
		b.at("process.rlimits", "")
		b.Limits = list
		b.op(Op{Do: OpSync, A: SyncLimits})
		list = nil
	}
	for i, l := range list {
		b.at("process.rlimits["+itoa(i)+"]", p.Rlimits[i].Type)
		b.op(Op{Do: OpRlimit, A: l.Resource, B: l.Soft, C: l.Hard})
	}
	if n := b.host.NoFile; !nofile && n.Hard != 0 {
		b.at("process.rlimits", "RLIMIT_NOFILE as inherited")
		b.op(Op{Do: OpRlimit, A: abi.RlimitNofile, B: n.Soft, C: n.Hard})
	}
	return nil
}

// capSets are a process's capability sets as bit masks.
type capSets struct{ bounding, effective, permitted, inheritable, ambient uint64 }

func (b *builder) capabilities(c *specs.LinuxCapabilities) (s capSets) {
	if c == nil {
		return s
	}
	missing := uint64(0)
	for _, set := range []struct {
		name string
		list []string
		mask *uint64
	}{
		{"bounding", c.Bounding, &s.bounding}, {"effective", c.Effective, &s.effective},
		{"permitted", c.Permitted, &s.permitted}, {"inheritable", c.Inheritable, &s.inheritable},
		{"ambient", c.Ambient, &s.ambient},
	} {
		for i, name := range set.list {
			n := slices.Index(abi.Capabilities, name)
			if n < 0 {
				// By the specification that is to be warned of, not refused.
				b.warn("process.capabilities."+set.name+"["+itoa(i)+"]", "unknown capability "+name+" is left out")
				continue
			}
			if !b.inUser && !b.host.has(n) {
				missing |= 1 << n
				continue
			}
			*set.mask |= 1 << n
		}
	}
	// The kernel takes no ambient capability that is not permitted and
	// inheritable; configs that ask for it are too common to refuse.
	ambient := s.ambient & s.permitted & s.inheritable
	for n, name := range abi.Capabilities {
		if missing&(1<<n) != 0 {
			b.warn("process.capabilities", name+" is not among this host's own capabilities and is left out")
		}
		if s.ambient&^ambient&(1<<n) != 0 {
			b.warn("process.capabilities.ambient", "can't raise ambient capability "+name+": it is not both permitted and inheritable")
		}
	}
	s.ambient = ambient
	return s
}

// warn notes a wish that is left out.
func (b *builder) warn(field, what string) {
	b.Warnings = append(b.Warnings, field+": "+what)
}

// credentials compiles the way from root to the process's user, and everything
// that has to be in between.
func (b *builder) credentials(p *specs.Process, stdio Op) error {
	caps := b.capabilities(p.Capabilities)
	filter, err := b.seccompFilter()
	if err != nil {
		return err
	}
	// A filter without no_new_privs takes CAP_SYS_ADMIN, so it goes in before the
	// capabilities go; with it, as late as can be, so that fewer of our own
	// calls have to pass it.
	early := filter != nil && !p.NoNewPrivileges
	const admin = 1 << abi.CapSysAdmin
	b.at("process.capabilities.bounding", "")
	for n := range abi.Capabilities {
		if caps.bounding&(1<<n) == 0 {
			b.op(Op{Do: OpPrctl, A: abi.PrCapbsetDrop, B: uint64(n), Allow: []int{abi.EINVAL}})
		}
	}
	cwd := b.chdir(p)
	b.at("process.user", "")
	b.op(Op{Do: OpPrctl, A: abi.PrSetSecurebits, B: abi.SecbitKeepCaps})
	b.at("process.user.additionalGids", "")
	groups := Op{Do: OpGroups}
	for _, g := range p.User.AdditionalGids {
		groups.Nums = append(groups.Nums, uint64(g))
	}
	if b.inUser && len(groups.Nums) == 0 {
		groups.Allow = []int{abi.EPERM} // setgroups may be denied in the user namespace
	}
	switch {
	case !b.keepsGroups():
		b.op(groups)
	case len(groups.Nums) > 0:
		return b.errorf("are refused by the annotation %s", KeepGroupsAnnotation)
	}
	b.at("process.user.gid", utoa(p.User.GID))
	b.op(Op{Do: OpSetgid, A: uint64(p.User.GID)})
	b.at("process.user.uid", utoa(p.User.UID))
	b.op(Op{Do: OpSetuid, A: uint64(p.User.UID)})
	b.at("process.capabilities", "")
	permitted := caps.permitted
	if early {
		permitted |= admin
	}
	b.op(Op{Do: OpCapset, A: caps.effective, B: permitted, C: caps.inheritable})
	b.chdirAsUser(p, cwd)
	umask := uint64(0o022)
	if p.User.Umask != nil {
		umask = uint64(*p.User.Umask)
	}
	b.at("process.user.umask", "")
	b.op(Op{Do: OpUmask, A: umask})
	if b.bornLast {
		b.beBorn()
	}
	b.lookup(p)
	b.op(stdio)
	if p.NoNewPrivileges {
		b.at("process.noNewPrivileges", "")
		b.op(Op{Do: OpPrctl, A: abi.PrSetNoNewPrivs, B: 1})
	}
	b.late = func() {
		if early {
			b.at("process.capabilities", "for linux.seccomp")
			b.op(Op{Do: OpCapset, A: caps.effective | admin, B: permitted, C: caps.inheritable})
		}
		if filter != nil {
			b.op(*filter)
		}
		if filter != nil && filter.Out != 0 {
			b.at("linux.seccomp.listenerPath", b.spec.Linux.Seccomp.ListenerPath)
			b.op(Op{Do: OpListener, Dir: filter.Out})
			b.close(filter.Out)
		}
		if early {
			b.at("process.capabilities", "")
			b.op(Op{Do: OpCapset, A: caps.effective, B: caps.permitted, C: caps.inheritable})
		}
		if caps.ambient != 0 {
			b.at("process.capabilities.ambient", "")
			for n := range abi.Capabilities {
				if caps.ambient&(1<<n) != 0 {
					b.op(Op{Do: OpPrctl, A: abi.PrCapAmbient, B: abi.PrCapAmbientRaise, C: uint64(n)})
				}
			}
		}
	}
	return nil
}

// KeepGroupsAnnotation has the process keep the supplementary groups of the runtime's
// caller: crun's, which Podman sets for --group-add keep-groups.
const KeepGroupsAnnotation = "run.oci.keep_original_groups"

func (b *builder) keepsGroups() bool {
	v := b.spec.Annotations[KeepGroupsAnnotation]
	return v != "" && v != "0"
}

// chdir enters the working directory while there are all privileges, for a user
// who may be there but not get there; where those do not suffice (a directory of
// NFS, or whose owner is not mapped) chdirAsUser does it. The "/." asks for the
// permission that the entering takes. Links of procfs are not followed, so it
// cannot be a descriptor of ours (CVE-2024-21626).
func (b *builder) chdir(p *specs.Process) (cwd Reg) {
	b.at("process.cwd", p.Cwd)
	cwd = b.reg()
	b.op(Op{Do: OpOpen, Out: cwd, Path: p.Cwd + "/.", A: abi.OPath | FlagDirectory, C: abi.ResolveNoMagiclinks, Allow: []int{abi.EACCES}})
	b.op(Op{Do: OpIfOpen, Dir: cwd, A: 1})
	b.op(Op{Do: OpFchdir, Dir: cwd})
	return cwd
}

// chdirAsUser asks the kernel, too, whether the result is below the root.
func (b *builder) chdirAsUser(p *specs.Process, cwd Reg) {
	b.at("process.cwd", p.Cwd)
	b.op(Op{Do: OpIfOpen, Dir: cwd, A: 1})
	b.op(Op{Do: OpSkip, A: 2})
	b.op(Op{Do: OpOpen, Out: cwd, Path: p.Cwd, A: abi.OPath | FlagDirectory, C: abi.ResolveNoMagiclinks})
	b.op(Op{Do: OpFchdir, Dir: cwd})
	b.close(cwd)
	b.op(Op{Do: OpCheckCwd})
}

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// lookup compiles the search for the program.
func (b *builder) lookup(p *specs.Process) {
	b.at("process.args[0]", p.Args[0])
	name := p.Args[0]
	candidates := []string{name}
	if !strings.Contains(name, "/") {
		candidates = nil
		search := defaultPath
		for _, e := range b.env {
			if v, ok := strings.CutPrefix(e, "PATH="); ok {
				search = v
			}
		}
		for dir := range strings.SplitSeq(search, ":") {
			if dir == "" {
				dir = "."
			}
			candidates = append(candidates, path.Join(dir, name))
		}
	}
	b.op(Op{Do: OpLookup, Args: []string{name}, Env: candidates})
}

// startAndExec is the end: the gate, the hooks behind it, the filter, the program.
func (b *builder) startAndExec() error {
	b.at("start", "waiting")
	gate := Op{Do: OpGate}
	if !b.cfg.NoGate {
		gate.Dir = b.named(InGate)
	}
	b.op(gate)
	if h := b.spec.Hooks; h != nil {
		if len(h.StartContainer) > 0 {
			b.at("hooks.startContainer", "")
			b.seal("are the image's programs")
		}
		b.late()
		b.late = func() {}
		b.hooks("startContainer", h.StartContainer, InCreated, true)
	}
	b.exec()
	return nil
}

func (b *builder) exec() {
	p := b.spec.Process
	b.late()
	b.at("process.args", p.Args[0])
	b.op(Op{Do: OpExec, Args: p.Args, Env: b.env})
}

// seal notes that the present field needs the runtime's own program sealed, since
// the process must not execute another one (launch's stub) before the container's.
func (b *builder) seal(why string) {
	if b.Seal == "" {
		b.Seal = (&Op{Field: b.field, Note: b.note}).Where() + " " + why
	}
}

// sealFromWatchers notes a process that others can look into before it executes
// anything: those who share its PID namespace and have CAP_SYS_PTRACE there, with no
// user namespace in between. They reach its /proc/PID/exe, our own program. Of an
// exec the capabilities of the container's init and its own are known, of those
// whose namespace is joined by path nothing.
func (b *builder) sealFromWatchers(known ...*specs.LinuxCapabilities) {
	pid, ok := b.ns[specs.PIDNamespace]
	if !ok || b.inUser {
		return
	}
	if pid.path != "" {
		b.at(pid.field, pid.path)
		b.seal("has processes that may look into this one")
	}
	for _, c := range known {
		if c != nil && slices.Contains(c.Bounding, "CAP_SYS_PTRACE") {
			b.at("process.capabilities.bounding", "CAP_SYS_PTRACE")
			b.seal("may look into a process that joins")
		}
	}
}

// stubCalls are those that launch's stub makes and that lead to it.
var stubCalls = []struct {
	name string
	args [6]uint64
}{
	{"execveat", [6]uint64{4: abi.AtEmptyPath}},
	{"fcntl", [6]uint64{3, abi.FSetFD, abi.FDCloexec}},
	{"execve", [6]uint64{}},
	{"write", [6]uint64{3}},
}

// UnknownCallsAnnotation refuses a seccomp profile that names a system call which is not
// known, instead of skipping the name: crun's.
const UnknownCallsAnnotation = "run.oci.seccomp_fail_unknown_syscall"

// unknownCalls looks for such a name, if the annotation asks for that.
func (b *builder) unknownCalls(cfg *specs.LinuxSeccomp) error {
	if v := b.spec.Annotations[UnknownCallsAnnotation]; v == "" || v == "0" {
		return nil
	}
	for i, s := range cfg.Syscalls {
		for j, name := range s.Names {
			if !seccomp.Known(name) {
				b.atf("linux.seccomp.syscalls[%d].names[%d]", i, j)
				return b.errorf("unknown system call %q, and the annotation %s refuses those", name, UnknownCallsAnnotation)
			}
		}
	}
	return nil
}

// seccompFilter compiles the profile.
func (b *builder) seccompFilter() (*Op, error) {
	cfg := b.spec.Linux.Seccomp
	if cfg == nil {
		return nil, nil
	}
	if err := b.unknownCalls(cfg); err != nil {
		return nil, err
	}
	b.at("linux.seccomp", "")
	prog, err := seccomp.Compile(cfg, specs.Arch(b.host.Arch))
	if err != nil {
		return nil, b.errorf("%w", err)
	}
	if prog == nil || len(prog.Instructions) == 0 {
		return nil, nil
	}
	for _, call := range stubCalls {
		if !prog.Allows(specs.Arch(b.host.Arch), call.name, call.args) {
			b.seal("does not allow " + call.name)
		}
	}
	if slices.Contains(cfg.Flags, specs.LinuxSeccompFlagWaitKillableRecv) {
		b.at("linux.seccomp.flags", string(specs.LinuxSeccompFlagWaitKillableRecv))
		if err := b.needs(5, 19); err != nil {
			return nil, err
		}
		b.at("linux.seccomp", "")
	}
	raw := make([]byte, 0, 8*len(prog.Instructions))
	for _, in := range prog.Instructions {
		raw = binary.LittleEndian.AppendUint16(raw, in.Code)
		raw = append(raw, in.JT, in.JF)
		raw = binary.LittleEndian.AppendUint32(raw, in.K)
	}
	o := &Op{Do: OpSeccomp, A: uint64(prog.Flags), Raw: raw, Field: b.field}
	if prog.NotifyListener {
		o.Out = b.reg()
	}
	return o, nil
}
