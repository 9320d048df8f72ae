package cgroup

import "math"

// NoLimit is the value of a limit that is not set.
const NoLimit = math.MaxUint64

// Stats is a reading of a cgroup's counters, of v1 or v2 alike. A controller
// that the host lacks leaves its part zero.
type Stats struct {
	CPU     CPUStats
	Memory  MemoryStats
	Pids    PidsStats
	IO      IOStats
	Hugetlb []HugetlbStats // one per page size, sorted
}

// CPUStats are times in nanoseconds since the cgroup was made.
type CPUStats struct {
	Usage, User, System       uint64
	PerCPU                    []uint64 // v1 only
	Periods, ThrottledPeriods uint64
	ThrottledTime             uint64
	Bursts, BurstTime         uint64
	Pressure                  *Pressure // v2 only
}

// MemoryStats are bytes, but for the counts that say so.
type MemoryStats struct {
	Usage, MaxUsage, Limit   uint64
	WorkingSet               uint64 // usage less the file cache that can go first
	RSS                      uint64 // anonymous memory
	Cache, MappedFile        uint64
	InactiveFile, ActiveFile uint64
	Kernel                   uint64
	PageFaults, MajorFaults  uint64            // counts
	Swap, SwapLimit          uint64            // swap alone, without memory
	LimitHits                uint64            // count: how often the limit was met
	OOMKills                 uint64            // count of processes killed
	Stat                     map[string]uint64 // memory.stat as it stands
	Pressure                 *Pressure         // v2 only
}

// PidsStats are numbers of tasks.
type PidsStats struct{ Current, Limit uint64 }

// IOStats is per block device.
type IOStats struct {
	Devices  []IODevice
	Pressure *Pressure // v2 only
}

// IODevice is what a cgroup did to one block device.
type IODevice struct {
	Major, Minor          uint64
	ReadBytes, WriteBytes uint64
	ReadOps, WriteOps     uint64
	DiscardBytes          uint64
	DiscardOps            uint64
}

// HugetlbStats are bytes of one page size, such as "2MB".
type HugetlbStats struct {
	PageSize               string
	Usage, MaxUsage, Limit uint64
	LimitHits              uint64
}

// Pressure is a PSI file: shares of wall time lost.
type Pressure struct{ Some, Full PressureLine }

// PressureLine has averages in per cent and the total in microseconds.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}
