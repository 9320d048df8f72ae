package chaos

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// realPlugins is where Debian has the CNI plugins.
const realPlugins = "/usr/lib/cni"

// fault is one thing that goes wrong every now and then.
type fault struct {
	name  string
	every time.Duration // on average
	once  func(w *world, rng *rand.Rand) error
}

// run lets it go wrong until enough is closed, and not again before the node has done
// some verbs since, nor while a client asks for calm: on a busy machine it would never
// do any.
func (f *fault) run(w *world, rng *rand.Rand, enough <-chan struct{}) {
	const between = 8
	for done := int64(-between); ; done = w.verbs.Load() {
		wait := time.After(time.Duration(rng.Int64N(int64(2 * f.every))))
		for waiting := true; waiting; waiting = w.verbs.Load() < done+between || w.calm.Load() > 0 {
			select {
			case <-wait:
				wait = time.After(20 * time.Millisecond)
			case <-enough:
				return
			}
		}
		if err := f.once(w, rng); err != nil {
			w.problem("fault %s: %v", f.name, err)
			return
		}
		w.count(f.name)
	}
}

func (w *world) faults(conf, bin string) []fault {
	return []fault{
		{"daemon", 1500 * time.Millisecond, func(w *world, _ *rand.Rand) error {
			w.Kill()
			w.StartDaemon()
			return nil
		}},
		{"monitor", time.Second, (*world).killMonitor},
		{"container", 400 * time.Millisecond, (*world).killContainer},
		{"plugin", 300 * time.Millisecond, func(_ *world, rng *rand.Rand) error {
			plugin := []string{"bridge", "host-local", "portmap"}[rng.IntN(3)]
			how := []string{"before", "during", "after", "hang"}[rng.IntN(4)]
			return os.WriteFile(filepath.Join(bin, "faults", plugin), []byte(how+"\n"), 0o600)
		}},
		{"network", 4 * time.Second, func(_ *world, _ *rand.Rand) error { // to the bridge and back
			on, off := filepath.Join(conf, "10-chaos.conflist"), filepath.Join(conf, "off")
			if err := os.Rename(on, off); errors.Is(err, os.ErrNotExist) {
				return os.Rename(off, on)
			} else {
				return err
			}
		}},
		{"full", 6 * time.Second, func(w *world, rng *rand.Rand) error {
			disk := w.RootDisk
			if rng.IntN(2) == 0 {
				disk = w.LogDisk
			}
			err := disk.Fill()
			<-time.After(time.Duration(rng.IntN(1000)) * time.Millisecond)
			return errors.Join(err, disk.Empty())
		}},
		{"slow", 6 * time.Second, func(w *world, rng *rand.Rand) error {
			disk := w.RootDisk
			if rng.IntN(2) == 0 {
				disk = w.LogDisk
			}
			if err := disk.Freeze(); err != nil {
				return err
			}
			<-time.After(time.Duration(rng.IntN(700)) * time.Millisecond)
			return disk.Thaw()
		}},
	}
}

// killMonitor kills one of the monitors.
func (w *world) killMonitor(rng *rand.Rand) error {
	return killOne(rng, func(dir string) string {
		cmdline, _ := os.ReadFile(dir + "/cmdline") // it may have ended
		if w.containerOf(dir) != "" {
			return "" // an init that waits to be started has its maker's command line
		}
		if strings.Contains(string(cmdline), w.State) && strings.HasSuffix(string(cmdline), "serve\x00") {
			return "monitor"
		}
		return ""
	}, func(string) {})
}

// killContainer kills a process of a container.
func (w *world) killContainer(rng *rand.Rand) error {
	return killOne(rng, w.containerOf, w.noteKill)
}

// containerOf is the id of the container in whose cgroup a process is.
func (w *world) containerOf(dir string) string {
	cgroup, _ := os.ReadFile(dir + "/cgroup") // it may have ended
	for line := range strings.Lines(string(cgroup)) {
		if _, path, ok := strings.Cut(strings.TrimSpace(line), ":"+w.Parent+"/"); ok && len(filepath.Base(path)) == 64 {
			return filepath.Base(path)
		}
	}
	return ""
}

// killOne kills one of the processes that which has a name for, and tells the name
// before.
func killOne(rng *rand.Rand, which func(dir string) string, tell func(string)) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	rng.Shuffle(len(dirs), func(i, j int) { dirs[i], dirs[j] = dirs[j], dirs[i] })
	for _, dir := range dirs {
		name := which(dir)
		if name == "" {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil {
			return err
		}
		p, err := os.FindProcess(pid) // holds a pidfd
		if err != nil {
			return err
		}
		if which(dir) != name { // the number was another's
			continue
		}
		tell(name)
		if err := p.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return err
		}
		return p.Release()
	}
	return nil // there is none just now
}

// pluginWrappers makes a network of Debian's plugins, each of which is killed when
// its name is in faults: before or after its work or in the middle, or after it has
// done nothing for a while.
func pluginWrappers(t *testing.T, dir string) (conf, bin string) {
	t.Helper()
	conf, bin = filepath.Join(dir, "net.d"), filepath.Join(dir, "bin")
	for _, d := range []string{conf, bin, filepath.Join(bin, "faults")} {
		if err := os.Mkdir(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	script := fmt.Sprintf(`#!/bin/sh
name=${0##*/}
fault=%s/faults/$name
[ -e $fault ] || exec %s/$name
mv $fault $fault.$$ 2>/dev/null || exec %[2]s/$name
read how <$fault.$$
rm $fault.$$
case $how in
after) %[2]s/$name >/dev/null ;;
during) exec 3<&0; %[2]s/$name >/dev/null <&3 & sleep 0.0$(($$ %% 9)); kill -KILL $! ;;
hang) sleep 0.5 ;;
esac
kill -KILL $$
`, bin, realPlugins)
	for _, name := range []string{"bridge", "host-local", "portmap"} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	network := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "chaos", "plugins": [
  {"type": "bridge", "bridge": "chaos0", "isGateway": true, "ipMasq": true, "ipam": {
    "type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.66.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}`, filepath.Join(dir, "leases"))
	if err := os.WriteFile(filepath.Join(conf, "10-chaos.conflist"), []byte(network), 0o600); err != nil {
		t.Fatal(err)
	}
	return conf, bin
}
