package layer

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/opencontainers/selinux/go-selinux"
)

// shareLabel gives a store's directory the SELinux label of what all containers may read
// (ro_file of lxc_contexts), which all that is made in it inherits. An overlay's context=
// does not spare containers the label of its layers' files: mprotect(2) of a mapped one,
// which every dynamically linked program does, asks for that of the file below. A store
// from before is labelled once, with all its layers.
//
// A policy without such a label has its own rules for the store.
func shareLabel(root string, log *slog.Logger) error {
	if !selinux.GetEnabled() {
		return nil
	}
	shared := roFileLabel("/")
	if shared == "" {
		return nil
	}
	has, err := selinux.FileLabel(root)
	if err == nil && has != shared {
		log.Info("image layers get the SELinux label of what containers may read", "dir", root, "label", shared, "before", has)
		err = labelTree(root, shared)
	}
	if errors.Is(err, syscall.ENOTSUP) { // a file system without labels
		return nil
	}
	if err != nil {
		return fmt.Errorf("label image layers for SELinux: %w", err)
	}
	return nil
}

// labelTree labels the directory itself last: until it has its label, the rest is not done.
func labelTree(root, label string) error {
	entries, err := os.ReadDir(root)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := selinux.Chcon(filepath.Join(root, e.Name()), label, true); err != nil {
			return err
		}
	}
	return selinux.SetFileLabel(root, label)
}

// roFileLabel is the ro_file of lxc_contexts, which containers-common may have put beside
// the policy's own; "" if there is none. (go-selinux's ROFileLabel is deprecated, and empty
// until something else has asked for the containers' labels.)
func roFileLabel(root string) string {
	value := func(path, key string) string {
		data, err := os.ReadFile(filepath.Join(root, path))
		if err != nil {
			return ""
		}
		for line := range strings.Lines(string(data)) {
			if name, value, ok := strings.Cut(line, "="); ok && strings.TrimSpace(name) == key {
				return strings.Trim(strings.TrimSpace(value), `"`)
			}
		}
		return ""
	}
	if label := value("usr/share/containers/selinux/contexts", "ro_file"); label != "" {
		return label
	}
	policy := filepath.Base(value("etc/selinux/config", "SELINUXTYPE"))
	return value(filepath.Join("etc/selinux", policy, "contexts/lxc_contexts"), "ro_file")
}
