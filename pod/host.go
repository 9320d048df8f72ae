package pod

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
	"github.com/strake-containers/strake/pod/bundle"
)

// hostFacts are what specs depend on; none of it changes while we run, so it is looked
// for once.
var hostFacts = sync.OnceValue(func() bundle.Host {
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	h := bundle.Host{
		CgroupV2: exists("/sys/fs/cgroup/cgroup.controllers"),
		Seccomp:  seccompProfile,
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease") // always there
	var major, minor int
	if _, err := fmt.Sscanf(string(release), "%d.%d", &major, &minor); err == nil {
		h.Layered = major > 6 || major == 6 && minor >= 8
	}
	h.UserNS = h.Layered && exists("/proc/self/ns/user")
	enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	h.AppArmor = err == nil && bytes.HasPrefix(enabled, []byte("Y"))
	h.DefaultAppArmor, h.AppArmorLoaded = appArmorProfile, appArmorLoaded
	if h.CgroupV2 {
		controllers, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers") // read just now
		h.Hugetlb = slices.Contains(strings.Fields(string(controllers)), "hugetlb")
		swaps, _ := os.ReadFile("/proc/swaps") // missing: no swap
		h.SwapLimit = bytes.Count(swaps, []byte("\n")) > 1 || exists("/proc/swaps")
	} else {
		h.Hugetlb = exists("/sys/fs/cgroup/hugetlb")
		h.SwapLimit = exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")
	}
	h.Capabilities = ownCapabilities()
	return h
})

// UserNamespaces says whether pods can have user namespaces of their own on this host.
func UserNamespaces() bool { return hostFacts().UserNS }

// ownCapabilities are the ones that this process, and so its children, can give.
func ownCapabilities() []string {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return nil
	}
	var mask uint64
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "CapBnd:"); ok {
			mask, _ = strconv.ParseUint(strings.TrimSpace(v), 16, 64) // the kernel's own number
		}
	}
	var names []string
	for i, c := range bundle.AllCapabilities {
		if mask&(1<<i) != 0 {
			names = append(names, c)
		}
	}
	return names
}

// maxProfile bounds a seccomp profile of the node's administrator.
const maxProfile = 4 << 20

// seccompProfile makes the filter of a profile for a process with these
// capabilities. The default is docker's.
func seccompProfile(p bundle.Profile, bounding []string) (*specs.LinuxSeccomp, error) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: bounding}}}
	if p.Type == bundle.ProfileRuntimeDefault {
		return seccomp.GetDefaultProfile(spec)
	}
	path := strings.TrimPrefix(p.LocalhostRef, "localhost/")
	if !filepath.IsAbs(path) {
		return nil, fmt.Errorf("localhost_ref: %q is not an absolute path", p.LocalhostRef)
	}
	data, err := sys.ReadFile(path, maxProfile)
	if err != nil {
		return nil, err
	}
	profile, err := seccomp.LoadProfile(string(data), spec)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return profile, nil
}

// prepareHostPaths makes the directories that are to be mounted and are not
// there, as every runtime does today, and checks that mounts can propagate as
// they are to.
func prepareHostPaths(mounts []bundle.Mount) error {
	for i := range mounts {
		m := &mounts[i]
		if m.HostPath == "" || m.Image != "" || m.Tmpfs > 0 {
			continue
		}
		if _, err := os.Stat(m.HostPath); errors.Is(err, fs.ErrNotExist) {
			if err := os.MkdirAll(m.HostPath, 0o755); err != nil {
				return fmt.Errorf("mounts[%d].host_path: %w", i, err)
			}
		} else if err != nil {
			return fmt.Errorf("mounts[%d].host_path: %w", i, err)
		}
		if m.Propagation != bundle.PropagationPrivate {
			if err := checkPropagation(m); err != nil {
				return fmt.Errorf("mounts[%d].propagation: %w", i, err)
			}
		}
	}
	return nil
}

// checkPropagation: what is mounted on the host can only reach a container from
// a shared (or slave) mount.
func checkPropagation(m *bundle.Mount) error {
	path, err := filepath.EvalSymlinks(m.HostPath)
	if err != nil {
		return err
	}
	info, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	point, tags := mountOf(info, path)
	shared, slave := strings.Contains(tags, "shared:"), strings.Contains(tags, "master:")
	if shared || slave && m.Propagation == bundle.PropagationHostToContainer {
		return nil
	}
	return errorf(ErrInvalid, "%q is on mount %q, which is not shared: run `mount --make-rshared %s`", path, point, point)
}

