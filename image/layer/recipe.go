package layer

import (
	"archive/tar"
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"

	"github.com/strake-containers/strake/internal/sys"
)

// A recipe says how the tar of an unpacked layer is made again, bit for bit: what
// is in it besides the contents of files, and which file's content comes where.
// It costs about a hundredth of the packed layer, and spares keeping that.
//
// The format, gzipped: any number of
//
//	length of raw bytes, the bytes, length of a path, the path, size of the file
//
// where the numbers are unsigned varints and an empty path has no size. A path is
// of a regular file below the layer's root, without links on the way.

const (
	recipeFile  = "recipe"
	maxRecipe   = 4 << 30  // unpacked; a recipe that lies costs time only
	rawChunk    = 64 << 10 // raw bytes of one step
	maxRawChunk = 1 << 20  // what is taken from a file; the writer keeps well below
)

// ErrNoRecipe says that a layer's tar cannot be made again: it was unpacked by an
// older version, or a file of it is twice in the tar.
var ErrNoRecipe = errors.New("the layer's tar cannot be made again")

// recorder is the tar stream on its way to the writer. It writes the recipe.
type recorder struct {
	in      io.Reader
	read    int64 // bytes of the tar
	raw     []byte
	content bool   // what is read now is a file's content, which the file has
	lost    bool   // a content is in no file any more: no recipe
	encoded []byte // the last step, for its memory: there is one for each file
	out     *gzip.Writer
}

func newRecorder(in io.Reader, to io.Writer) *recorder {
	r := &recorder{in: in}
	if to != nil {
		r.out, _ = gzip.NewWriterLevel(to, gzip.BestSpeed) // a constant level is no error
	}
	return r
}

func (r *recorder) Read(b []byte) (int, error) {
	n, err := r.in.Read(b)
	r.read += int64(n)
	if r.out == nil || r.content || r.lost {
		return n, err
	}
	r.raw = append(r.raw, b[:n]...)
	if len(r.raw) >= rawChunk {
		if e := r.step("", 0); e != nil {
			return n, e
		}
	}
	return n, err
}

// file notes that the next size bytes are the content of path, until end.
func (r *recorder) file(path string, size int64) error {
	if r.out == nil || r.lost || size == 0 {
		return nil
	}
	r.content = true
	return r.step(path, size)
}

func (r *recorder) end() { r.content = false }

// step writes the raw bytes so far, and a file that follows them.
func (r *recorder) step(path string, size int64) error {
	for len(r.raw) > maxRawChunk {
		if err := r.write(r.raw[:maxRawChunk], "", 0); err != nil {
			return err
		}
		r.raw = r.raw[maxRawChunk:]
	}
	err := r.write(r.raw, path, size)
	r.raw = r.raw[:0]
	return err
}

func (r *recorder) write(raw []byte, path string, size int64) error {
	b := binary.AppendUvarint(r.encoded[:0], uint64(len(raw)))
	b = append(b, raw...)
	b = binary.AppendUvarint(b, uint64(len(path)))
	if path != "" {
		b = append(b, path...)
		b = binary.AppendUvarint(b, uint64(size))
	}
	r.encoded = b
	if _, err := r.out.Write(b); err != nil {
		return fmt.Errorf("recipe: %w", err)
	}
	return nil
}

// finish ends the recipe and reports whether it is whole.
func (r *recorder) finish() (bool, error) {
	if r.out == nil || r.lost {
		return false, nil
	}
	if err := r.step("", 0); err != nil {
		return false, err
	}
	if err := r.out.Close(); err != nil {
		return false, fmt.Errorf("recipe: %w", err)
	}
	return true, nil
}

