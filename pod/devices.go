package pod

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"slices"
	"sync"

	"github.com/moby/profiles/apparmor"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/strake-containers/strake/pod/bundle"
)

// cdiDevices are the qualified names (vendor.com/class=name) that a container asks
// for: by its field, and by annotations as device plugins make them.
func cdiDevices(c *ContainerConfig) ([]string, error) {
	devices := slices.Clone(c.CDIDevices)
	for _, key := range slices.Sorted(maps.Keys(c.Annotations)) {
		_, more, err := cdi.ParseAnnotations(map[string]string{key: c.Annotations[key]})
		if err != nil {
			return nil, errorf(ErrInvalid, "annotations[%s]: %w", key, err)
		}
		devices = append(devices, more...)
	}
	seen := map[string]bool{}
	return slices.DeleteFunc(devices, func(d string) bool {
		again := seen[d]
		seen[d] = true
		return again
	}), nil
}

// injectDevices adds to a container's spec what the CDI files say of the devices
// that it asks for. The files are read when somebody asks; a broken one is no
// obstacle to devices of others.
func (m *Manager) injectDevices(spec *specs.Spec, devices []string) error {
	if len(devices) == 0 {
		return nil
	}
	dirs := m.settings().CDIDirs
	cache, err := cdi.NewCache(cdi.WithSpecDirs(dirs...), cdi.WithAutoRefresh(false))
	if err != nil {
		return fmt.Errorf("CDI_devices: %w", err)
	}
	if _, err := cache.InjectDevices(spec, devices...); err != nil {
		broken := cache.GetErrors()
		for _, path := range slices.Sorted(maps.Keys(broken)) {
			err = errors.Join(err, fmt.Errorf("%s: %w", path, errors.Join(broken[path]...)))
		}
		return errorf(ErrInvalid, "CDI_devices: %w (files are looked for in %q)", err, dirs)
	}
	return nil
}

// defaultAppArmor is the name of the profile of containers that name none.
const defaultAppArmor = "strake-default"

// appArmorLoad lets one container load it.
var appArmorLoad sync.Mutex

// appArmorProfile loads the default profile unless it is loaded, which somebody may
// undo at any time, and returns its name.
func appArmorProfile() (string, error) {
	loaded, err := findAppArmor()
	if err == nil && !loaded {
		err = loadAppArmor()
	}
	switch {
	case errors.Is(err, bundle.ErrNoDefaultProfile):
		return "", err
	case err != nil:
		return "", fmt.Errorf("load the default AppArmor profile: %w", err)
	}
	return defaultAppArmor, nil
}

// findAppArmor says whether the default profile is loaded; ErrNoDefaultProfile if it is not,
// nor can be.
func findAppArmor() (loaded bool, err error) {
	if loaded, err = apparmor.IsLoaded(defaultAppArmor); loaded || err != nil {
		return loaded, err
	}
	if _, missing := exec.LookPath("apparmor_parser"); missing != nil {
		return false, fmt.Errorf("%w: %q is not loaded, and apparmor_parser, which would load it, is not there: install the package apparmor", bundle.ErrNoDefaultProfile, defaultAppArmor)
	}
	return false, nil
}

func loadAppArmor() error {
	appArmorLoad.Lock()
	defer appArmorLoad.Unlock()
	if loaded, err := apparmor.IsLoaded(defaultAppArmor); loaded || err != nil {
		return err
	}
	return apparmor.InstallDefault(defaultAppArmor)
}

// warnUnconfined says once, at the start, that containers will run without a profile where
// others would have one.
func warnUnconfined(log *slog.Logger, h bundle.Host) {
	if !h.AppArmor {
		return
	}
	if _, err := findAppArmor(); errors.Is(err, bundle.ErrNoDefaultProfile) {
		log.Warn("containers that ask for no AppArmor profile run without one", "error", err)
	}
}

// appArmorLoaded says whether there is such a profile; yes where that cannot be read,
// for the kernel has the last word.
func appArmorLoaded(name string) bool {
	loaded, err := apparmor.IsLoaded(name)
	return loaded || err != nil
}

// seccompOf is how a handler's containers get their seccomp filters: its default
// profile may be a file.
func (m *Manager) seccompOf(r Runtime) func(bundle.Profile, []string) (*specs.LinuxSeccomp, error) {
	if r.SeccompProfile == "" {
		return m.host.Seccomp
	}
	return func(p bundle.Profile, bounding []string) (*specs.LinuxSeccomp, error) {
		if p.Type == bundle.ProfileRuntimeDefault {
			p = bundle.Profile{Type: bundle.ProfileLocalhost, LocalhostRef: r.SeccompProfile}
		}
		return m.host.Seccomp(p, bounding)
	}
}
