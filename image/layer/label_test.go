package layer

import (
	"os"
	"path/filepath"
	"testing"
)

func TestROFileLabel(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(label string) {
		t.Helper()
		if got := roFileLabel(root); got != label {
			t.Errorf("%q, want %q", got, label)
		}
	}
	want("")
	write("etc/selinux/config", "# SELINUXTYPE=other\nSELINUX=enforcing\nSELINUXTYPE=targeted\n")
	want("")
	write("etc/selinux/targeted/contexts/lxc_contexts", "process = \"u:r:container_t:s0\"\nro_file=\"u:object_r:container_ro_file_t:s0\"\n")
	want("u:object_r:container_ro_file_t:s0")
	write("usr/share/containers/selinux/contexts", "file=\"f\"\n")
	want("u:object_r:container_ro_file_t:s0")
	write("usr/share/containers/selinux/contexts", "ro_file = \"here\"\n")
	want("here")
}
