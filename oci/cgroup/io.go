package cgroup

import (
	"fmt"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func blockV1(r *specs.LinuxResources) ([]setting, error) {
	b := r.BlockIO
	if b == nil {
		return nil, nil
	}
	// The weight's file carries the name of the I/O scheduler that honours it.
	var s []setting
	add := func(file, other, field, value string) {
		s = append(s, setting{file: file, other: other, value: value, field: "blockIO." + field})
	}
	if isSet(b.Weight) {
		add("blkio.weight", "blkio.bfq.weight", "weight", fmt.Sprint(*b.Weight))
	}
	if isSet(b.LeafWeight) {
		add("blkio.leaf_weight", "", "leafWeight", fmt.Sprint(*b.LeafWeight))
	}
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("weightDevice[%d]", i)
		if d.Weight != nil {
			add("blkio.weight_device", "blkio.bfq.weight_device", field, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.Weight))
		}
		if d.LeafWeight != nil {
			add("blkio.leaf_weight_device", "", field, fmt.Sprintf("%d:%d %d", d.Major, d.Minor, *d.LeafWeight))
		}
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			add("blkio.throttle."+t.v1, "", fmt.Sprintf("%s[%d]", t.field, i), fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Rate))
		}
	}
	return s, nil
}

func blockV2(r *specs.LinuxResources) ([]setting, error) {
	b := r.BlockIO
	if b == nil {
		return nil, nil
	}
	if isSet(b.LeafWeight) {
		return nil, notV2("blockIO.leafWeight")
	}
	var s []setting
	if isSet(b.Weight) {
		one, err := weightV2("blockIO.weight", "", *b.Weight)
		if err != nil {
			return nil, err
		}
		s = append(s, one)
	}
	for i, d := range b.WeightDevice {
		field := fmt.Sprintf("blockIO.weightDevice[%d]", i)
		if d.LeafWeight != nil {
			return nil, notV2(field + ".leafWeight")
		}
		if d.Weight == nil {
			continue
		}
		one, err := weightV2(field, fmt.Sprintf("%d:%d ", d.Major, d.Minor), *d.Weight)
		if err != nil {
			return nil, err
		}
		s = append(s, one)
	}
	for _, t := range throttles(b) {
		for i, d := range t.devices {
			rate := "max"
			if d.Rate != 0 {
				rate = fmt.Sprint(d.Rate)
			}
			s = append(s, setting{file: "io.max", value: fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.v2, rate), field: fmt.Sprintf("blockIO.%s[%d]", t.field, i)})
		}
	}
	return s, nil
}

// throttle is one of the four kinds of I/O limit.
type throttle struct {
	field, v1, v2 string
	devices       []specs.LinuxThrottleDevice
}

func throttles(b *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"throttleReadBpsDevice", "read_bps_device", "rbps", b.ThrottleReadBpsDevice},
		{"throttleWriteBpsDevice", "write_bps_device", "wbps", b.ThrottleWriteBpsDevice},
		{"throttleReadIOPSDevice", "read_iops_device", "riops", b.ThrottleReadIOPSDevice},
		{"throttleWriteIOPSDevice", "write_iops_device", "wiops", b.ThrottleWriteIOPSDevice},
	}
}

// weightV2 is a weight for the BFQ scheduler, whose file takes v1's numbers as
// they are (1 to 1000), or for io.cost, whose weights go from 1 to 10000.
func weightV2(field, device string, weight uint16) (setting, error) {
	if weight < 1 || weight > 1000 {
		return setting{}, fmt.Errorf("linux.resources.%s: %d is not 1 to 1000", field, weight)
	}
	scaled := 1 + (max(int(weight), 10)-10)*9999/990
	return setting{
		file: "io.bfq.weight", value: fmt.Sprintf("%s%d", device, weight),
		other: "io.weight", otherValue: fmt.Sprintf("%s%d", device, scaled),
		field: field,
	}, nil
}

// IOStats is per block device.
type IOStats struct {
	Devices  []IODevice
	Pressure *Pressure // v2 only

	// What only the BFQ scheduler of v1 counts: requests that wait or were merged,
	// times in nanoseconds, the device's time in milliseconds, and sectors.
	Queued, ServiceTime, WaitTime, Merged, Time, Sectors []IOEntry
}

// IOEntry is one line of a v1 file; Op is "" where the file tells none apart.
type IOEntry struct {
	Major, Minor uint64
	Op           string
	Value        uint64
}

