package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func hugetlbV1(r *specs.LinuxResources) ([]setting, error) {
	return pageSizes(r, func(size string) [2]string {
		return [2]string{"hugetlb." + size + ".limit_in_bytes", "hugetlb." + size + ".rsvd.limit_in_bytes"}
	})
}

func hugetlbV2(r *specs.LinuxResources) ([]setting, error) {
	return pageSizes(r, func(size string) [2]string {
		return [2]string{"hugetlb." + size + ".max", "hugetlb." + size + ".rsvd.max"}
	})
}

func pageSizes(r *specs.LinuxResources, file func(size string) [2]string) ([]setting, error) {
	var s []setting
	for i, l := range r.HugepageLimits {
		field := fmt.Sprintf("hugepageLimits[%d]", i)
		number := strings.TrimRight(l.Pagesize, "KMGTB")
		if unit := strings.TrimPrefix(l.Pagesize, number); number == "" || strings.Trim(number, "0123456789") != "" || len(unit) != 2 || unit[1] != 'B' {
			return nil, fmt.Errorf("linux.resources.%s.pageSize: %.40q is not a size such as 2MB", field, l.Pagesize)
		}
		value, f := fmt.Sprint(l.Limit), file(l.Pagesize)
		s = append(s,
			setting{file: f[0], value: value, field: field},
			setting{file: f[1], value: value, field: field, optional: true}) // reservations: Linux 5.7
	}
	return s, nil
}

// HugetlbStats are bytes of one page size, such as "2MB".
type HugetlbStats struct {
	PageSize               string
	Usage, MaxUsage, Limit uint64
	LimitHits              uint64
}

// pageSizeFiles calls f for each page size of which dir has hugetlb files, with
// the files' common prefix.
func (r *reader) pageSizes(suffix string, f func(size, prefix string)) {
	r.find()
	names, err := hugetlbSizes()
	r.note(err)
	for _, size := range names {
		prefix := "hugetlb." + size
		if exists(r.dir + "/" + prefix + suffix) {
			f(size, prefix)
		}
	}
}

// hugetlbSizes lists the host's huge page sizes in the way that cgroup files are
// named: 64KB, 2MB, 1GB.
func hugetlbSizes() ([]string, error) {
	dirs, err := subdirs("/sys/kernel/mm/hugepages")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var sizes []uint64
	for _, dir := range dirs {
		_, name, _ := strings.Cut(dir, "/hugepages-")
		kb, err := strconv.ParseUint(strings.TrimSuffix(name, "kB"), 10, 64)
		if err == nil {
			sizes = append(sizes, kb)
		}
	}
	slices.Sort(sizes)
	names := make([]string, len(sizes))
	for i, kb := range sizes {
		switch {
		case kb >= 1<<20:
			names[i] = fmt.Sprintf("%dGB", kb>>20)
		case kb >= 1<<10:
			names[i] = fmt.Sprintf("%dMB", kb>>10)
		default:
			names[i] = fmt.Sprintf("%dKB", kb)
		}
	}
	return names, nil
}

func hugetlbStatsV1(r *reader) (all []HugetlbStats) {
	r.pageSizes(".limit_in_bytes", func(size, prefix string) {
		all = append(all, HugetlbStats{
			PageSize:  size,
			Usage:     r.number(prefix + ".usage_in_bytes"),
			MaxUsage:  r.number(prefix + ".max_usage_in_bytes"),
			Limit:     limitV1(r.number(prefix + ".limit_in_bytes")),
			LimitHits: r.number(prefix + ".failcnt"),
		})
	})
	return all
}

func hugetlbStatsV2(r *reader) (all []HugetlbStats) {
	r.pageSizes(".current", func(size, prefix string) {
		h := HugetlbStats{PageSize: size, Usage: r.number(prefix + ".current"), Limit: r.number(prefix + ".max")}
		flatKeyed(r.bytes(prefix+".events"), func(key []byte, value uint64) {
			if string(key) == "max" {
				h.LimitHits = value
			}
		})
		all = append(all, h)
	})
	return all
}
