package bundle

import (
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ExecInput is a process to add to a container.
type ExecInput struct {
	Container  *specs.Process // of the container's config
	Args       []string
	Env        []KeyValue
	WorkingDir string
	User       string // "" is the container's
	Accounts   Accounts
	TTY        bool
	Privileged bool
	Host       *Host
}

// Exec compiles the process: the container's own, with other arguments.
func Exec(in ExecInput) (*specs.Process, error) {
	if len(in.Args) == 0 || in.Args[0] == "" {
		return nil, invalid("cmd", "is empty")
	}
	total := 0
	for i, a := range in.Args {
		if total += len(a) + 1; total > maxArgs || strings.Contains(a, "\x00") {
			return nil, invalid(index("cmd", i), "has a NUL or is too long")
		}
	}
	p := *in.Container
	p.Args, p.Terminal, p.ConsoleSize = in.Args, in.TTY, nil
	p.Env = slices.Clone(p.Env)
	set := func(key, value string) {
		p.Env = slices.DeleteFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, key+"=") })
		p.Env = append(p.Env, key+"="+value)
	}
	if in.TTY && !slices.ContainsFunc(p.Env, func(e string) bool { return strings.HasPrefix(e, "TERM=") }) {
		set("TERM", "xterm")
	}
	if in.User != "" {
		u, home, err := ResolveUser("user", in.User, GroupsMerge, in.Accounts)
		if err != nil {
			return nil, err
		}
		p.User = specs.User{UID: u.UID, GID: u.GID, AdditionalGids: u.Groups}
		set("HOME", home)
	}
	for i, e := range in.Env {
		if e.Key == "" || strings.ContainsAny(e.Key, "=\x00") || strings.Contains(e.Value, "\x00") {
			return nil, invalid(index("env", i), "%q is no name of a variable or has a NUL", e.Key)
		}
		set(e.Key, e.Value)
	}
	if in.WorkingDir != "" {
		if hasControl(in.WorkingDir) {
			return nil, invalid("working_dir", "%q", in.WorkingDir)
		}
		p.Cwd = path.Join("/", in.WorkingDir)
	}
	if in.Privileged {
		all := AllCapabilities
		if len(in.Host.Capabilities) > 0 {
			all = in.Host.Capabilities
		}
		p.Capabilities = capabilitySets(all, nil)
	}
	return &p, nil
}
