// Package hooks reads the node administrator's directories of OCI hooks
// (containers' oci-hooks(5), JSON schema 1.0.0) and says which of them a container
// gets. It runs none and keeps nothing: the directories are read for each container,
// so that a hook that was put there is in force. A file that cannot be understood is
// an error: what it was to enforce would be missing.
package hooks

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/strake-containers/strake/internal/sys"
)

const (
	version = "1.0.0"
	maxFile = 1 << 20
	maxAll  = 1000
)

// file is one hook's JSON.
type file struct {
	Version string     `json:"version"`
	Hook    specs.Hook `json:"hook"`
	When    when       `json:"when"`
	Stages  []string   `json:"stages"`
}

// when has conditions that all have to hold; one that is not there does.
type when struct {
	Always        *bool             `json:"always"`
	Annotations   map[string]string `json:"annotations"`
	Commands      []string          `json:"commands"`
	HasBindMounts *bool             `json:"hasBindMounts"`
}

// Container is what conditions are about.
type Container struct {
	Annotations   map[string]string
	HasBindMounts bool // that were asked for
}

// Add gives a container's spec the hooks of these directories that it gets. A file
// in a later directory replaces one of its name in an earlier; all run in the order of
// their names. A directory that is not there has none.
func Add(spec *specs.Spec, dirs []string, c Container) error {
	paths := map[string]string{}
	for _, dir := range dirs {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("hooks_dirs: %w", err)
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), ".json") {
				paths[e.Name()] = filepath.Join(dir, e.Name())
			}
		}
	}
	if len(paths) > maxAll {
		return fmt.Errorf("hooks_dirs: more than %d hooks", maxAll)
	}
	names := make([]string, 0, len(paths))
	for name := range paths {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		f, err := read(paths[name])
		if err == nil {
			err = f.add(spec, c)
		}
		if err != nil {
			return fmt.Errorf("hooks_dirs: %s: %w", paths[name], err)
		}
	}
	return nil
}

func read(path string) (*file, error) {
	data, err := sys.ReadFile(path, maxFile)
	if err != nil {
		return nil, err
	}
	return parse(data)
}

func parse(data []byte) (*file, error) {
	var f file
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	switch {
	case f.Version != version:
		return nil, fmt.Errorf("version: %q is not %q", f.Version, version)
	case !filepath.IsAbs(f.Hook.Path):
		return nil, fmt.Errorf("hook.path: %q is not an absolute path", f.Hook.Path)
	case len(f.Stages) == 0:
		return nil, errors.New("stages: is empty")
	case f.When.Always == nil && f.When.Annotations == nil && f.When.Commands == nil && f.When.HasBindMounts == nil:
		return nil, errors.New("when: is empty: say always, annotations, commands or hasBindMounts")
	}
	if t := f.Hook.Timeout; t != nil && *t <= 0 {
		return nil, fmt.Errorf("hook.timeout: %d is not positive", *t)
	}
	return &f, nil
}

// add appends the hook if its conditions hold.
func (f *file) add(spec *specs.Spec, c Container) error {
	fits, err := f.When.fits(spec, c)
	if err != nil || !fits {
		return err
	}
	if spec.Hooks == nil {
		spec.Hooks = &specs.Hooks{}
	}
	h := spec.Hooks
	for i, stage := range f.Stages {
		to := map[string]*[]specs.Hook{
			"prestart": &h.Prestart, "createRuntime": &h.CreateRuntime, "createContainer": &h.CreateContainer, //nolint:staticcheck // deprecated, yet in files that are in use
			"startContainer": &h.StartContainer, "poststart": &h.Poststart, "poststop": &h.Poststop,
		}[stage]
		if to == nil {
			return fmt.Errorf("stages[%d]: %q is unknown", i, stage)
		}
		*to = append(*to, f.Hook)
	}
	return nil
}

func (w *when) fits(spec *specs.Spec, c Container) (bool, error) {
	fits := true
	if w.Always != nil {
		fits = *w.Always
	}
	if w.HasBindMounts != nil {
		fits = fits && *w.HasBindMounts == c.HasBindMounts
	}
	for keys, values := range w.Annotations {
		key, err := regexp.Compile(keys)
		if err != nil {
			return false, fmt.Errorf("when.annotations: %w", err)
		}
		value, err := regexp.Compile(values)
		if err != nil {
			return false, fmt.Errorf("when.annotations[%s]: %w", keys, err)
		}
		found := false
		for k, v := range c.Annotations {
			found = found || key.MatchString(k) && value.MatchString(v)
		}
		fits = fits && found
	}
	if len(w.Commands) == 0 {
		return fits, nil
	}
	ran := false
	for i, text := range w.Commands {
		command, err := regexp.Compile(text)
		if err != nil {
			return false, fmt.Errorf("when.commands[%d]: %w", i, err)
		}
		ran = ran || spec.Process != nil && len(spec.Process.Args) > 0 && command.MatchString(spec.Process.Args[0])
	}
	return fits && ran, nil
}
