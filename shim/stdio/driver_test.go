package stdio

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/strake-containers/strake/internal/logdriver"
	"github.com/strake-containers/strake/shim/wire"
)

// jsonRecord is what Docker's json-file has.
type jsonRecord struct {
	Log    string    `json:"log"`
	Stream string    `json:"stream"`
	Time   time.Time `json:"time"`
}

func jsonLine(t *testing.T, line string) (r jsonRecord) {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(line))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil || !strings.HasSuffix(line, "}\n") || r.Time.IsZero() {
		t.Fatalf("bad line %.200q: %v", line, err)
	}
	return r
}

func TestJSONLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	log := newDriver(t, "json-file://"+path, 0)
	w := newFed(t, log)
	// Cut at 16 KiB, but not within a character.
	long := strings.Repeat("l", maxLine-1) + "\u00fc"
	w.write([]byte("plain\n\n\"q\" \\ \t\r\x00\x1b[1m \u00fc\u20ac\U0001f600 <&>\n" + long + "\n"))
	w.write([]byte("not text: \xff\xfe\nno end"))
	w.end()
	log.close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(string(data)) {
		r := jsonLine(t, line)
		if r.Stream != "stdout" {
			t.Errorf("stream %q", r.Stream)
		}
		got = append(got, r.Log)
	}
	want := []string{
		"plain\n", "\n", "\"q\" \\ \t\r\x00\x1b[1m \u00fc\u20ac\U0001f600 <&>\n",
		long[:maxLine-1], "\u00fc\n", "not text: \ufffd\ufffd\n", "no end",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %.80q\nwant %.80q", got, want)
	}
	if !strings.HasPrefix(string(data), `{"log":"plain\n","stream":"stdout","time":"2`) {
		t.Errorf("the first line is %.100q", data)
	}
}

func FuzzJSON(f *testing.F) {
	f.Add([]byte("a\"\\\x00\xff\u2028"))
	f.Fuzz(func(t *testing.T, text []byte) {
		var got string
		if err := json.Unmarshal(append(append([]byte{'"'}, appendJSON(nil, text)...), '"'), &got); err != nil {
			t.Fatal(err)
		}
		// json.Unmarshal replaces what is not UTF-8 likewise.
		var want bytes.Buffer
		for rest := text; len(rest) > 0; {
			r, n := utf8.DecodeRune(rest)
			want.WriteRune(r)
			rest = rest[n:]
		}
		if got != want.String() {
			t.Errorf("%q becomes %q, want %q", text, got, want.String())
		}
	})
}

// A file that has become too large makes room for another; there are so many at most.
func TestRotation(t *testing.T) {
	for _, files := range []int{1, 2, 4} {
		t.Run(fmt.Sprint(files), func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "log")
			c := logdriver.Config{Driver: logdriver.K8sFile, MaxSize: 128 << 10, MaxFiles: files}
			log := newDriver(t, c.FileURI(path), 0)
			w := newFed(t, log)
			line := strings.Repeat("x", 999) + "\n"
			const lines = 1000
			for i := range lines {
				w.write(fmt.Appendf(nil, "%d %s", i, line))
			}
			log.close()
			entries, err := os.ReadDir(dir)
			if err != nil || len(entries) != files {
				t.Fatalf("%v, %v", entries, err)
			}
			next := -1
			for i := files - 1; i >= 0; i-- {
				st, err := os.Stat(logdriver.Older(path, i))
				if err != nil || st.Size() > c.MaxSize {
					t.Fatalf("file %d: %v, %v", i, st, err)
				}
				for _, l := range content(t, logdriver.Older(path, i)) {
					var n int
					if _, err := fmt.Sscanf(l, "stdout F %d ", &n); err != nil || next >= 0 && n != next {
						t.Fatalf("file %d: line %d is %.20q, %v", i, next, l, err)
					}
					next = n + 1
				}
			}
			if next != lines {
				t.Errorf("the last line is %d", next-1)
			}
		})
	}
}

