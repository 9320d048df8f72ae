package cgroup

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// writeDevicesV1 makes a v1 directory's lists say what the filter says. Of an
// old list only the difference is written, so that a running process never
// meets a moment without its devices.
func writeDevicesV1(dir string, f deviceFilter, fresh bool) error {
	now := deviceFilter{allow: true} // what a new directory has, unless its parent has less
	if !fresh {
		list, err := readFile(dir + "/devices.list")
		if err != nil {
			return err
		}
		if now, err = parseDeviceList(list); err != nil {
			return fmt.Errorf("%s/devices.list: %w", dir, err)
		}
	}
	if now.allow != f.allow {
		// The line "a" sets the default and forgets every exception.
		list := "/devices.deny"
		if f.allow {
			list = "/devices.allow"
		}
		if err := writeLines(dir+list, []string{"a"}); err != nil {
			return err
		}
		now = deviceFilter{allow: f.allow}
	}
	allow, deny := now.changes(f)
	// Allowing first: a device in both lists is never missing in between.
	if err := writeLines(dir+"/devices.allow", allow); err != nil {
		return err
	}
	return writeLines(dir+"/devices.deny", deny)
}

// changes returns the lines for devices.allow and devices.deny that turn a v1
// list from now into want, which has the same default.
func (now deviceFilter) changes(want deviceFilter) (allow, deny []string) {
	var more, less []string // exceptions
	for _, e := range want.exceptions {
		if !slices.Contains(now.exceptions, e) {
			more = append(more, e.String())
		}
	}
	for _, e := range now.exceptions {
		i := slices.IndexFunc(want.exceptions, func(w exception) bool { return w.nodes == e.nodes })
		if i >= 0 {
			e.access &^= want.exceptions[i].access
		}
		if e.access != 0 {
			less = append(less, e.String())
		}
	}
	if want.allow {
		return less, more
	}
	return more, less
}

// parseDeviceList reads devices.list: "a *:* rwm" is the default "allow", of
// which the kernel shows no exceptions; anything else is a list of exceptions
// from "deny".
func parseDeviceList(list string) (deviceFilter, error) {
	var f deviceFilter
	for line := range strings.Lines(list) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return f, fmt.Errorf("line %q has not three fields", line)
		}
		if fields[0] == "a" {
			return deviceFilter{allow: true}, nil
		}
		e := exception{nodes: deviceNodes{kind: fields[0][0]}}
		major, minor, _ := strings.Cut(fields[1], ":")
		var err error
		if e.nodes.major, err = deviceNumber(major); err != nil {
			return f, err
		}
		if e.nodes.minor, err = deviceNumber(minor); err != nil {
			return f, err
		}
		for _, one := range []struct {
			letter string
			bit    access
		}{{"r", accessRead}, {"w", accessWrite}, {"m", accessMknod}} {
			if strings.Contains(fields[2], one.letter) {
				e.access |= one.bit
			}
		}
		f.exceptions = append(f.exceptions, e)
	}
	return f, nil
}

func deviceNumber(text string) (int64, error) {
	if text == "*" {
		return any64, nil
	}
	return strconv.ParseInt(text, 10, 64)
}

// writeLines writes each line by itself, as the kernel wants it, to one
// descriptor.
func writeLines(name string, lines []string) error {
	if len(lines) == 0 {
		return nil
	}
	fd, err := open(name, syscall.O_WRONLY)
	if err != nil {
		return err
	}
	defer func() { _ = syscall.Close(fd) }()
	for _, line := range lines {
		if err := writeFD(fd, name, line); err != nil {
			return err
		}
	}
	return nil
}
