package plan

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"github.com/strake-containers/strake/internal/abi"
)

// String is the program as text, one operation a line: the operation as a system
// call, then the field of the config that it comes from.
func (p *Program) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "clone3 %s", flagNames(p.CloneFlags, namespaceNames))
	if p.PidNS != 0 {
		fmt.Fprintf(&s, " in PID namespace r%d", p.PidNS)
	}
	s.WriteString("\n")
	for _, in := range p.Inputs {
		fmt.Fprintf(&s, "     r%-3d = %s", in.Reg, in.Kind)
		if in.Type != "" {
			s.WriteString(" " + in.Type)
		}
		if in.Path != "" {
			s.WriteString(" " + in.Path)
		}
		if in.Kind == InExtra {
			fmt.Fprintf(&s, " %d", in.Index)
		}
		for _, a := range in.Args {
			s.WriteString(" " + a)
		}
		if in.Recursive {
			s.WriteString(" recursive")
		}
		if d := in.Device; d != nil {
			fmt.Fprintf(&s, " %#o %d:%d of %d:%d", d.Mode, abi.Major(d.Number), abi.Minor(d.Number), d.UID, d.GID)
		}
		if m := in.IDMap; m != nil {
			fmt.Fprintf(&s, " ids %s%q %q", m.UserNS, m.UID, m.GID)
			if m.Recursive {
				s.WriteString(" recursive")
			}
		}
		s.WriteString("\n")
	}
	for _, line := range p.Parent() {
		s.WriteString("     " + line + "\n")
	}
	last := ""
	for i := range p.Ops {
		o := &p.Ops[i]
		line := fmt.Sprintf("%4d %s", i, o.String())
		if where := o.Where(); where != last {
			line = fmt.Sprintf("%-90s # %s", line, where)
			last = where
		}
		s.WriteString(line + "\n")
	}
	if p.Seal != "" {
		s.WriteString("sealed: " + p.Seal + "\n")
	}
	for _, w := range p.Warnings {
		s.WriteString("warning: " + w + "\n")
	}
	return s.String()
}

// Summary is what of a program is worth a line of a debug log: what callers ask for
// when a container does not do what they think it should.
func (p *Program) Summary() []string {
	lines := []string{fmt.Sprintf("program of %d operations with %d descriptors; new namespaces: %s", len(p.Ops), len(p.Inputs), flagNames(p.CloneFlags, namespaceNames))}
	for i := range p.Ops {
		o := &p.Ops[i]
		switch o.Do {
		case OpSeccomp:
			lines = append(lines, fmt.Sprintf("seccomp filter flags: %d", o.A), fmt.Sprintf("seccomp filter of %d instructions", len(o.Raw)/8))
		case OpAffinity:
			lines = append(lines, "affinity: "+o.Where())
		case OpSched:
			lines = append(lines, fmt.Sprintf("%s: policy %d", o.Where(), o.Nums[0]))
		}
	}
	if p.Seal != "" {
		lines = append(lines, "runs from a sealed copy of this program: "+p.Seal)
	}
	return lines
}

// Parent is what the parent does at the syncs, a line each.
func (p *Program) Parent() (lines []string) {
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if p.UIDMap != "" {
		add("sync %d: map ids %q %q", SyncUserNS, p.UIDMap, p.GIDMap)
	}
	if p.MapHelpers {
		add("sync %d: by newuidmap and newgidmap", SyncUserNS)
	}
	if p.DenySetgroups {
		add("sync %d: deny setgroups", SyncUserNS)
	}
	if p.TimeOffsets != "" {
		add("sync %d: timens_offsets %q", SyncUserNS, p.TimeOffsets)
	}
	if p.OOM != nil {
		add("sync %d: oom_score_adj %d", SyncUserNS, *p.OOM)
	}
	for _, l := range p.Limits {
		add("sync %d: rlimit %d %d %d # %s", SyncLimits, l.Resource, l.Soft, l.Hard, l.Field)
	}
	for i, m := range p.IDMaps {
		add("sync %d: map ids of mount %d: %s%q %q", SyncIDMap, i+1, m.UserNS, m.UID, m.GID)
	}
	return lines
}

// String is the operation as text.
func (o *Op) String() string {
	var s strings.Builder
	if o.Out != 0 {
		s.WriteString(regName(o.Out) + " = ")
	}
	s.WriteString(string(o.Do))
	for _, a := range o.arguments() {
		s.WriteString(" " + a)
	}
	if len(o.Allow) > 0 && o.Do != OpClose {
		var names []string
		for _, e := range o.Allow {
			names = append(names, errnoName(e))
		}
		s.WriteString(" or " + strings.Join(names, ","))
	}
	return s.String()
}

func (o *Op) at() string {
	if o.Dir == 0 {
		return strconv.Quote(o.Path)
	}
	return regName(o.Dir) + ":" + strconv.Quote(o.Path)
}

