package kubelet

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// cgroupRoot is the cgroup below which the kubelet of a test makes its own, the
// same in every hierarchy.
type cgroupRoot string

// make makes it: the kubelet wants it to be there.
func (r cgroupRoot) make(t *testing.T) {
	t.Helper()
	for _, at := range hierarchies() {
		if err := os.Mkdir(at+string(r), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// remove removes it and what the kubelet leaves in it.
func (r cgroupRoot) remove(t *testing.T) {
	t.Helper()
	for _, dir := range r.dirs() {
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	}
}

// dirs lists it and those below it in every hierarchy, the deepest first.
func (r cgroupRoot) dirs() []string {
	var dirs []string
	for _, at := range hierarchies() {
		_ = filepath.WalkDir(at+string(r), func(path string, e fs.DirEntry, err error) error {
			if err == nil && e.IsDir() {
				dirs = append([]string{path}, dirs...)
			}
			return nil // what has gone is what we want
		})
	}
	return dirs
}

// limits reads the limits of the cgroup whose name has id in it, a container's
// or a pod's, from the kernel.
func (r cgroupRoot) limits(id string) string {
	if unified() {
		return fmt.Sprintf("memory %s, cpu %s", r.read(id, "memory.max"), strings.ReplaceAll(r.read(id, "cpu.max"), " ", "/"))
	}
	return fmt.Sprintf("memory %s, cpu %s/%s", r.read(id, "memory.limit_in_bytes"), r.read(id, "cpu.cfs_quota_us"), r.read(id, "cpu.cfs_period_us"))
}

// read returns the content of file in the outermost cgroup whose name has id in
// it, of the hierarchy that has such a file, or nothing.
func (r cgroupRoot) read(id, file string) string {
	found := ""
	for _, dir := range r.dirs() {
		if !strings.Contains(filepath.Base(dir), id) {
			continue
		}
		if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			found = strings.TrimSpace(string(data))
		}
	}
	return found
}

// of lists the cgroups whose name has id in it.
func (r cgroupRoot) of(id string) []string {
	return slices.DeleteFunc(r.dirs(), func(dir string) bool { return !strings.Contains(filepath.Base(dir), id) })
}

func unified() bool {
	_, err := os.Stat("/sys/fs/cgroup/cgroup.controllers")
	return err == nil
}

// hierarchies are the mount points of the cgroup file systems.
func hierarchies() []string {
	if unified() {
		return []string{"/sys/fs/cgroup"}
	}
	var roots []string
	entries, _ := os.ReadDir("/sys/fs/cgroup") // it is there
	for _, e := range entries {
		if e.IsDir() { // the rest are links to combined ones
			roots = append(roots, filepath.Join("/sys/fs/cgroup", e.Name()))
		}
	}
	return roots
}
