package resctrl

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fake is a tree like the kernel's, whose groups come with their files and are
// removed with them.
func fake(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	fill := func(dir string) {
		for name, text := range map[string]string{"tasks": "", "schemata": "    MB:0=100;1=100\n    L3:0=7ff;1=7ff\n"} {
			must(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
		}
		must(t, os.Mkdir(filepath.Join(dir, "mon_groups"), 0o755))
	}
	oldMkdir, oldRmdir := mkdir, rmdir
	t.Cleanup(func() { mkdir, rmdir = oldMkdir, oldRmdir })
	mkdir = func(dir string) error {
		err := os.Mkdir(dir, 0o755)
		if err == nil {
			fill(dir)
		}
		return err
	}
	rmdir = func(dir string) error {
		if _, err := os.Stat(dir); err != nil {
			return err
		}
		return os.RemoveAll(dir)
	}
	fill(root)
	must(t, os.Mkdir(filepath.Join(root, "info"), 0o755))
	must(t, os.WriteFile(filepath.Join(root, "info/last_cmd_status"), []byte("Mask out of range\n"), 0o644))
	return root
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, path ...string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	must(t, err)
	return string(data)
}

func TestGroups(t *testing.T) {
	for _, tt := range []struct {
		name     string
		exists   string // a class that is there before
		cfg      specs.LinuxIntelRdt
		dir      string // of the class
		schemata string // written there; "" is nothing
		monitor  bool
		removed  []string
	}{
		{name: "own class", dir: "c1", removed: []string{"c1"}},
		{name: "own class with schemas", cfg: specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20"}, dir: "c1", schemata: "MB:0=20\n", removed: []string{"c1"}},
		{name: "schemata come last", cfg: specs.LinuxIntelRdt{MemBwSchema: "MB:0=20", Schemata: []string{"L3:0=f", "L2:0=3"}}, dir: "c1", schemata: "L3:0=f\nL2:0=3\n", removed: []string{"c1"}},
		{name: "own class that is there", exists: "c1", cfg: specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f"}, dir: "c1", schemata: "L3:0=f\n"},
		{name: "named class, made", cfg: specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f"}, dir: "gold", schemata: "L3:0=f\n"},
		{name: "named class, there", exists: "gold", cfg: specs.LinuxIntelRdt{ClosID: "gold"}, dir: "gold"},
		{name: "named class, as wanted", exists: "gold", cfg: specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:1=007FF", MemBwSchema: "MB:0=100"}, dir: "gold"},
		{name: "the default class", cfg: specs.LinuxIntelRdt{ClosID: "/", EnableMonitoring: true}, dir: ".", monitor: true, removed: []string{"mon_groups/c1"}},
		{name: "monitored", cfg: specs.LinuxIntelRdt{EnableMonitoring: true}, dir: "c1", monitor: true, removed: []string{"c1/mon_groups/c1", "c1"}},
		{name: "monitored in a named class", exists: "gold", cfg: specs.LinuxIntelRdt{ClosID: "gold", EnableMonitoring: true}, dir: "gold", monitor: true, removed: []string{"gold/mon_groups/c1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := fake(t)
			if tt.exists != "" {
				must(t, mkdir(filepath.Join(root, tt.exists)))
			}
			g := newOn(root, "c1", &tt.cfg)
			missing := g.Missing()
			must(t, g.Create())
			must(t, Join(g.Dirs(), 77))
			if got := read(t, root, tt.dir, "tasks"); got != "77" {
				t.Errorf("tasks %q", got)
			}
			if got := read(t, root, tt.dir, "schemata"); tt.schemata != "" && !strings.HasPrefix(got, tt.schemata) || tt.schemata == "" && !strings.HasPrefix(got, "    MB:0=100") {
				t.Errorf("schemata %q", got)
			}
			for _, set := range [][2]string{{"L3:0=3", ""}, {"", "MB:0=30"}} { // one at a time
				must(t, g.Set(set[0], set[1]))
				if got, want := read(t, root, tt.dir, "schemata"), set[0]+set[1]+"\n"; !strings.HasPrefix(got, want) {
					t.Errorf("schemata %q, want %q", got, want)
				}
			}
			if tt.monitor {
				if got := read(t, root, tt.dir, "mon_groups/c1/tasks"); got != "77" {
					t.Errorf("tasks of the monitoring group: %q", got)
				}
			}
			var want []string
			for _, dir := range tt.removed {
				want = append(want, filepath.Join(root, dir))
			}
			if !slices.Equal(missing, want) {
				t.Errorf("goes with the container: %v, want %v", missing, want)
			}
			must(t, Remove(missing))
			must(t, Remove(missing)) // a second time too
			if !exists(filepath.Join(root, tt.dir)) != slices.Contains(tt.removed, tt.dir) {
				t.Error("the class is removed although it was there, or left although it was not")
			}
		})
	}
}

func TestRefusals(t *testing.T) {
	for _, tt := range []struct {
		exists string
		cfg    specs.LinuxIntelRdt
		want   string
	}{
		{"", specs.LinuxIntelRdt{ClosID: "gold"}, "linux.intelRdt.closID: "},
		{"gold", specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L3:0=f"}, "linux.intelRdt.l3CacheSchema: "},
		{"gold", specs.LinuxIntelRdt{ClosID: "gold", MemBwSchema: "MB:2=100"}, "linux.intelRdt.memBwSchema: "},
		{"gold", specs.LinuxIntelRdt{ClosID: "gold", L3CacheSchema: "L2:0=f"}, "linux.intelRdt.l3CacheSchema: "},
	} {
		root := fake(t)
		if tt.exists != "" {
			must(t, mkdir(filepath.Join(root, tt.exists)))
		}
		if err := newOn(root, "c1", &tt.cfg).Create(); err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("error %v, want %s", err, tt.want)
		}
	}
	root := fake(t)
	must(t, mkdir(filepath.Join(root, "c1")))
	must(t, os.Remove(filepath.Join(root, "c1/schemata")))
	g := newOn(root, "c1", &specs.LinuxIntelRdt{Schemata: []string{"L3:0=fffff"}})
	if err := g.Create(); err == nil || !strings.Contains(err.Error(), "(Mask out of range)") {
		t.Errorf("error %v without the kernel's words", err)
	}
	if _, err := New("c1", &specs.LinuxIntelRdt{}); err != nil && !errors.Is(err, ErrUnsupported) {
		t.Errorf("error %v", err)
	}
}

func TestMountPoint(t *testing.T) {
	const text = "22 1 0:20 / /sys rw shared:7 - sysfs sysfs rw\n30 22 0:27 / /mnt/rdt rw,relatime shared:9 - resctrl resctrl rw,mba_MBps\n"
	if got := mountPoint(text); got != "/mnt/rdt" {
		t.Errorf("mount point %q", got)
	}
	if got := mountPoint("22 1 0:20 / /resctrl rw - tmpfs resctrl rw\n"); got != "" {
		t.Errorf("mount point %q", got)
	}
}