// A rotation that was cut short costs no file.
func TestShiftAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	write := func(i int, text string) {
		t.Helper()
		if err := os.WriteFile(logdriver.Older(path, i), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(0, "d")
	write(1, "c")
	write(3, "a") // 2 has become 3, and then it was killed
	for range 2 { // the second finds nothing to be done
		if err := shift(path, 4); err != nil {
			t.Fatal(err)
		}
	}
	for i, want := range []string{"", "d", "c", "a"} {
		if data, _ := os.ReadFile(logdriver.Older(path, i)); string(data) != want {
			t.Errorf("file %d: %q, want %q", i, data, want)
		}
	}
}

// Where no new file can be made, the old one does not grow: the loss is counted and said.
func TestRotationFails(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "log")
	c := logdriver.Config{Driver: logdriver.K8sFile, MaxSize: 128 << 10, MaxFiles: 2}
	log := newDriver(t, c.FileURI(path), 0)
	w := newFed(t, log)
	if err := os.Mkdir(path+".next", 0o700); err != nil { // in its way
		t.Fatal(err)
	}
	for range 200 {
		w.write([]byte(strings.Repeat("x", 999) + "\n"))
	}
	lost, err := log.loss()
	if lost == 0 || err == nil || !strings.Contains(err.Error(), "rotate log") {
		t.Fatalf("lost %d, %v", lost, err)
	}
	if err := os.Remove(path + ".next"); err != nil {
		t.Fatal(err)
	}
	w.write([]byte("after\n"))
	got := content(t, path)
	if got = got[len(got)-2:]; !strings.Contains(got[0], "bytes of this container's log are lost here: rotate log") || got[1] != "stdout F after" {
		t.Errorf("%.200q", got)
	}
}

// Without a log the output goes to attached clients all the same.
func TestNoLog(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(t.Context(), Config{Dir: dir, Stdout: "none:", Stderr: "none:"})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", filepath.Join(dir, wire.AttachSocket))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	seen := bufio.NewReader(conn)
	if _, _, err := wire.ReadAttach(seen); err != nil { // attached
		t.Fatal(err)
	}
	cmd := start(t, s, "echo", "hello")
	if _, text, err := wire.ReadAttach(seen); err != nil || string(text) != "hello\n" {
		t.Errorf("%q, %v", text, err)
	}
	finish(t, s, cmd)
	if lost, err := s.LogLoss(); lost != 0 || err != nil {
		t.Errorf("lost %d, %v", lost, err)
	}
	if err := s.ReopenLog(); err == nil || !strings.Contains(err.Error(), "none") {
		t.Errorf("reopen: %v", err)
	}
	for _, name := range []string{"journald://", "journald:///s?a=b", "json-file:///x?max-size=1", "none"} {
		if s, err := Open(t.Context(), Config{Dir: t.TempDir(), Stdout: name, Stderr: name}); err == nil {
			t.Errorf("%s is accepted", name)
			_ = s.Close()
		}
	}
}

// fakeJournal takes entries as journald does.
type fakeJournal struct {
	t       *testing.T
	path    string
	conn    *net.UnixConn
	entries chan map[string]string
}

func newFakeJournal(t *testing.T) *fakeJournal {
	t.Helper()
	// Not in t.TempDir, whose path may be too long for a socket.
	dir, err := os.MkdirTemp("", "strake-journal-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	j := &fakeJournal{t: t, path: dir + "/socket"}
	j.start()
	t.Cleanup(j.end)
	return j
}

func (j *fakeJournal) uri(fields map[string]string) string {
	return logdriver.JournalURI(j.path, fields)
}

func (j *fakeJournal) listen() {
	j.t.Helper()
	_ = os.Remove(j.path)
	var err error
	if j.conn, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: j.path}); err != nil {
		j.t.Fatal(err)
	}
}

func (j *fakeJournal) start() {
	j.t.Helper()
	j.listen()
	conn, entries := j.conn, make(chan map[string]string, 1000)
	j.entries = entries
	go func() {
		defer close(entries)
		buf, oob := make([]byte, 1<<20), make([]byte, 64)
		for {
			n, o, _, _, err := conn.ReadMsgUnix(buf, oob)
			if err != nil {
				return // closed
			}
			data := buf[:n]
			if o > 0 {
				data = received(oob[:o])
			}
			entries <- parseEntry(data)
		}
	}()
}