// mountOf finds in proc_pid_mountinfo(5) the mount that a path is on, and its
// optional fields.
func mountOf(mountinfo []byte, path string) (point, tags string) {
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	for line := range strings.Lines(string(mountinfo)) { // of any length: an overlay names its layers
		fields := strings.Fields(line)
		if len(fields) < 7 {
			continue
		}
		p := unescape.Replace(fields[4])
		below := path == p || strings.HasPrefix(path, strings.TrimSuffix(p, "/")+"/")
		// The last of those at one point is on top.
		if below && len(p) >= len(point) {
			end := slices.Index(fields, "-")
			point, tags = p, strings.Join(fields[6:max(end, 6)], " ")
		}
	}
	return point, tags
}

// hostDevices finds the nodes behind the devices that were asked for, and all of
// the host's for a privileged container.
func hostDevices(c *bundle.ContainerConfig, hostsToo bool) ([]bundle.DeviceNode, error) {
	var nodes []bundle.DeviceNode
	if c.Security.Privileged && hostsToo {
		all, err := devicesBelow("/dev", "/dev", "rwm")
		if err != nil {
			return nil, err
		}
		nodes = all
	}
	for i, d := range c.Devices {
		field := fmt.Sprintf("devices[%d]", i)
		path, err := filepath.EvalSymlinks(d.HostPath)
		if err != nil {
			return nil, fmt.Errorf("%s.host_path: %w", field, err)
		}
		target, permissions := d.ContainerPath, d.Permissions
		if target == "" {
			target = d.HostPath
		}
		if permissions == "" {
			permissions = "rwm"
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("%s.host_path: %w", field, err)
		}
		if info.IsDir() {
			below, err := devicesBelow(path, target, permissions)
			if err != nil {
				return nil, fmt.Errorf("%s.host_path: %w", field, err)
			}
			nodes = append(nodes, below...)
			continue
		}
		node, ok := deviceNode(info, target, permissions)
		if !ok {
			return nil, errorf(ErrInvalid, "%s.host_path: %q is no device", field, d.HostPath)
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// notDevices are below /dev what every container has of its own.
var notDevices = []string{"/dev/pts", "/dev/shm", "/dev/fd", "/dev/mqueue", "/dev/console"}

func devicesBelow(root, target, permissions string) ([]bundle.DeviceNode, error) {
	var nodes []bundle.DeviceNode
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // devices come and go
		}
		if err != nil {
			return err
		}
		if slices.Contains(notDevices, path) {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type()&fs.ModeDevice == 0 {
			return nil // a directory to go into, or a link
		}
		info, err := d.Info()
		if err != nil {
			return nil // gone
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if node, ok := deviceNode(info, filepath.Join(target, relative), permissions); ok {
			nodes = append(nodes, node)
		}
		return nil
	})
	return nodes, err
}

func deviceNode(info fs.FileInfo, target, permissions string) (bundle.DeviceNode, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeDevice == 0 {
		return bundle.DeviceNode{}, false
	}
	major, minor := deviceNumber(uint64(st.Rdev)) //nolint:unconvert // its type differs by architecture
	return bundle.DeviceNode{
		Path: target, Block: info.Mode()&fs.ModeCharDevice == 0, Major: major, Minor: minor,
		Mode: uint32(info.Mode().Perm()), UID: st.Uid, GID: st.Gid, Permissions: permissions,
	}, true
}

// deviceNumber takes dev_t apart (makedev(3)).
func deviceNumber(dev uint64) (major, minor int64) {
	return int64(dev>>8&0xfff | dev>>32&^0xfff), int64(dev&0xff | dev>>12&^0xff&0xffffffff)
}

// readSpec reads a bundle's config.json, which we wrote.
func readSpec(dir string) (*specs.Spec, error) {
	data, err := os.ReadFile(filepath.Join(dir, specFile))
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		return nil, fmt.Errorf("%s/config.json: %w", dir, err)
	}
	if spec.Process == nil {
		return nil, fmt.Errorf("%s/config.json: has no process", dir)
	}
	return &spec, nil
}
