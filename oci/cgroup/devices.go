package cgroup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// The config gives device rules as a sequence, each changing what the earlier
// ones said. Both enforcers want a set instead: v1 a default and exceptions from
// it, v2 a program. deviceFilter is that set, so that one config means the same
// on both.

// any stands for every number in a device rule.
const any64 int64 = -1

// access is which of mknod, read and write; the bits are those of
// BPF_DEVCG_ACC_*, linux/bpf.h.
type access uint32

const (
	accessMknod access = 1 << iota
	accessRead
	accessWrite
	accessAll = accessMknod | accessRead | accessWrite
)

func (a access) String() string {
	var s strings.Builder
	for _, one := range []struct {
		bit    access
		letter byte
	}{{accessRead, 'r'}, {accessWrite, 'w'}, {accessMknod, 'm'}} {
		if a&one.bit != 0 {
			s.WriteByte(one.letter)
		}
	}
	return s.String()
}

// deviceNodes are one device or, with any64, several.
type deviceNodes struct {
	kind         byte // 'b' or 'c'
	major, minor int64
}

// covers reports whether all of o is in d.
func (d deviceNodes) covers(o deviceNodes) bool {
	return d.kind == o.kind && (d.major == any64 || d.major == o.major) && (d.minor == any64 || d.minor == o.minor)
}

// overlaps reports whether a device is in both.
func (d deviceNodes) overlaps(o deviceNodes) bool {
	return d.kind == o.kind && (d.major == any64 || o.major == any64 || d.major == o.major) &&
		(d.minor == any64 || o.minor == any64 || d.minor == o.minor)
}

// String is how devices.allow writes it.
func (d deviceNodes) String() string {
	number := func(n int64) string {
		if n == any64 {
			return "*"
		}
		return strconv.FormatInt(n, 10)
	}
	return string(d.kind) + " " + number(d.major) + ":" + number(d.minor)
}

type exception struct {
	nodes  deviceNodes
	access access
}

func (e exception) String() string { return e.nodes.String() + " " + e.access.String() }

// deviceFilter allows everything except, or nothing except, some devices.
type deviceFilter struct {
	allow      bool
	exceptions []exception // in the order in which rules name them; one per deviceNodes
}

// allowsAll reports a filter that filters nothing.
func (f deviceFilter) allowsAll() bool { return f.allow && len(f.exceptions) == 0 }

// maxDeviceRules bounds the exceptions: a v2 program has about eight
// instructions for each, of the 4096 it may always have.
const maxDeviceRules = 500

// runtimeDevices are allowed to every container whatever its config says: making
// any node (which opens nothing), and the devices that the specification has the
// runtime supply (config-linux.md, "Default Devices"), with /dev/pts. /dev/net/tun is one
// that the others' containers may open, too: VPNs make the node, or bind the host's, and
// have no other means to ask for it.
var runtimeDevices = []exception{
	{deviceNodes{'c', any64, any64}, accessMknod},
	{deviceNodes{'b', any64, any64}, accessMknod},
	{deviceNodes{'c', 1, 3}, accessAll},       // null
	{deviceNodes{'c', 1, 5}, accessAll},       // zero
	{deviceNodes{'c', 1, 7}, accessAll},       // full
	{deviceNodes{'c', 1, 8}, accessAll},       // random
	{deviceNodes{'c', 1, 9}, accessAll},       // urandom
	{deviceNodes{'c', 5, 0}, accessAll},       // tty
	{deviceNodes{'c', 5, 2}, accessAll},       // ptmx
	{deviceNodes{'c', 136, any64}, accessAll}, // pts, and so console
	{deviceNodes{'c', 10, 200}, accessAll},    // net/tun
}

// newDeviceFilter carries out the config's rules, starting from "nothing", and
// then allows runtimeDevices.
func newDeviceFilter(rules []specs.LinuxDeviceCgroup) (deviceFilter, error) {
	var f deviceFilter
	for i, rule := range rules {
		if err := f.add(rule); err != nil {
			return f, fmt.Errorf("linux.resources.devices[%d]: %w", i, err)
		}
	}
	for _, e := range runtimeDevices {
		if err := f.change(true, e); err != nil {
			// A rule that denies a part of what every container has.
			return f, fmt.Errorf("linux.resources.devices: %w", err)
		}
	}
	if len(f.exceptions) > maxDeviceRules {
		return f, fmt.Errorf("linux.resources.devices: %d different devices; at most %d", len(f.exceptions), maxDeviceRules)
	}
	return f, nil
}

// add carries out one rule.
func (f *deviceFilter) add(rule specs.LinuxDeviceCgroup) error {
	e := exception{deviceNodes{0, any64, any64}, 0}
	for _, number := range []struct {
		name string
		from *int64
		to   *int64
	}{{"major", rule.Major, &e.nodes.major}, {"minor", rule.Minor, &e.nodes.minor}} {
		if number.from == nil {
			continue
		}
		if *number.from < any64 || *number.from > 1<<32-1 {
			return fmt.Errorf("%s: %d is not a device number", number.name, *number.from)
		}
		*number.to = *number.from
	}
	for _, letter := range rule.Access {
		switch letter {
		case 'r':
			e.access |= accessRead
		case 'w':
			e.access |= accessWrite
		case 'm':
			e.access |= accessMknod
		case 'a': // no access, but other runtimes take it beside one
		default:
			return fmt.Errorf("access: %.20q is not made of r, w and m", rule.Access)
		}
	}
	switch {
	case rule.Access == "":
		e.access = accessAll
	case e.access == 0:
		return fmt.Errorf("access: %.20q is none of r, w and m", rule.Access)
	}
	switch rule.Type {
	case "", "a":
		if e.nodes.major == any64 && e.nodes.minor == any64 && e.access == accessAll {
			*f = deviceFilter{allow: rule.Allow}
			return nil
		}
		e.nodes.kind = 'b'
		if err := f.change(rule.Allow, e); err != nil {
			return err
		}
		e.nodes.kind = 'c'
	case "b":
		e.nodes.kind = 'b'
	case "c", "u":
		e.nodes.kind = 'c'
	default:
		return fmt.Errorf("type: %.20q is not a, b or c", rule.Type)
	}
	return f.change(rule.Allow, e)
}

// change allows or denies some devices on top of what the filter says.
func (f *deviceFilter) change(allow bool, e exception) error {
	if allow == f.allow {
		return f.remove(e)
	}
	for i := range f.exceptions {
		if f.exceptions[i].nodes == e.nodes {
			f.exceptions[i].access |= e.access
			return nil
		}
	}
	f.exceptions = append(f.exceptions, e)
	return nil
}

// remove takes exceptions back. One that e covers goes; one that reaches beyond
// e would keep a hole, which v1 cannot express, and is refused.
func (f *deviceFilter) remove(e exception) error {
	for i := range f.exceptions {
		have := &f.exceptions[i]
		if have.access&e.access == 0 || !have.nodes.overlaps(e.nodes) {
			continue
		}
		if !e.nodes.covers(have.nodes) {
			return fmt.Errorf("%v takes back a part of %v, which cgroups cannot express; give the wanted devices one by one", e, *have)
		}
		have.access &^= e.access
	}
	f.exceptions = slices.DeleteFunc(f.exceptions, func(e exception) bool { return e.access == 0 })
	return nil
}
