package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/oci/cgroup"
	"github.com/strake-containers/strake/oci/container"
	"github.com/strake-containers/strake/oci/spec"
)

func bindUpdate(a *app, f *flags) func(context.Context, []string) error {
	var file, l3Cache, memBw string
	r := specs.LinuxResources{
		Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, Pids: &specs.LinuxPids{}, BlockIO: &specs.LinuxBlockIO{},
	}
	f.text(&file, "resources,r", "FILE", "limits as an OCI resources object; - is standard input")
	bindBytes(f, &r.Memory.Limit, "memory", "limit of memory")
	bindBytes(f, &r.Memory.Reservation, "memory-reservation", "soft limit of memory")
	bindBytes(f, &r.Memory.Swap, "memory-swap", "limit of memory and swap together")
	bindUnsigned(f, &r.CPU.Shares, "cpu-share", "relative weight")
	bindSigned(f, &r.CPU.Quota, "cpu-quota", "µs of CPU time per period")
	bindUnsigned(f, &r.CPU.Period, "cpu-period", "length of the period in µs")
	bindUnsigned(f, &r.CPU.Burst, "cpu-burst", "µs that may be saved up")
	bindSigned(f, &r.CPU.RealtimeRuntime, "cpu-rt-runtime", "real-time µs per period")
	bindUnsigned(f, &r.CPU.RealtimePeriod, "cpu-rt-period", "real-time period in µs")
	bindSigned(f, &r.CPU.Idle, "cpu-idle", "1: run only when nobody else wants to")
	f.text(&r.CPU.Cpus, "cpuset-cpus", "LIST", "CPUs to use, such as 0-3,7")
	f.text(&r.CPU.Mems, "cpuset-mems", "LIST", "memory nodes to use")
	bindSigned(f, &r.Pids.Limit, "pids-limit", "number of tasks; -1 for no limit")
	f.add("blkio-weight", "N", "weight of block I/O, 10 to 1000", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		weight := uint16(n)
		r.BlockIO.Weight = &weight
		return err
	})
	f.text(&l3Cache, "l3-cache-schema", "SCHEMA", "Intel RDT's L3 cache, such as L3:0=7f0, of a container with linux.intelRdt")
	f.text(&memBw, "mem-bw-schema", "SCHEMA", "Intel RDT's memory bandwidth, such as MB:0=20, of a container with linux.intelRdt")
	return func(_ context.Context, args []string) error {
		id, err := oneID(args)
		if err != nil {
			return fmt.Errorf("update: %w", err)
		}
		if file != "" {
			data, err := readInput(file)
			if err != nil {
				return fmt.Errorf("--resources: %w", err)
			}
			if err := json.Unmarshal(data, &r); err != nil {
				return fmt.Errorf("--resources %s: %w", file, err)
			}
		}
		c, err := container.Load(a.root, id)
		if err != nil {
			return err
		}
		if l3Cache != "" || memBw != "" {
			if err := c.UpdateIntelRdt(l3Cache, memBw); err != nil {
				return err
			}
		}
		if err := c.Update(&r); err != nil {
			return err
		}
		a.log.warn(cgroup.LeftOut(&r)...)
		return nil
	}
}

func bindSigned(f *flags, to **int64, name, help string) {
	bindLimit(f, to, name, "N", help, func(s string) (int64, error) { return strconv.ParseInt(s, 10, 64) })
}

func bindUnsigned(f *flags, to **uint64, name, help string) {
	bindLimit(f, to, name, "N", help, func(s string) (uint64, error) { return strconv.ParseUint(s, 10, 64) })
}

// bindBytes takes a number with or without a unit: 64M is 64 MiB.
func bindBytes(f *flags, to **int64, name, help string) {
	bindLimit(f, to, name, "BYTES", help+", such as 64M; -1 for none", parseBytes)
}

// bindLimit declares a limit. An empty one leaves it as it is, as with runc.
func bindLimit[T int64 | uint64](f *flags, to **T, name, value, help string, parse func(string) (T, error)) {
	f.add(name, value, help, func(s string) error {
		if s == "" {
			return nil
		}
		n, err := parse(s)
		*to = &n
		return err
	})
}

var errNoBytes = errors.New("not a number of bytes, such as 64M or 1.5 GiB")

// parseBytes reads what runc takes: a number, perhaps with a fraction, and a unit of 1024s,
// in any case: k, kb and KiB are the same.
func parseBytes(s string) (int64, error) {
	if s == "-1" {
		return -1, nil
	}
	end := strings.LastIndexAny(s, "0123456789.") + 1
	number, unit := s[:end], strings.ToLower(strings.TrimPrefix(s[end:], " "))
	shift := 0
	if unit != "" && unit != "b" {
		const units, bits = "kmgtp", 10
		at := strings.IndexByte(units, unit[0])
		if rest := unit[1:]; at < 0 || rest != "" && rest != "b" && rest != "ib" {
			return 0, errNoBytes
		}
		shift = bits * (at + 1)
	}
	if n, err := strconv.ParseInt(number, 10, 64); err == nil {
		if n > math.MaxInt64>>shift {
			return 0, strconv.ErrRange
		}
		if n < 0 {
			return 0, errNoBytes
		}
		return n << shift, nil
	}
	n, err := strconv.ParseFloat(number, 64)
	if errors.Is(err, strconv.ErrRange) {
		return 0, strconv.ErrRange
	}
	if err != nil || n < 0 {
		return 0, errNoBytes
	}
	if n *= float64(int64(1) << shift); n >= math.MaxInt64 {
		return 0, strconv.ErrRange
	}
	return int64(n), nil
}

// readInput reads a file that the user names, or standard input for "-", as far
// as a config may be long.
func readInput(name string) ([]byte, error) {
	in := os.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer func() { _ = f.Close() }()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, spec.MaxSize+1))
	if err == nil && len(data) > spec.MaxSize {
		return nil, fmt.Errorf("%s: larger than %d bytes", name, spec.MaxSize)
	}
	return data, err
}
