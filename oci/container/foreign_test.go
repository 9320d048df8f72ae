package container

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// TestForeignDirectories: what is below the state root and nobody's container is not listed,
// nor is it removed by whatever force.
func TestForeignDirectories(t *testing.T) {
	root := t.TempDir()
	file := func(id, name, text string) {
		must(t, os.MkdirAll(filepath.Join(root, id), 0o700))
		must(t, os.WriteFile(filepath.Join(root, id, name), []byte(text), 0o600))
	}
	file("letters", "letter", "dear")
	file("bundle", "config.json", `{"ociVersion":"1.3.0"}`)
	file("bundle", "rootfs", "")
	file("runcs", "state.json", `{"id":"runcs","init_process_pid":1,"init_process_start":7,"created":"2026-11-26T15:05:18Z","config":{}}`)
	file("later", "state.json", `{"version":2,"id":"later","created":"2026-11-26T15:05:18Z"}`)

	list, err := List(root)
	if len(list) != 0 {
		t.Errorf("list: %+v", list)
	}
	contains(t, err.Error(), "runcs")
	contains(t, err.Error(), "later")
	for _, id := range []string{"letters", "bundle", "runcs", "later"} {
		c, err := Load(root, id)
		must(t, err)
		others := id == "runcs" || id == "later"
		if _, err := c.State(); errors.Is(err, ErrNotExist) == others {
			t.Errorf("state of %s: %v", id, err)
		}
		if err := c.Delete(t.Context(), false); err == nil {
			t.Errorf("%s is deleted", id)
		}
		if err := c.Delete(t.Context(), true); (err != nil) != others {
			t.Errorf("delete %s by force: %v", id, err)
		}
		if left, err := os.ReadDir(c.dir); err != nil || len(left) == 0 {
			t.Errorf("%s is removed: %v, %v", id, left, err)
		}
	}
}

// TestRemains: a removal that was cut off once the record had gone, or that an exec's kept
// program came in the way of, has left nothing that another could say or lose.
func TestRemains(t *testing.T) {
	root := t.TempDir()
	for _, files := range [][]string{nil, {"exec.0"}, {".strake-tmp-exec.1-7-0", "start.sock"}} {
		for _, force := range []bool{false, true} {
			must(t, os.Mkdir(filepath.Join(root, "a"), 0o700))
			for _, name := range files {
				must(t, os.WriteFile(filepath.Join(root, "a", name), nil, 0o600))
			}
			c, err := Load(root, "a")
			must(t, err)
			if _, err := c.State(); !errors.Is(err, ErrNotExist) {
				t.Errorf("%q: state: %v", files, err)
			}
			if list, err := List(root); err != nil || len(list) > 0 {
				t.Errorf("%q: list: %v, %v", files, list, err)
			}
			must(t, c.Delete(t.Context(), force))
			if _, err := os.Lstat(c.dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%q, force %v: it is left: %v", files, force, err)
			}
		}
	}
}

// TestDeleteOfUnreadable: a record that cannot be read keeps nobody alive: the config says
// which cgroup is the container's.
func TestDeleteOfUnreadable(t *testing.T) {
	e := newEnv(t)
	s := e.spec("sleep 1000")
	s.Hooks = &specs.Hooks{}
	c, p := e.start(s)
	must(t, os.WriteFile(filepath.Join(c.dir, stateFile), []byte(`{"version":`), 0o600))
	if err := c.Delete(t.Context(), false); err == nil {
		t.Error("it is deleted without force")
	}
	must(t, c.Delete(t.Context(), true))
	if got := wait(t, p); got != 137 {
		t.Errorf("init ended with %v", got)
	}
}
