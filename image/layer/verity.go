package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/strake-containers/strake/internal/sys"
)

// errNoMore ends EnableVerity before the end.
var errNoMore = errors.New("no more")

// Busy reports whether layers are being written, or an image around them.
func (s *Store) Busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drafts > 0
}

// EnableVerity has the kernel check what is read of a layer's files from now on, and notes
// when all of them are done. A layer that is not on the device yet is left for later: it
// would be flushed file by file. Before each file more is asked whether to go on; where that
// says no, another call goes on.
//
// The directory of a whole image is left as it is: a snapshot of a subvolume, which a
// container writes to, would have its files read-only as well.
func (s *Store) EnableVerity(key Key, more func() bool) error {
	if strings.HasPrefix(string(key), rootPrefix) || !s.has(key, durableFile) || s.has(key, verityFile) {
		return nil
	}
	err := Walk([]string{s.Path(key)}, s.form, func(e Entry) error {
		if !e.Stat.IsRegular() || e.Stat.Size == 0 { // there is nothing to check in an empty one
			return nil
		}
		if !more() {
			return errNoMore
		}
		if err := sys.EnableVerityAt(e.Dir, e.Name); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		return nil
	})
	if err == nil {
		err = s.recipeVerity(key)
	}
	if err == nil {
		// It needs no flush: where it is lost the files are found to have it.
		err = s.note(key, verityFile)
	}
	if _, there := s.Get(key); !there || errors.Is(err, errNoMore) {
		return nil // removed meanwhile
	}
	return err
}

// recipeVerity is EnableVerity for a layer's recipe, if it has one.
func (s *Store) recipeVerity(key Key) error {
	err := sys.EnableVerity(filepath.Join(s.root, string(key), recipeFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// has reports whether a layer has one of the files beside it.
func (s *Store) has(key Key, file string) bool {
	_, err := os.Lstat(filepath.Join(s.root, string(key), file))
	return err == nil
}
