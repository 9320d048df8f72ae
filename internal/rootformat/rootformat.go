// Package rootformat keeps a straked off a root that a newer one has written to.
//
// Every record below ROOT has a version of its own, which says how it is read. That is
// not enough for a way back: the stores read theirs one after the other, and repair or
// put away what they do not understand. ROOT/format.json is read before any of them.
package rootformat

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/strake-containers/strake/internal/atomicfile"
	"github.com/strake-containers/strake/internal/sys"
)

// Version is what this program writes. It is raised with the version of any record whose
// older readers would do harm; a reader takes its own and all older ones.
const Version = 1

// File is its name below the root.
const File = "format.json"

// maxFile bounds it, in bytes.
const maxFile = 4 << 10

// ErrNewer is a root that a newer program has written to. Nothing is touched.
var ErrNewer = errors.New("a newer strake has written to it")

type format struct {
	Version int `json:"version"`
}

// Claim says that this program writes to root from now on, or, with ErrNewer, that it
// must not. A root without the file is one of version 1, which has not always written
// it: there, a disk without room for it does not matter.
func Claim(root string) error {
	path := filepath.Join(root, File)
	have := format{Version: 1}
	data, err := sys.ReadFile(path, maxFile)
	written := err == nil
	if written {
		have = format{}
		err := json.Unmarshal(data, &have)
		if err == nil && have.Version < 1 {
			err = errors.New("no version in it")
		}
		if err != nil {
			return fmt.Errorf("%s: %w: remove the file if this strake, or an older one, has made %s", path, err, root)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if have.Version > Version {
		return fmt.Errorf("%s: version %d, and this strake knows %d: %w: install that version again, or a later one; pods run on, and nothing was touched",
			path, have.Version, Version, ErrNewer)
	}
	if written && have.Version == Version {
		return nil
	}
	if data, err = json.Marshal(format{Version}); err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	if err := atomicfile.Write(path, append(data, '\n'), 0o600); err != nil && have.Version < Version {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}
