package plan

import (
	"slices"

	"github.com/strake-containers/strake/internal/abi"
)

// What the compiler takes, for `strake-runtime features`.

// MountOptions are the options of mounts, sorted, without those that a file
// system has of its own.
func MountOptions() []string {
	options := []string{"bind", "rbind", "idmap", "ridmap", "tmpcopyup"}
	options = append(options, noOptions[1:]...)
	options = append(options, superFlags...)
	for _, p := range propagations {
		options = append(options, p.name)
	}
	for _, a := range attributes {
		options = append(options, a.name, "r"+a.name)
	}
	slices.Sort(options)
	return slices.Compact(options)
}

// NamespaceTypes are the namespaces, sorted.
func NamespaceTypes() []string {
	var types []string
	for _, n := range nsFlags {
		types = append(types, string(n.kind))
	}
	slices.Sort(types)
	return types
}

// MemoryPolicyModes are the modes of linux.memoryPolicy, sorted.
func MemoryPolicyModes() []string { return names(memoryModes) }

// MemoryPolicyFlags are its flags, sorted.
func MemoryPolicyFlags() []string { return names(memoryFlags) }

func names[K ~string, V any](m map[K]V) []string {
	var list []string
	for name := range m {
		list = append(list, string(name))
	}
	slices.Sort(list)
	return list
}

// CapabilityNames are the capabilities in the order of their numbers.
func CapabilityNames() []string { return slices.Clone(abi.Capabilities) }
