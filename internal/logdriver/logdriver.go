// Package logdriver says where a container's output can go and by which words: the log
// drivers and their options, which strake, straked's configuration and straked itself
// have in common, and the URIs by which a monitor is told (shim/stdio writes the logs).
//
// Names and options are Docker's, and Podman's for k8s-file. It opens nothing.
package logdriver

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// The drivers.
const (
	K8sFile  = "k8s-file"  // a file in the format of CRI
	JSONFile = "json-file" // a file in Docker's format
	Journald = "journald"  // the systemd journal
	None     = "none"      // nowhere; attached clients see it all the same
)

// Names are the drivers.
var Names = []string{K8sFile, JSONFile, Journald, None}

// JournalSocket is where journald takes entries, systemd-journald.service(8).
const JournalSocket = "/run/systemd/journal/socket"

const (
	// minSize is the least max-size: the longest line that a monitor writes, escaped
	// byte by byte, fits in.
	minSize = 128 << 10
	// maxFiles bounds max-file.
	maxFiles = 1000
	// maxTag bounds a tag.
	maxTag = 1024
)

// Config is a driver with its options.
type Config struct {
	Driver   string
	MaxSize  int64  // of a file, in bytes, before another takes its place; 0: no limit
	MaxFiles int    // how many files there are at most, the one that is written included
	Tag      string // of journald's entries; "" is the beginning of the container's id
}

// Parse checks options, which are those of docker run --log-opt. Those that nothing here
// would heed are errors: max-size and max-file are for files, tag is for the journal.
func Parse(driver string, options map[string]string) (Config, error) {
	c := Config{Driver: driver, MaxFiles: 1}
	if !slices.Contains(Names, driver) {
		return c, fmt.Errorf("log driver %q: choose %s", driver, strings.Join(Names, ", "))
	}
	for _, name := range slices.Sorted(maps.Keys(options)) {
		value := options[name]
		var err error
		switch {
		case c.IsFile() && name == "max-size":
			c.MaxSize, err = parseSize(value)
		case c.IsFile() && name == "max-file":
			if c.MaxFiles, err = strconv.Atoi(value); err != nil || c.MaxFiles < 1 || c.MaxFiles > maxFiles {
				err = fmt.Errorf("write a number from 1 to %d", maxFiles)
			}
		case driver == Journald && name == "tag":
			c.Tag, err = value, checkTag(value)
		case c.IsFile():
			return c, fmt.Errorf("log option %s: %s has max-size and max-file", name, driver)
		case driver == Journald:
			return c, fmt.Errorf("log option %s: %s has tag", name, driver)
		default:
			return c, fmt.Errorf("log option %s: %s has none", name, driver)
		}
		if err != nil {
			return c, fmt.Errorf("log option %s=%s: %w", name, value, err)
		}
	}
	if c.MaxFiles > 1 && c.MaxSize == 0 {
		return c, fmt.Errorf("log option max-file: without max-size there is only one file")
	}
	return c, nil
}

// IsFile reports whether the driver writes a file.
func (c Config) IsFile() bool { return c.Driver == K8sFile || c.Driver == JSONFile }

func checkTag(tag string) error {
	switch {
	case len(tag) > maxTag:
		return fmt.Errorf("more than %d bytes", maxTag)
	case strings.Contains(tag, "{{"):
		return fmt.Errorf("templates are not supported: write the tag itself")
	}
	return nil
}

// parseSize reads a size as Docker writes it: 10m, 1g; powers of 1024.
func parseSize(s string) (int64, error) {
	number := strings.TrimSuffix(strings.ToLower(s), "b")
	shift := 0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("kmgt", number[n-1]); i >= 0 {
			number, shift = number[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return 0, fmt.Errorf("write a size such as 10m")
	}
	if n <<= shift; n < minSize {
		return 0, fmt.Errorf("less than %dk", minSize>>10)
	}
	return n, nil
}

// FileURI is where a driver that writes files writes path.
func (c Config) FileURI(path string) string {
	u := url.URL{Scheme: c.Driver, Path: path}
	if c.MaxSize > 0 {
		u.RawQuery = url.Values{"max-size": {strconv.FormatInt(c.MaxSize, 10)}, "max-file": {strconv.Itoa(c.MaxFiles)}}.Encode()
	}
	return u.String()
}

// ParseFileURI is what FileURI says.
func ParseFileURI(uri string) (c Config, path string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return c, "", err
	}
	options := map[string]string{}
	for name, values := range u.Query() {
		options[name] = values[0]
	}
	if c, err = Parse(u.Scheme, options); err != nil {
		return c, "", err
	}
	if !c.IsFile() || !strings.HasPrefix(u.Path, "/") {
		return c, "", fmt.Errorf("%q names no file: write %s:///path", uri, c.Driver)
	}
	return c, u.Path, nil
}

// Older is the name of the i-th file before the one at path: path.1 is the one that was
// written last.
func Older(path string, i int) string {
	if i == 0 {
		return path
	}
	return path + "." + strconv.Itoa(i)
}

// JournalURI is the journal behind a socket, and the fields that all entries get.
func JournalURI(socket string, fields map[string]string) string {
	u := url.URL{Scheme: Journald, Path: socket}
	q := url.Values{}
	for name, value := range fields {
		q.Set(name, value)
	}
	u.RawQuery = q.Encode()
	return u.String()
}

// ParseJournalURI is what JournalURI says.
func ParseJournalURI(uri string) (socket string, fields map[string]string, err error) {
	u, err := url.Parse(uri)
	if err != nil {
		return "", nil, err
	}
	if !strings.HasPrefix(u.Path, "/") {
		return "", nil, fmt.Errorf("%q names no socket: write %s://%s", uri, Journald, JournalSocket)
	}
	fields = map[string]string{}
	for name, values := range u.Query() {
		if !validField(name) {
			return "", nil, fmt.Errorf("%q is not the name of a journal's field: capitals, digits and _, at most 64", name)
		}
		fields[name] = values[0]
	}
	return u.Path, fields, nil
}

// validField is journald's own rule; with a leading _ they are its own.
func validField(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= 'A' && c <= 'Z', i > 0 && (c == '_' || c >= '0' && c <= '9'):
		default:
			return false
		}
	}
	return name != "" && len(name) <= 64
}
