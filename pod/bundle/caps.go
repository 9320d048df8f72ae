package bundle

import (
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// defaultCapabilities are what containers have had since docker; images rely
// on them.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// AllCapabilities are those of capabilities(7), by number from 0 on.
var AllCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID",
	"CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN",
	"CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT",
	"CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE",
	"CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL",
	"CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND",
	"CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
}

// capabilities are the default ones, changed as asked. The inheritable set
// stays empty: a file's inheritable bits must give a container nothing
// (CVE-2022-24769). What the host itself lacks is left out and warned of.
func capabilities(s *Security, h *Host) (*specs.LinuxCapabilities, []string, error) {
	const field = "linux.security_context.capabilities"
	all := AllCapabilities
	if len(h.Capabilities) > 0 {
		all = h.Capabilities
	}
	if s.Privileged {
		return capabilitySets(all, nil), nil, nil
	}
	var warnings []string
	set := slices.Clone(defaultCapabilities)
	add, err := capabilityNames(field+".add_capabilities", s.Capabilities.Add)
	if err != nil {
		return nil, nil, err
	}
	drop, err := capabilityNames(field+".drop_capabilities", s.Capabilities.Drop)
	if err != nil {
		return nil, nil, err
	}
	ambient, err := capabilityNames(field+".add_ambient_capabilities", s.Capabilities.AddAmbient)
	if err != nil {
		return nil, nil, err
	}
	// ALL first, either way, so that {drop: ALL, add: X} is just X.
	if slices.Contains(add, "ALL") {
		set = slices.Clone(all)
	}
	if slices.Contains(drop, "ALL") {
		set = nil
	}
	if slices.Contains(ambient, "ALL") {
		ambient = slices.Clone(all)
	}
	for _, c := range append(add, ambient...) {
		if c != "ALL" && !slices.Contains(set, c) {
			set = append(set, c)
		}
	}
	set = slices.DeleteFunc(set, func(c string) bool { return slices.Contains(drop, c) })
	ambient = slices.DeleteFunc(ambient, func(c string) bool { return !slices.Contains(set, c) })
	set = slices.DeleteFunc(set, func(c string) bool {
		lacking := !slices.Contains(all, c)
		if lacking && slices.Contains(add, c) {
			warnings = append(warnings, field+".add_capabilities: the host itself lacks "+c)
		}
		return lacking
	})
	ambient = slices.DeleteFunc(ambient, func(c string) bool { return !slices.Contains(set, c) })
	return capabilitySets(set, ambient), warnings, nil
}

// capabilitySets sorts, so that the same request gives the same bytes.
func capabilitySets(set, ambient []string) *specs.LinuxCapabilities {
	set = slices.Sorted(slices.Values(set))
	c := &specs.LinuxCapabilities{Bounding: set, Effective: set, Permitted: set}
	if len(ambient) > 0 {
		// The kernel wants ambient ones to be inheritable too.
		c.Ambient = slices.Sorted(slices.Values(ambient))
		c.Inheritable = c.Ambient
	}
	return c
}

func capabilityNames(field string, names []string) ([]string, error) {
	out := make([]string, len(names))
	for i, n := range names {
		c := strings.ToUpper(n)
		if c != "ALL" && !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		if c == "CAP_ALL" {
			c = "ALL"
		}
		if c != "ALL" && !slices.Contains(AllCapabilities, c) {
			return nil, invalid(index(field, i), "%q is no capability", n)
		}
		out[i] = c
	}
	return out, nil
}
