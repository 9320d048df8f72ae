package kubelet

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// cgroupDriver is what straked and the kubelet make cgroups with. The kubelet would
// take straked's, but it has to name the one it starts with.
var cgroupDriver = flag.String("cgroup-driver", "cgroupfs", "cgroupfs, or systemd where that is PID 1")

// cgroupRoot is the cgroup below which the kubelet of a test makes its own, the
// same in every hierarchy.
type cgroupRoot string

// systemdRoot is the root with systemd: the slice that a kubelet makes by itself. One
// within a slice of the test's is not to be had, because a kubelet wants every
// controller in what is to hold its own, and systemd has no word for some.
const systemdRoot cgroupRoot = "/kubepods.slice"

// newCgroupRoot makes it, unless that is the kubelet's: as cgroupRoot of its
// configuration it has to be there.
func newCgroupRoot(t *testing.T, name string) (r cgroupRoot, configured string) {
	t.Helper()
	if *cgroupDriver == "systemd" {
		for _, dir := range systemdRoot.dirs() {
			t.Fatalf("%s: there has been another kubelet on this machine", dir)
		}
		return systemdRoot, "/"
	}
	r = cgroupRoot("/" + name)
	for _, at := range hierarchies() {
		if err := os.Mkdir(at+string(r), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return r, string(r)
}

// remove removes it and what the kubelet leaves in it.
func (r cgroupRoot) remove(t *testing.T) {
	t.Helper()
	if r == systemdRoot { // with the slices within
		if out, err := exec.Command("systemctl", "stop", strings.TrimPrefix(string(r), "/")).CombinedOutput(); err != nil {
			t.Errorf("systemctl stop: %v: %s", err, out)
		}
		for _, dir := range r.dirs() {
			t.Errorf("%s: systemd has left it", dir)
		}
		return
	}
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

// isPod says whether dir, of dirs, is a pod's and not one of those around and within.
func isPod(dir string) bool { return podName.MatchString(filepath.Base(dir)) }

var podName = regexp.MustCompile(`(^|-)pod[0-9a-f]`) // podUID, kubepods-besteffort-podUID.slice

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
	for _, dir := range r.of(id) {
		if data, err := os.ReadFile(filepath.Join(dir, file)); err == nil {
			found = strings.TrimSpace(string(data))
		}
	}
	return found
}

// of lists the cgroups whose name has id in it.
func (r cgroupRoot) of(id string) []string {
	if r == systemdRoot {
		id = strings.ReplaceAll(id, "-", "_") // a dash is a slice within another
	}
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
