package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// giveAway makes the v2 directory the owner's, with the files in it that the
// kernel says are a delegate's to write (config-linux.md, "Cgroup ownership";
// cgroup-v2.rst, "Delegation Containment"). v1 is not given away: that is not safe.
func (c *Cgroup) giveAway(uid int) error {
	h, ok := c.v2()
	if !ok || c.mode != Unified {
		return nil
	}
	text, err := readFile("/sys/kernel/cgroup/delegate")
	if err != nil {
		return err
	}
	if err := os.Chown(c.dir(h), uid, -1); err != nil {
		return fmt.Errorf("give to user %d: %w", uid, err)
	}
	for file := range strings.FieldsSeq(text) {
		if strings.ContainsRune(file, '/') {
			continue
		}
		if err := os.Chown(c.dir(h)+"/"+file, uid, -1); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("give to user %d: %w", uid, err)
		}
	}
	return nil
}
