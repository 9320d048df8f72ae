package rootfs

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/strake-containers/strake/image/layer"
	"github.com/strake-containers/strake/internal/sys"
)

// overlay mounts the layers under a directory of the container's own.
type overlay struct{ form layer.Form }

func (d overlay) Name() string {
	if d.form == layer.User {
		return OverlayUserXattr
	}
	return Overlay
}

func (d overlay) Form() layer.Form        { return d.form }
func (overlay) Flat() bool                { return false }
func (overlay) MakeDir(path string) error { return os.Mkdir(path, 0o755) }

// Prepare implements Driver. The mount is volatile: what a container wrote dies
// with it, and unmounting it then need not wait for the disk. Index and metacopy
// stay off and redirects unknown whatever the host's default is: layers are shared
// by many overlays, and what a container wrote is read without one.
func (d overlay) Prepare(lowers []string, dir string) (Mount, error) {
	upper, work := filepath.Join(dir, upperDir), filepath.Join(dir, workDir)
	for _, path := range []string{upper, work} {
		// upper is the container's "/": traversable for whoever it runs as.
		if err := os.Mkdir(path, 0o755); err != nil {
			return Mount{}, err
		}
	}
	return Mount{Type: "overlay", Source: "overlay", Options: append(lowerOptions(lowers, d.form),
		"upperdir="+upper, "workdir="+work, "volatile", "index=off")}, nil
}

// escape is what overlayfs wants of a path in lowerdir, which colons separate.
var escape = strings.NewReplacer(`\`, `\\`, ":", `\:`)

// lowerOptions are those of a mount of layers, as mount(8) takes them.
func lowerOptions(lowers []string, form layer.Form) []string {
	escaped := make([]string, len(lowers))
	for i, l := range lowers {
		escaped[i] = escape.Replace(l)
	}
	options := []string{"lowerdir=" + strings.Join(escaped, ":")}
	if form == layer.User {
		return append(options, "userxattr")
	}
	return append(options, "metacopy=off", "redirect_dir=nofollow")
}

// plain copies the image for each container.
type plain struct{ form layer.Form }

func (plain) Name() string              { return Copy }
func (d plain) Form() layer.Form        { return d.form }
func (plain) Flat() bool                { return true }
func (plain) MakeDir(path string) error { return os.Mkdir(path, 0o755) }

// Prepare implements Driver.
func (d plain) Prepare(lowers []string, dir string) (Mount, error) {
	root := filepath.Join(dir, rootDir)
	if err := os.Mkdir(root, 0o755); err != nil {
		return Mount{}, err
	}
	if _, err := layer.Flatten(root, lowers, d.form); err != nil {
		return Mount{}, err
	}
	return bind(root), nil
}

// snapshots gives each container a snapshot of the image's subvolume.
type snapshots struct{ plain }

func (snapshots) Name() string              { return Btrfs }
func (snapshots) MakeDir(path string) error { return sys.CreateSubvolume(path) }

// Prepare implements Driver.
func (snapshots) Prepare(lowers []string, dir string) (Mount, error) {
	root := filepath.Join(dir, rootDir)
	if err := sys.SnapshotSubvolume(lowers[0], root); err != nil {
		return Mount{}, err
	}
	return bind(root), nil
}

func bind(root string) Mount {
	return Mount{Type: "bind", Source: root, Options: []string{"rbind", "rprivate"}}
}