// arguments are the operation's arguments, each as its Code means it.
func (o *Op) arguments() []string {
	hex := func(n uint64) string { return fmt.Sprintf("%#x", n) }
	dec := func(n uint64) string { return strconv.FormatUint(n, 10) }
	oct := func(n uint64) string { return fmt.Sprintf("%#o", n) }
	dev := func(n uint64) string { return fmt.Sprintf("%d:%d", abi.Major(n), abi.Minor(n)) }
	switch o.Do {
	case OpOpen:
		return append([]string{o.at()}, words(flagNames(o.A, openNames), flagNames(o.C, resolveNames))...)
	case OpMkpath:
		kind := [...]string{"dir", "file", "like " + regName(o.On)}[min(o.A, 2)]
		return append([]string{o.at(), kind, oct(o.B)}, words(flagNames(o.C, resolveNames))...)
	case OpMkdir, OpChmod:
		return []string{o.at(), oct(o.A)}
	case OpSymlink:
		return []string{o.at(), "->", strconv.Quote(o.Data)}
	case OpMknod:
		return []string{o.at(), oct(o.A), dev(o.B)}
	case OpChown:
		return []string{o.at(), dec(o.A) + ":" + dec(o.B)}
	case OpChownFD:
		return []string{regName(o.Dir), dec(o.A)}
	case OpWrite:
		if o.Path == "" {
			return []string{regName(o.Dir), strconv.Quote(o.Data)}
		}
		return []string{o.at(), strconv.Quote(o.Data)}
	case OpIfOpen, OpIsDir:
		return []string{regName(o.Dir), "else skip", dec(o.A)}
	case OpSkip, OpSync, OpExit, OpHome:
		return []string{dec(o.A)}
	case OpCheckFS:
		if o.B != 0 {
			return []string{regName(o.Dir), "not", hex(o.A)}
		}
		return []string{regName(o.Dir), hex(o.A)}
	case OpCheckDev:
		return []string{regName(o.Dir), oct(o.A), dev(o.B)}
	case OpFsopen:
		return []string{strconv.Quote(o.Path)}
	case OpFsset:
		if o.A == 1 {
			return []string{regName(o.Dir), o.Path}
		}
		return []string{regName(o.Dir), o.Path + "=" + strconv.Quote(o.Data)}
	case OpFsmount:
		return append([]string{regName(o.Dir)}, words(flagNames(o.A, attrNames))...)
	case OpOpenTree:
		return append([]string{o.at()}, words(flagNames(o.A, treeNames))...)
	case OpSetattr:
		args := []string{o.at()}
		if o.A != 0 {
			args = append(args, "+"+flagNames(o.A, attrNames))
		}
		if o.B != 0 {
			args = append(args, "-"+flagNames(o.B, attrNames))
		}
		if o.On != 0 {
			args = append(args, "by "+regName(o.On))
		}
		args = append(args, words(flagNames(o.C, propagationNames), flagNames(o.D&abi.AtRecursive, treeNames))...)
		if len(o.Nums) == 2 {
			args = append(args, "or if locked", "+"+flagNames(o.Nums[0], attrNames), "-"+flagNames(o.Nums[1], attrNames))
		}
		return args
	case OpFsmode, OpCopyUp:
		return []string{regName(o.Dir), "from " + regName(o.On)}
	case OpLabel:
		return []string{regName(o.Dir), strconv.Quote(o.Data)}
	case OpMove:
		return []string{regName(o.Dir), "->", regName(o.On)}
	case OpMount:
		return []string{strconv.Quote(o.Path), quoteAll(o.Args)}
	case OpUmount, OpChdir, OpUnlink:
		return []string{o.at()}
	case OpUnshare, OpFork:
		return []string{flagNames(o.A, namespaceNames)}
	case OpSetns:
		return []string{regName(o.Dir), flagNames(o.A, namespaceNames)}
	case OpHostname, OpDomain, OpKeyring:
		return []string{strconv.Quote(o.Data)}
	case OpPty:
		return []string{regName(o.Dir), "peer", regName(o.On), dec(o.A) + "x" + dec(o.B)}
	case OpStdio:
		var regs []string
		for _, r := range o.Regs {
			regs = append(regs, regName(r))
		}
		return regs
	case OpRlimit:
		if o.A < uint64(len(abi.Rlimits)) {
			return []string{abi.Rlimits[o.A], dec(o.B), dec(o.C)}
		}
		return []string{dec(o.A), dec(o.B), dec(o.C)}
	case OpPrctl:
		return prctlArguments(o)
	case OpCapset:
		return []string{"effective", hex(o.A), "permitted", hex(o.B), "inheritable", hex(o.C)}
	case OpGroups, OpSched:
		return []string{fmt.Sprint(o.Nums)}
	case OpSetgid, OpSetuid:
		return []string{dec(o.A)}
	case OpUmask:
		return []string{oct(o.A)}
	case OpSeccomp:
		return []string{fmt.Sprintf("%d instructions, flags %#x", len(o.Raw)/8, o.A)}
	case OpPersona, OpIoprio:
		return []string{hex(o.A)}
	case OpAffinity:
		if len(bytes.Trim(o.Raw, "\xff")) == 0 {
			return []string{"all"}
		}
		return []string{fmt.Sprintf("%x", o.Raw)}
	case OpMempolicy:
		return []string{hex(o.A), fmt.Sprintf("%x", o.Raw)}
	case OpLookup:
		return []string{quoteAll(o.Env)}
	case OpHook:
		return []string{strconv.Quote(o.Path), quoteAll(o.Args), "timeout", dec(o.A)}
	case OpExec:
		return []string{quoteAll(o.Args), "env", quoteAll(o.Env)}
	}
	if o.Dir != 0 {
		return []string{regName(o.Dir)}
	}
	return nil
}