// Tar is a layer's tar, made again. Read returns ErrDigestMismatch in place of
// io.EOF if what came is not what the layer was unpacked from: its files have
// changed. Close it.
type Tar struct {
	Size   int64 // of the tar
	key    Key
	root   int
	file   *os.File // the recipe
	recipe *bufio.Reader
	raw    []byte
	body   *os.File // the file whose content comes now
	left   int64    // of it
	want   digest.Digest
	hash   digest.Digester
	device bool // read the files from the device, whatever is in memory
}

// Tar opens the tar of a layer. The caller sees to it that the layer stays.
func (s *Store) Tar(key Key) (_ *Tar, err error) {
	info, ok := s.Get(key)
	if !ok {
		return nil, fmt.Errorf("layer %s: %w", key, fs.ErrNotExist)
	}
	if info.Recipe == 0 {
		return nil, fmt.Errorf("layer %s: %w", key, ErrNoRecipe)
	}
	t := &Tar{Size: info.Tar, key: key, want: info.DiffID, hash: info.DiffID.Algorithm().Digester(), root: -1}
	defer func() {
		if err != nil {
			_ = t.Close() // nothing was written
		}
	}()
	if t.file, err = os.Open(filepath.Join(s.root, string(key), recipeFile)); err != nil {
		return nil, err
	}
	z, err := gzip.NewReader(bufio.NewReaderSize(t.file, gzipBuffer))
	if err != nil {
		return nil, t.broken(err)
	}
	t.recipe = bufio.NewReaderSize(io.LimitReader(z, maxRecipe), gzipBuffer)
	t.root, err = sys.OpenDir(s.Path(key))
	return t, err
}

func (t *Tar) broken(err error) error {
	return fmt.Errorf("layer %s: %w: recipe: %w", t.key, ErrDigestMismatch, err)
}

// Close implements io.Closer.
func (t *Tar) Close() error {
	var err error
	for _, f := range []*os.File{t.body, t.file} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	t.body, t.file = nil, nil
	if t.root >= 0 {
		err = errors.Join(err, sys.CloseFd(t.root))
		t.root = -1
	}
	return err
}

// Read implements io.Reader.
func (t *Tar) Read(b []byte) (int, error) {
	for len(t.raw) == 0 && t.left == 0 {
		if err := t.next(); errors.Is(err, io.EOF) {
			if have := t.hash.Digest(); have != t.want {
				return 0, fmt.Errorf("layer %s: %w: its files make %s now, not %s", t.key, ErrDigestMismatch, have, t.want)
			}
			return 0, io.EOF
		} else if err != nil {
			return 0, err
		}
	}
	n := 0
	if len(t.raw) > 0 {
		n = copy(b, t.raw)
		t.raw = t.raw[n:]
	} else {
		var err error
		n, err = t.body.Read(b[:min(int64(len(b)), t.left)])
		t.left -= int64(n)
		if err != nil {
			return n, fmt.Errorf("layer %s: %w: %s: %w", t.key, ErrDigestMismatch, t.body.Name(), err)
		}
	}
	t.hash.Hash().Write(b[:n])
	if len(t.raw) == 0 && t.left == 0 && t.body != nil {
		body := t.body
		t.body = nil
		return n, body.Close()
	}
	return n, nil
}