// received reads the sealed file that came as a descriptor.
func received(oob []byte) []byte {
	messages, err := syscall.ParseSocketControlMessage(oob)
	if err != nil {
		return nil
	}
	fds, err := syscall.ParseUnixRights(&messages[0])
	if err != nil {
		return nil
	}
	f := os.NewFile(uintptr(fds[0]), "entry")
	defer f.Close()
	if _, err := f.WriteAt([]byte("x"), 0); err == nil {
		return []byte("MESSAGE=the file is not sealed\n")
	}
	st, err := f.Stat()
	if err != nil {
		return nil
	}
	data := make([]byte, st.Size())
	_, _ = f.ReadAt(data, 0)
	return data
}

func parseEntry(data []byte) map[string]string {
	e := map[string]string{}
	for len(data) > 0 {
		end := bytes.IndexAny(data, "=\n")
		name := string(data[:end])
		var value []byte
		if data[end] == '=' {
			value, data, _ = bytes.Cut(data[end+1:], []byte{'\n'})
		} else {
			n := binary.LittleEndian.Uint64(data[end+1:])
			value = data[end+9:][:n]
			data = data[end+9+int(n)+1:]
		}
		e[name] = string(value)
	}
	return e
}

// end ends the journal: what was sent has been read.
func (j *fakeJournal) end() {
	_ = j.conn.SetReadDeadline(time.Unix(1, 0))
	_ = j.conn.Close()
}

func (j *fakeJournal) next() map[string]string {
	j.t.Helper()
	select {
	case e := <-j.entries:
		return e
	case <-time.After(30 * time.Second):
		j.t.Fatal("no entry")
		return nil
	}
}

func TestJournal(t *testing.T) {
	j := newFakeJournal(t)
	fields := map[string]string{"CONTAINER_NAME": "web", "CONTAINER_TAG": "two\nlines=1"}
	log := newDriver(t, j.uri(fields), 0)
	w := newFed(t, log)
	want := func(message, priority string, more ...string) {
		t.Helper()
		e := j.next()
		expected := maps.Clone(fields)
		expected["MESSAGE"], expected["PRIORITY"] = message, priority
		if len(more) > 0 {
			expected["CONTAINER_PARTIAL_MESSAGE"] = "true"
		}
		if !maps.Equal(e, expected) {
			t.Errorf("got %.80q, want %.80q", e, expected)
		}
	}
	long := strings.Repeat("l", maxLine)
	w.write([]byte("one\ntwo\n\n" + long + "rest\n"))
	want("one", "6")
	want("two", "6")
	want("", "6")
	want(long, "6", "partial")
	want("rest", "6")
	w.pump.lines.stream = "stderr"
	w.write([]byte("oops\n"))
	want("oops", "3")
	w.write([]byte("no end"))
	w.end()
	want("no end", "3", "partial")

	// What the socket cannot carry goes in a sealed file.
	raw, err := log.(*journal).conn.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_SNDBUF, 4096)
	}); err != nil {
		t.Fatal(err)
	}
	w = newFed(t, log)
	w.write([]byte(long + "\n"))
	want(long, "6")
	if lost, err := log.loss(); lost != 0 {
		t.Errorf("lost %d, %v", lost, err)
	}
}

// A journal that is not there, is started again or takes nothing costs entries, not the
// container's progress, and is told how much it has not got.
func TestJournalAway(t *testing.T) {
	j := newFakeJournal(t)
	j.end()
	log := newDriver(t, j.uri(nil), 0)
	w := newFed(t, log)
	w.write([]byte("lost\n"))
	if lost, err := log.loss(); lost != 5 || !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("lost %d, %v", lost, err)
	}
	j.start()
	w.write([]byte("there\n"))
	if e := j.next(); e["MESSAGE"] != "strake: 5 bytes of this container's log are lost here: journal: connection refused" || e["PRIORITY"] != "3" {
		t.Errorf("%q", e)
	}
	if e := j.next(); e["MESSAGE"] != "there" {
		t.Errorf("%q", e)
	}
	j.end()
	j.start()
	w.write([]byte("again\n")) // by a new connection
	if e := j.next(); e["MESSAGE"] != "again" {
		t.Errorf("%q", e)
	}

	j.end()
	j.listen() // and nobody reads
	const lines = 3000
	for i := range lines {
		w.write(fmt.Appendf(nil, "line %d\n", i))
	}
	if lost, err := log.loss(); lost <= 5 || err == nil || err.Error() != "journal: it takes nothing" {
		t.Errorf("lost %d, %v", lost, err)
	}
}
