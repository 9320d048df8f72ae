package sys

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// NewMappedOverlay makes an overlay whose lower layers have the id mapping of a user
// namespace. It is attached nowhere; the caller closes it. Options are overlayfs's
// own, key=value or a flag; layers are "lowerdir+=PATH", topmost first.
//
// The layers are mapped where they are, in a mount namespace that is there for this
// call only; the overlay has its own copies of their mounts.
func NewMappedOverlay(options []string, userns *os.File) (overlay *os.File, err error) {
	err = onThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return os.NewSyscallError("unshare(CLONE_NEWNS)", err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return os.NewSyscallError("mount(MS_PRIVATE)", err)
		}
		for _, o := range options {
			if layer, ok := strings.CutPrefix(o, "lowerdir+="); ok {
				if err := coverMapped(layer, userns); err != nil {
					return err
				}
			}
		}
		overlay, err = NewOverlay(options)
		return err
	})
	return overlay, err
}

// coverMapped mounts a directory on itself, idmapped.
func coverMapped(path string, userns *os.File) error {
	m, err := CloneMount(path, false)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }() // attached, or of no use
	if err := IDMapMount(m, userns, false); err != nil {
		return fmt.Errorf("idmap: %w (does the file system of %s take id mappings?)", err, path)
	}
	if err := unix.MoveMount(Fd(m), "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: path, Err: err}
	}
	return nil
}

// NewOverlay makes an overlay that is attached nowhere; the caller closes it. Options
// are as for NewMappedOverlay, and "ro".
func NewOverlay(options []string) (*os.File, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("overlay: fsopen: %w", err)
	}
	defer func() { _ = unix.Close(fs) }() // the mount has its own reference
	attributes := 0
	for _, o := range append([]string{"source=overlay"}, options...) {
		key, value, ok := strings.Cut(o, "=")
		switch {
		case ok:
			err = unix.FsconfigSetString(fs, key, value)
		case o == "ro":
			attributes |= unix.MOUNT_ATTR_RDONLY
		default:
			err = unix.FsconfigSetFlag(fs, key)
		}
		if err != nil {
			return nil, fmt.Errorf("overlay: option %q: %w%s", o, err, fsLog(fs))
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("overlay: create: %w%s", err, fsLog(fs))
	}
	m, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return nil, fmt.Errorf("overlay: fsmount: %w", err)
	}
	return os.NewFile(uintptr(m), "overlay"), nil
}

// fsLog is the last that the kernel has to say of a file system context.
func fsLog(fs int) string {
	buf := make([]byte, 1024)
	said := ""
	for {
		n, err := unix.Read(fs, buf)
		if err != nil || n == 0 {
			return said
		}
		said = " (" + strings.TrimSpace(string(buf[:n])) + ")"
	}
}