// next reads one step of the recipe; io.EOF is its end. The content of a file
// comes after the raw bytes: its size counts from then on.
func (t *Tar) next() error {
	n, err := binary.ReadUvarint(t.recipe)
	if errors.Is(err, io.EOF) {
		return io.EOF
	}
	if err == nil && n > maxRawChunk {
		err = fmt.Errorf("%d raw bytes", n)
	}
	if err != nil {
		return t.broken(err)
	}
	t.raw = make([]byte, n)
	if _, err := io.ReadFull(t.recipe, t.raw); err != nil {
		return t.broken(err)
	}
	n, err = binary.ReadUvarint(t.recipe)
	if err == nil && n > maxPath {
		err = fmt.Errorf("a path of %d bytes", n)
	}
	if err != nil {
		return t.broken(err)
	}
	if n == 0 {
		return nil
	}
	path := make([]byte, n)
	if _, err := io.ReadFull(t.recipe, path); err != nil {
		return t.broken(err)
	}
	size, err := binary.ReadUvarint(t.recipe)
	if err != nil {
		return t.broken(err)
	}
	if t.body, err = sys.OpenFileBelow(t.root, string(path)); err != nil {
		return fmt.Errorf("layer %s: %w: %q: %w", t.key, ErrDigestMismatch, path, err)
	}
	if t.device {
		sys.DropCache(t.body)
	}
	info, err := t.body.Stat()
	if err == nil && (!info.Mode().IsRegular() || info.Size() != int64(size)) {
		err = fmt.Errorf("%w: %q is %s of %d bytes, not a file of %d", ErrDigestMismatch, path, info.Mode().Type(), info.Size(), size)
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", t.key, err)
	}
	t.left = int64(size)
	return nil
}

// Verify reads a layer whole: the contents of all its files, and that they have
// the types, modes, owners and targets that the tar gives them. It returns
// ErrNoRecipe if there is nothing to compare with, ErrDigestMismatch if the layer
// is not what it was.
func (s *Store) Verify(key Key) (err error) {
	t, err := s.Tar(key)
	if err != nil {
		return err
	}
	t.device = true
	defer func() { err = errors.Join(err, t.Close()) }()
	root, err := sys.OpenDir(s.Path(key))
	if err != nil {
		return err
	}
	v := &verifier{root: root, dirs: newDirCache()}
	defer func() { _ = sys.CloseFd(v.root) }()
	defer v.dirs.clear()
	in := tar.NewReader(t)
	for {
		hdr, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, ErrDigestMismatch) {
			return err // it says of what
		}
		if err != nil {
			return t.broken(err)
		}
		if err := v.entry(hdr); err != nil {
			return fmt.Errorf("layer %s: %w: %q: %w", key, ErrDigestMismatch, hdr.Name, err)
		}
	}
	_, err = io.Copy(io.Discard, t) // to the end, which checks the digest
	return err
}

// verifier compares entries with what is there.
type verifier struct {
	root int
	dirs *dirCache
}

// entry checks a regular file, link or symbolic link. Directories are left to the
// files in them: a later entry may have changed them, as may Inherit.
func (v *verifier) entry(hdr *tar.Header) error {
	name, err := cleanName(hdr.Name)
	if err != nil || name == "" || hdr.Typeflag == tar.TypeXGlobalHeader {
		return err
	}
	dir, base := filepath.Split(name)
	if strings.HasPrefix(base, whiteoutPrefix) {
		return nil
	}
	w := &writer{root: v.root, dirs: v.dirs}
	parent, _, err := w.existingDir(strings.TrimSuffix(dir, "/"))
	if err != nil {
		return err
	}
	st, err := sys.StatAt(parent, base)
	if err != nil {
		return err
	}
	var kind uint32
	switch hdr.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont:
		kind = syscall.S_IFREG
	case tar.TypeSymlink:
		kind = syscall.S_IFLNK
	default:
		return nil
	}
	switch {
	case st.Mode&syscall.S_IFMT != kind:
		return fmt.Errorf("is of type %o", st.Mode&syscall.S_IFMT)
	case st.UID != uint32(hdr.Uid) || st.GID != uint32(hdr.Gid):
		return fmt.Errorf("belongs to %d:%d, not %d:%d", st.UID, st.GID, hdr.Uid, hdr.Gid)
	case kind == syscall.S_IFREG && st.Mode&permBits != mode(hdr):
		return fmt.Errorf("has mode %o, not %o", st.Mode&permBits, mode(hdr))
	}
	return nil
}

// IsSparse reports whether the content in the tar is not the file's.
func IsSparse(hdr *tar.Header) bool {
	if hdr.Typeflag == tar.TypeGNUSparse {
		return true
	}
	for key := range hdr.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}
