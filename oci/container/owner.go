package container

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/strake-containers/strake/internal/sys"
)

// owner is whom the state directory belongs to, which is who made the container, as runc
// shows it: his name, or #UID if he has none.
func (c *Container) owner() (string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(c.dir, &st); errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("container %s: %w", c.id, ErrNotExist)
	} else if err != nil {
		return "", fmt.Errorf("container %s: state directory: %w", c.id, err)
	}
	if st.Uid == 0 {
		return "root", nil // as oci/early says, which reads no accounts
	}
	return userName(st.Uid), nil
}

const (
	accountsFile = "/etc/passwd"
	maxAccounts  = 16 << 20
)

// userName is the host's name of a user. Whom the file does not know, as where it cannot be
// read, has none.
func userName(uid uint32) string {
	number := strconv.FormatUint(uint64(uid), 10)
	accounts, err := sys.ReadFile(accountsFile, maxAccounts)
	if err == nil {
		if name := nameIn(string(accounts), number); name != "" {
			return name
		}
	}
	return "#" + number
}

// nameIn is the first name that a passwd(5) has for a uid.
func nameIn(accounts, uid string) string {
	for line := range strings.Lines(accounts) {
		name, rest, _ := strings.Cut(line, ":")
		_, rest, _ = strings.Cut(rest, ":")
		if number, _, more := strings.Cut(rest, ":"); more && number == uid && name != "" && !strings.ContainsAny(name[:1], "#+-") {
			return name
		}
	}
	return ""
}
