package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/cgroup"
)

func bindSpec(_ *app, f *flags) func(context.Context, []string) error {
	var bundle, file string
	var rootless bool
	f.text(&bundle, "bundle,b", "DIR", "where to write config.json, the current directory by default")
	f.text(&file, "file,f", "FILE", "the file's name, config.json by default")
	f.flag(&rootless, "rootless", "for a user without privileges")
	return func(_ context.Context, args []string) error {
		if file == "" {
			file = filepath.Join(bundle, "config.json")
		}
		if len(args) > 0 {
			return errors.New("spec: takes no argument")
		}
		s := exampleSpec()
		mode, err := cgroup.Detect()
		if err != nil {
			return err
		}
		if mode == cgroup.Unified { // on v1, as runc, for those who add one themselves
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		}
		if rootless {
			makeRootless(s, os.Geteuid(), os.Getegid())
		}
		data, err := json.MarshalIndent(s, "", "\t")
		if err != nil {
			return err
		}
		out, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if errors.Is(err, os.ErrExist) {
			return fmt.Errorf("%s exists: remove it first", file)
		}
		if err != nil {
			return err
		}
		_, err = out.Write(append(data, '\n'))
		return errors.Join(err, out.Close())
	}
}

// exampleSpec is a shell in a read-only rootfs, with what the specification says
// that a Linux container should find.
func exampleSpec() *specs.Spec {
	capabilities := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	mount := func(target, kind, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: kind, Source: source, Options: options}
	}
	return &specs.Spec{
		Version: specs.Version,
		Process: &specs.Process{
			Terminal: true,
			Args:     []string{"sh"},
			Env:      []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Cwd:      "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
			NoNewPrivileges: true,
		},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "strake",
		Mounts: []specs.Mount{
			mount("/proc", "proc", "proc"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid", "noexec", "nodev", "mode=1777", "size=65536k"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid", "noexec", "nodev"),
			mount("/sys", "sysfs", "sysfs", "nosuid", "noexec", "nodev", "ro"),
			mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid", "noexec", "nodev", "relatime", "ro"),
		},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/proc/interrupts", "/sys/firmware",
				"/sys/devices/virtual/powercap",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// makeRootless maps the caller to root, and leaves out what only root may do: a
// network of its own that nobody could connect, a sysfs without it, groups that
// are not mapped, and limits.
func makeRootless(s *specs.Spec, uid, gid int) {
	var namespaces []specs.LinuxNamespace
	for _, n := range s.Linux.Namespaces {
		if n.Type != specs.NetworkNamespace {
			namespaces = append(namespaces, n)
		}
	}
	s.Linux.Namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{HostID: uint32(uid), Size: 1}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{HostID: uint32(gid), Size: 1}}
	s.Linux.Resources = nil
	var mounts []specs.Mount
	for _, m := range s.Mounts {
		var options []string
		for _, o := range m.Options {
			if o != "gid=5" {
				options = append(options, o)
			}
		}
		m.Options = options
		if m.Destination == "/sys" {
			m.Type, m.Source, m.Options = "none", "/sys", []string{"rbind", "nosuid", "noexec", "nodev", "ro"}
		}
		mounts = append(mounts, m)
	}
	s.Mounts = mounts
}