// IODevice is what a cgroup did to one block device.
type IODevice struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
	DiscardBytes          uint64
	DiscardOps            uint64
}

// device returns the entry for "major:minor", made if need be.
func (s *IOStats) device(number string) *IODevice {
	major, minor, ok := parseDevice(number)
	if !ok {
		return nil
	}
	for i := range s.Devices {
		if s.Devices[i].Major == major && s.Devices[i].Minor == minor {
			return &s.Devices[i]
		}
	}
	s.Devices = append(s.Devices, IODevice{Major: major, Minor: minor})
	return &s.Devices[len(s.Devices)-1]
}

// readV1 takes what the BFQ scheduler counts, or else what went through
// throttling, which counts any device.
func (s *IOStats) readV1(r *reader) {
	if r.usage {
		return
	}
	s.Queued, s.Merged = r.entries("blkio.bfq.io_queued_recursive"), r.entries("blkio.bfq.io_merged_recursive")
	s.ServiceTime = r.entries("blkio.bfq.io_service_time_recursive")
	s.WaitTime = r.entries("blkio.bfq.io_wait_time_recursive")
	s.Time, s.Sectors = r.entries("blkio.bfq.time_recursive"), r.entries("blkio.bfq.sectors_recursive")
	for _, prefix := range []string{"blkio.bfq.", "blkio.throttle."} {
		s.readOperations(r.text(prefix+"io_service_bytes_recursive"), true)
		s.readOperations(r.text(prefix+"io_serviced_recursive"), false)
		if len(s.Devices) > 0 {
			return
		}
	}
}

func parseDevice(number string) (major, minor uint64, ok bool) {
	majorText, minorText, ok := strings.Cut(number, ":")
	major, err1 := strconv.ParseUint(majorText, 10, 64)
	minor, err2 := strconv.ParseUint(minorText, 10, 64)
	return major, minor, ok && err1 == nil && err2 == nil
}

// entries reads lines such as "8:0 Read 4096" or "8:0 4096".
func (r *reader) entries(file string) []IOEntry {
	var list []IOEntry
	for line := range strings.Lines(r.text(file)) {
		fields := strings.Fields(line)
		major, minor, ok := parseDevice(strings.Join(fields[:min(len(fields), 1)], ""))
		if !ok || len(fields) < 2 || len(fields) > 3 {
			continue // "Total 4096"
		}
		e := IOEntry{Major: major, Minor: minor}
		if len(fields) == 3 {
			e.Op = fields[1]
		}
		n, err := parseUint(fields[len(fields)-1])
		r.note(err)
		e.Value = n
		list = append(list, e)
	}
	return list
}

// readOperations reads lines such as "8:0 Read 4096".
func (s *IOStats) readOperations(text string, bytes bool) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue // "Total 4096"
		}
		n, err := parseUint(fields[2])
		if err != nil {
			continue
		}
		d := s.device(fields[0])
		if d == nil {
			continue
		}
		switch {
		case fields[1] == "Read" && bytes:
			d.ReadBytes = n
		case fields[1] == "Read":
			d.ReadOps = n
		case fields[1] == "Write" && bytes:
			d.WriteBytes = n
		case fields[1] == "Write":
			d.WriteOps = n
		case fields[1] == "Discard" && bytes:
			d.DiscardBytes = n
		case fields[1] == "Discard":
			d.DiscardOps = n
		}
	}
}

// readV2 reads io.stat: "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6".
func (s *IOStats) readV2(r *reader) {
	s.Pressure = r.pressure("io.pressure")
	if r.usage {
		return
	}
	for line := range strings.Lines(r.text("io.stat")) {
		fields := strings.Fields(line)
		if len(fields) == 0 {
			continue
		}
		d := s.device(fields[0])
		if d == nil {
			continue
		}
		for _, field := range fields[1:] {
			key, value, _ := strings.Cut(field, "=")
			n, err := parseUint(value)
			if err != nil {
				continue
			}
			switch key {
			case "rbytes":
				d.ReadBytes = n
			case "wbytes":
				d.WriteBytes = n
			case "rios":
				d.ReadOps = n
			case "wios":
				d.WriteOps = n
			case "dbytes":
				d.DiscardBytes = n
			case "dios":
				d.DiscardOps = n
			}
		}
	}
}
