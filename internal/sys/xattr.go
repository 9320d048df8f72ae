package sys

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxXattr is the kernel's limit for the value of an extended attribute.
const maxXattr = 64 << 10

// Fgetxattr reads an extended attribute of an open file. One that is not there is
// ENODATA.
func Fgetxattr(f *os.File, name string) ([]byte, error) {
	value := make([]byte, 256)
	for {
		n, err := unix.Fgetxattr(int(f.Fd()), name, value)
		switch {
		case err == nil:
			return value[:n], nil
		case err == unix.ERANGE && len(value) < maxXattr:
			value = make([]byte, maxXattr)
		default:
			return nil, fmt.Errorf("getxattr %s %s: %w", f.Name(), name, err)
		}
	}
}
