package client

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/strake-containers/strake/shim/api"
)

// Handler says who makes a pod's containers; its zero value is the monitor itself.
type Handler struct {
	// Program is the path of an OCI runtime, called with Args before its command and
	// with Root to keep its state in.
	Program string
	Args    []string
	Root    string
	// Shim is the path of a containerd shim (runtime v2), Options what it is given. With
	// Sandboxes it is asked by the sandbox API for the pod itself, else by a first task.
	Shim      string
	Options   *anypb.Any
	Sandboxes bool
	// Events is the path of the socket that the shim is to publish to, less ".ttrpc":
	// its monitor's, and short enough for a unix socket.
	Events string
}

// Native reports whether it is the monitor.
func (h *Handler) Native() bool { return h.Program == "" && h.Shim == "" }

// options is the handler as CreateSandbox carries it; nil for the monitor.
func (h *Handler) options() (*anypb.Any, error) {
	if h.Native() {
		return nil, nil
	}
	m := &api.Handler{
		Program: h.Program, ProgramArgs: h.Args, ProgramRoot: h.Root,
		Shim: h.Shim, ShimSandboxes: h.Sandboxes, Events: h.Events,
	}
	if h.Options != nil {
		m.ShimOptionsUrl, m.ShimOptions = h.Options.TypeUrl, h.Options.Value
	}
	return messageAny(m)
}

// ShimOptions makes the message that a shim takes as its options of those in a
// configuration: containerd.runc.v1.Options of binary_name, root, systemd_cgroup,
// no_pivot_root, no_new_keyring and shim_cgroup, for containerd's shim for
// runc, or runtimeoptions.v1.Options of type_url, config_path and config_body, for the
// others. Without any it is nil.
func ShimOptions(options map[string]string) (*anypb.Any, error) {
	if len(options) == 0 {
		return nil, nil
	}
	var generic runtimeoptions.Options
	var runc runcoptions.Options
	var body string
	texts := map[string]*string{
		"type_url": &generic.TypeUrl, "config_path": &generic.ConfigPath, "config_body": &body,
		"binary_name": &runc.BinaryName, "root": &runc.Root, "shim_cgroup": &runc.ShimCgroup,
	}
	flags := map[string]*bool{
		"systemd_cgroup": &runc.SystemdCgroup, "no_pivot_root": &runc.NoPivotRoot, "no_new_keyring": &runc.NoNewKeyring,
	}
	generics := []string{"type_url", "config_path", "config_body"}
	isGeneric := 0
	for _, key := range slices.Sorted(maps.Keys(options)) {
		value := options[key]
		if slices.Contains(generics, key) {
			isGeneric++
		}
		switch {
		case texts[key] != nil:
			*texts[key] = value
		case flags[key] != nil && (value == "true" || value == "false"):
			*flags[key] = value == "true"
		case flags[key] != nil:
			return nil, fmt.Errorf(`%s: %q is neither "true" nor "false"`, key, value)
		default:
			return nil, fmt.Errorf("%s: unknown option: a shim has %s", key, strings.Join(slices.Sorted(maps.Keys(both(texts, flags))), ", "))
		}
	}
	switch isGeneric {
	case 0:
		return messageAny(&runc)
	case len(options):
		generic.ConfigBody = []byte(body)
		return messageAny(&generic)
	default:
		return nil, fmt.Errorf("%s are of one message and the others of another: choose those that the shim takes", strings.Join(generics, ", "))
	}
}

func both(texts map[string]*string, flags map[string]*bool) map[string]bool {
	all := map[string]bool{}
	for key := range texts {
		all[key] = true
	}
	for key := range flags {
		all[key] = true
	}
	return all
}
