package main

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"

	docker "github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/seccomp"
)

// makeBundles writes the three bundles: a is runc's example config with
// /bin/true, b adds what Docker adds (its seccomp profile, 14 capabilities,
// limits), sleep is a that sleeps.
func makeBundles(dir, static string) error {
	for _, name := range []string{"a", "b", "sleep"} {
		bundle := filepath.Join(dir, name)
		for _, sub := range []string{"bin", "proc", "dev", "sys"} {
			if err := os.MkdirAll(filepath.Join(bundle, "rootfs", sub), 0o755); err != nil {
				return err
			}
		}
		program, err := os.ReadFile(static)
		if err != nil {
			return fmt.Errorf("-static: %w", err)
		}
		if err := os.WriteFile(filepath.Join(bundle, "rootfs/bin/true"), program, 0o755); err != nil {
			return err
		}
		s := exampleA()
		switch name {
		case "b":
			if err := dockerLike(s); err != nil {
				return err
			}
			if err := writeFilter(filepath.Join(dir, "filter"), s); err != nil {
				return err
			}
		case "sleep":
			s.Process.Args = append(s.Process.Args, "sleep")
		}
		data, err := json.MarshalIndent(s, "", "\t")
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// exampleA is the config that `runc spec` writes, without a terminal.
func exampleA() *specs.Spec {
	capabilities := []string{"CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"}
	mount := func(target, kind, source string, options ...string) specs.Mount {
		return specs.Mount{Destination: target, Type: kind, Source: source, Options: options}
	}
	return &specs.Spec{
		Version: "1.0.2", // all of the runtimes know it
		Process: &specs.Process{
			Args:            []string{"/bin/true"},
			Env:             []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"},
			Cwd:             "/",
			Capabilities:    &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 1024, Soft: 1024}},
			NoNewPrivileges: true,
		},
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Hostname: "runc",
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
				{Type: specs.UTSNamespace}, {Type: specs.MountNamespace}, {Type: specs.CgroupNamespace},
			},
			MaskedPaths: []string{
				"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
		},
	}
}

// writeFilter compiles the seccomp profile for the floor.
func writeFilter(file string, s *specs.Spec) error {
	arch := map[string]specs.Arch{"amd64": specs.ArchX86_64, "arm64": specs.ArchAARCH64}[goruntime.GOARCH]
	prog, err := seccomp.Compile(s.Linux.Seccomp, arch)
	if err != nil {
		return err
	}
	var raw []byte
	for _, in := range prog.Instructions {
		raw = binary.NativeEndian.AppendUint16(raw, in.Code)
		raw = binary.NativeEndian.AppendUint32(append(raw, in.JT, in.JF), in.K)
	}
	return os.WriteFile(file, raw, 0o644)
}

func dockerLike(s *specs.Spec) error {
	capabilities := []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
	s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: capabilities, Effective: capabilities, Permitted: capabilities}
	memory, quota, period, pids := int64(256<<20), int64(100000), uint64(100000), int64(512)
	shares := uint64(1024)
	s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &memory}
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period}
	s.Linux.Resources.Pids = &specs.LinuxPids{Limit: &pids}
	var err error
	s.Linux.Seccomp, err = docker.GetDefaultProfile(s)
	if err == nil {
		s.Linux.Seccomp.DefaultErrnoRet = nil // old runtimes do not know it; EPERM is the default
		s.Linux.Seccomp.Flags = nil
	}
	return err
}
