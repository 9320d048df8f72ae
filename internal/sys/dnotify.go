package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// From linux/fcntl.h; x/sys/unix lacks them.
const (
	dnDelete    = 0x8
	dnMultishot = 1 << 31
)

// NotifyDelete makes the kernel send SIGIO to this process whenever something is
// removed from the directory dir, for as long as dir is open (fcntl(2),
// F_NOTIFY). It is for those that come in numbers: unlike an Inotify, of which a
// user has 128 by default, it is not limited.
func NotifyDelete(dir *os.File) error {
	conn, err := dir.SyscallConn()
	if err != nil {
		return err
	}
	ctlErr := conn.Control(func(fd uintptr) { _, err = unix.FcntlInt(fd, unix.F_NOTIFY, dnDelete|dnMultishot) })
	if ctlErr != nil {
		return ctlErr
	}
	if err != nil {
		return fmt.Errorf("fcntl(F_NOTIFY) on %s: %w", dir.Name(), err)
	}
	return nil
}