func prctlArguments(o *Op) []string {
	capability := func(n uint64) string {
		if n < uint64(len(abi.Capabilities)) {
			return abi.Capabilities[n]
		}
		return strconv.FormatUint(n, 10)
	}
	switch o.A {
	case abi.PrCapbsetDrop:
		return []string{"capbset-drop", capability(o.B)}
	case abi.PrCapAmbient:
		return []string{"ambient-raise", capability(o.C)}
	case abi.PrSetNoNewPrivs:
		return []string{"no-new-privs"}
	case abi.PrSetSecurebits:
		return []string{"securebits", fmt.Sprintf("%#x", o.B)}
	}
	return []string{strconv.FormatUint(o.A, 10), strconv.FormatUint(o.B, 10), strconv.FormatUint(o.C, 10)}
}

func words(list ...string) []string {
	var out []string
	for _, s := range list {
		if s != "" && s != "0" {
			out = append(out, s)
		}
	}
	return out
}

type flagName struct {
	bits uint64
	name string
}

var (
	namespaceNames = []flagName{
		{abi.CloneNewUser, "user"}, {abi.CloneNewPID, "pid"}, {abi.CloneNewNet, "net"}, {abi.CloneNewIPC, "ipc"},
		{abi.CloneNewUTS, "uts"}, {abi.CloneNewNS, "mount"}, {abi.CloneNewCgroup, "cgroup"}, {abi.CloneNewTime, "time"},
	}
	openNames = []flagName{
		{abi.OPath, "path"}, {FlagDirectory, "directory"}, {FlagNofollow, "nofollow"}, {abi.OWrOnly, "write"},
	}
	resolveNames = []flagName{
		{abi.ResolveInRoot, "in-root"}, {abi.ResolveBeneath, "beneath"}, {abi.ResolveNoSymlinks, "no-symlinks"},
		{abi.ResolveNoMagiclinks, "no-magiclinks"}, {abi.ResolveNoXDev, "no-xdev"},
	}
	attrNames = []flagName{
		{abi.MountAttrRdonly, "ro"}, {abi.MountAttrNosuid, "nosuid"}, {abi.MountAttrNodev, "nodev"},
		{abi.MountAttrNoexec, "noexec"}, {abi.MountAttrAtime, "atime"}, {abi.MountAttrNoatime, "noatime"},
		{abi.MountAttrStrictatime, "strictatime"}, {abi.MountAttrNodiratime, "nodiratime"},
		{abi.MountAttrNosymfollow, "nosymfollow"}, {abi.MountAttrIdmap, "idmap"},
	}
	treeNames        = []flagName{{abi.OpenTreeClone, "clone"}, {abi.AtRecursive, "recursive"}, {abi.AtEmptyPath, ""}}
	propagationNames = []flagName{
		{abi.MSPrivate, "private"}, {abi.MSSlave, "slave"}, {abi.MSShared, "shared"}, {abi.MSUnbindable, "unbindable"},
	}
)

// flagNames writes a set of flags; what has no name stays a number.
func flagNames(v uint64, names []flagName) string {
	var out []string
	for _, f := range names {
		if f.bits != 0 && v&f.bits == f.bits {
			v &^= f.bits
			if f.name != "" {
				out = append(out, f.name)
			}
		}
	}
	if v != 0 {
		out = append(out, fmt.Sprintf("%#x", v))
	}
	return strings.Join(out, "|")
}

func errnoName(e int) string {
	names := map[int]string{abi.EPERM: "EPERM", abi.ENOENT: "ENOENT", abi.EBADF: "EBADF", abi.EACCES: "EACCES",
		abi.EEXIST: "EEXIST", abi.ENOTDIR: "ENOTDIR", abi.EINVAL: "EINVAL", abi.ENOSYS: "ENOSYS", abi.EROFS: "EROFS"}
	if n, ok := names[e]; ok {
		return n
	}
	return "errno " + strconv.Itoa(e)
}
