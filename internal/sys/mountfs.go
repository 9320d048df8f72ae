package sys

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// mountFlags are the options that mount(2) takes as flags.
var mountFlags = map[string]uintptr{
	"ro": unix.MS_RDONLY, "nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC,
	"noatime": unix.MS_NOATIME, "nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME,
	"bind": unix.MS_BIND, "rbind": unix.MS_BIND | unix.MS_REC, "rw": 0,
}

// MountFS mounts on a directory of the host, with options as in fstab, for programs
// that expect a mount there. An overlay can have more layers than mount(2) has room
// for where the kernel takes them one by one (6.8).
func MountFS(fstype, source, target string, options []string) error {
	if fstype == "overlay" {
		if err := mountOverlay(target, options); !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
			return err
		}
	}
	var flags uintptr
	var data []string
	for _, o := range options {
		if flag, ok := mountFlags[o]; ok {
			flags |= flag
		} else {
			data = append(data, o)
		}
	}
	if err := unix.Mount(source, target, fstype, flags, strings.Join(data, ",")); err != nil {
		return &fs.PathError{Op: "mount " + fstype, Path: target, Err: err}
	}
	if flags&unix.MS_BIND != 0 && flags&unix.MS_RDONLY != 0 {
		if err := unix.Mount("", target, "", flags|unix.MS_REMOUNT, ""); err != nil {
			return &fs.PathError{Op: "make read-only", Path: target, Err: errors.Join(err, Unmount(target))}
		}
	}
	return nil
}

// mountOverlay gives each layer for itself: an fsconfig string holds 256 bytes.
func mountOverlay(target string, options []string) error {
	ctx, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(ctx) }() // the mount has its own reference
	set := func(key, value string) error {
		if err := unix.FsconfigSetString(ctx, key, value); err != nil {
			return fmt.Errorf("overlay: %s=%s: %w", key, value, err)
		}
		return nil
	}
	for _, o := range options {
		key, value, valued := strings.Cut(o, "=")
		switch {
		case key == "lowerdir":
			for layer := range strings.SplitSeq(value, ":") {
				if err := set("lowerdir+", layer); err != nil {
					return err
				}
			}
		case valued:
			if err := set(key, value); err != nil {
				return err
			}
		default:
			if err := unix.FsconfigSetFlag(ctx, o); err != nil {
				return fmt.Errorf("overlay: %s: %w", o, err)
			}
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return fmt.Errorf("overlay: %w", err)
	}
	m, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("overlay: fsmount: %w", err)
	}
	return MountOn(os.NewFile(uintptr(m), "overlay"), target)
}

// Unmount detaches every mount on path, whoever uses it. A path without one, or that is
// not there, is no error.
func Unmount(path string) error {
	for {
		switch err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); {
		case err == nil:
			continue // a second may have been mounted on the first
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT):
			return nil // not, or no longer, a mount point
		default:
			return &fs.PathError{Op: "umount", Path: path, Err: err}
		}
	}
}
