package spec

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/leanjson"
)

func resources(r *reader, s *specs.LinuxResources) {
	r.Object(func(name string) bool {
		switch name {
		case "devices":
			leanjson.List(r, &s.Devices, deviceRule)
		case "memory":
			leanjson.Pointer(r, &s.Memory, memory)
		case "cpu":
			leanjson.Pointer(r, &s.CPU, cpu)
		case "pids":
			leanjson.Pointer(r, &s.Pids, pids)
		case "blockIO":
			leanjson.Other(r, &s.BlockIO)
		case "hugepageLimits":
			leanjson.Other(r, &s.HugepageLimits)
		case "network":
			leanjson.Other(r, &s.Network)
		case "rdma":
			leanjson.Other(r, &s.Rdma)
		case "unified":
			leanjson.TextMap(r, &s.Unified)
		default:
			return false
		}
		return true
	})
}

func deviceRule(r *reader, d *specs.LinuxDeviceCgroup) {
	r.Object(func(name string) bool {
		switch name {
		case "allow":
			leanjson.Bool(r, &d.Allow)
		case "type":
			leanjson.Text(r, &d.Type)
		case "major":
			leanjson.Pointer(r, &d.Major, leanjson.Int[int64])
		case "minor":
			leanjson.Pointer(r, &d.Minor, leanjson.Int[int64])
		case "access":
			leanjson.Text(r, &d.Access)
		default:
			return false
		}
		return true
	})
}

func memory(r *reader, m *specs.LinuxMemory) {
	r.Object(func(name string) bool {
		switch name {
		case "limit":
			leanjson.Pointer(r, &m.Limit, leanjson.Int[int64])
		case "reservation":
			leanjson.Pointer(r, &m.Reservation, leanjson.Int[int64])
		case "swap":
			leanjson.Pointer(r, &m.Swap, leanjson.Int[int64])
		case "kernel":
			leanjson.Pointer(r, &m.Kernel, leanjson.Int[int64]) //nolint:staticcheck // deprecated, but configs have it
		case "kernelTCP":
			leanjson.Pointer(r, &m.KernelTCP, leanjson.Int[int64])
		case "swappiness":
			leanjson.Pointer(r, &m.Swappiness, leanjson.Uint[uint64])
		case "disableOOMKiller":
			leanjson.Pointer(r, &m.DisableOOMKiller, leanjson.Bool)
		case "useHierarchy":
			leanjson.Pointer(r, &m.UseHierarchy, leanjson.Bool)
		case "checkBeforeUpdate":
			leanjson.Pointer(r, &m.CheckBeforeUpdate, leanjson.Bool)
		default:
			return false
		}
		return true
	})
}

func cpu(r *reader, c *specs.LinuxCPU) {
	r.Object(func(name string) bool {
		switch name {
		case "shares":
			leanjson.Pointer(r, &c.Shares, leanjson.Uint[uint64])
		case "quota":
			leanjson.Pointer(r, &c.Quota, leanjson.Int[int64])
		case "burst":
			leanjson.Pointer(r, &c.Burst, leanjson.Uint[uint64])
		case "period":
			leanjson.Pointer(r, &c.Period, leanjson.Uint[uint64])
		case "realtimeRuntime":
			leanjson.Pointer(r, &c.RealtimeRuntime, leanjson.Int[int64])
		case "realtimePeriod":
			leanjson.Pointer(r, &c.RealtimePeriod, leanjson.Uint[uint64])
		case "cpus":
			leanjson.Text(r, &c.Cpus)
		case "mems":
			leanjson.Text(r, &c.Mems)
		case "idle":
			leanjson.Pointer(r, &c.Idle, leanjson.Int[int64])
		default:
			return false
		}
		return true
	})
}

func pids(r *reader, p *specs.LinuxPids) {
	r.Object(func(name string) bool {
		if name != "limit" {
			return false
		}
		leanjson.Pointer(r, &p.Limit, leanjson.Int[int64])
		return true
	})
}

func seccomp(r *reader, s *specs.LinuxSeccomp) {
	r.Object(func(name string) bool {
		switch name {
		case "defaultAction":
			leanjson.Text(r, &s.DefaultAction)
		case "defaultErrnoRet":
			leanjson.Pointer(r, &s.DefaultErrnoRet, leanjson.Uint[uint])
		case "architectures":
			leanjson.Texts(r, &s.Architectures)
		case "flags":
			leanjson.Texts(r, &s.Flags)
		case "listenerPath":
			leanjson.Text(r, &s.ListenerPath)
		case "listenerMetadata":
			leanjson.Text(r, &s.ListenerMetadata)
		case "syscalls":
			leanjson.List(r, &s.Syscalls, syscallRule)
		default:
			return false
		}
		return true
	})
}

func syscallRule(r *reader, s *specs.LinuxSyscall) {
	r.Object(func(name string) bool {
		switch name {
		case "names":
			leanjson.Texts(r, &s.Names)
		case "action":
			leanjson.Text(r, &s.Action)
		case "errnoRet":
			leanjson.Pointer(r, &s.ErrnoRet, leanjson.Uint[uint])
		case "args":
			leanjson.List(r, &s.Args, seccompArg)
		default:
			return false
		}
		return true
	})
}

func seccompArg(r *reader, a *specs.LinuxSeccompArg) {
	r.Object(func(name string) bool {
		switch name {
		case "index":
			leanjson.Uint(r, &a.Index)
		case "value":
			leanjson.Uint(r, &a.Value)
		case "valueTwo":
			leanjson.Uint(r, &a.ValueTwo)
		case "op":
			leanjson.Text(r, &a.Op)
		default:
			return false
		}
		return true
	})
}
