package logfile

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/logdriver"
)

func at(second int) string {
	return time.Date(2026, 1, 2, 3, 4, second, 0, time.UTC).Format(time.RFC3339Nano)
}

func logFile(t *testing.T, lines ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "0.log")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestCopy(t *testing.T) {
	two := []string{
		at(1) + " stdout F one\n",
		at(2) + " stderr F oops\n",
		at(3) + " stdout P tw\n",
		at(4) + " stdout F o\n",
		at(5) + " stdout F \n",
		at(6) + " stdout P $ \n",
	}
	unfinished := []string{at(1) + " stdout F one\n", at(2) + " stdout P end\n", at(3) + " stderr F oops\n"}
	docker := []string{
		`{"log":"one\n","stream":"stdout","time":"` + at(1) + `"}` + "\n",
		`{"log":"oops\n","stream":"stderr","time":"` + at(2) + `"}` + "\n",
		`{"log":"tw","stream":"stdout","time":"` + at(3) + `"}` + "\n",
		`{"log":"\u00fco\n","stream":"stdout","time":"` + at(3) + `"}` + "\n",
	}
	for _, test := range []struct {
		name           string
		lines          []string
		o              Options
		stdout, stderr string
		fails          string
	}{
		{"all", two, Options{Tail: All}, "one\ntwo\n\n$ ", "oops\n", ""},
		{"times", two, Options{Tail: All, Timestamps: true},
			at(1) + " one\n" + at(3) + " two\n" + at(5) + " \n" + at(6) + " $ ", at(2) + " oops\n", ""},
		{"tail 0", two, Options{Tail: 0}, "", "", ""},
		{"tail 2", two, Options{Tail: 2}, "\n$ ", "", ""},
		{"tail 3 has the whole of a split line", two, Options{Tail: 3}, "two\n\n$ ", "", ""},
		{"tail 2, an unfinished line before the other stream's", unfinished, Options{Tail: 2}, "end", "oops\n", ""},
		{"tail 1, an unfinished line before the other stream's", unfinished, Options{Tail: 1}, "", "oops\n", ""},
		{"tail 99", two, Options{Tail: 99}, "one\ntwo\n\n$ ", "oops\n", ""},
		{"since", two, Options{Tail: All, Since: time.Date(2026, 1, 2, 3, 4, 4, 0, time.UTC)}, "o\n\n$ ", "", ""},
		{"more tags", []string{at(1) + " stdout F:x:y text with  spaces \n"}, Options{Tail: All}, "text with  spaces \n", "", ""},
		{"cut by a crash", []string{at(1) + " stdout F one\n", at(2) + " stdout F tw"}, Options{Tail: All}, "one\ntw", "", ""},
		{"cut in the time", []string{at(1) + " stdout F one\n", "2026-01"}, Options{Tail: All}, "one\n", "", ""},
		{"docker's", docker, Options{Tail: All, Timestamps: true}, at(1) + " one\n" + at(3) + " tw\u00fco\n", at(2) + " oops\n", ""},
		{"docker's tail", docker, Options{Tail: 1}, "tw\u00fco\n", "", ""},
		{"docker's since", docker, Options{Tail: All, Since: time.Date(2026, 1, 2, 3, 4, 2, 0, time.UTC)}, "tw\u00fco\n", "oops\n", ""},
		{"docker's, cut by a crash", append(docker[:2:2], `{"log":"x`), Options{Tail: All}, "one\n", "oops\n", ""},
		{"not a log", []string{"hello\n"}, Options{Tail: All}, "", "", "neither in CRI's log format"},
		{"no such stream", []string{at(1) + " stdxxx F a\n"}, Options{Tail: All}, "", "", "neither in CRI's log format"},
		{"no such stream in docker's", []string{`{"log":"a\n","stream":"x","time":""}` + "\n"}, Options{Tail: All}, "", "", "neither in CRI's log format"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			err := Copy(logFile(t, test.lines...), test.o, &stdout, &stderr)
			if (err == nil) != (test.fails == "") || err != nil && !strings.Contains(err.Error(), test.fails) {
				t.Fatalf("error %v, want %q", err, test.fails)
			}
			if stdout.String() != test.stdout || stderr.String() != test.stderr {
				t.Errorf("got  %q, %q\nwant %q, %q", stdout.String(), stderr.String(), test.stdout, test.stderr)
			}
		})
	}
}

func TestTailOfMuch(t *testing.T) {
	var lines []string
	for i := range 20_000 {
		lines = append(lines, fmt.Sprintf("%s stdout F line %d of many\n", at(0), i))
	}
	var out bytes.Buffer
	if err := Copy(logFile(t, lines...), Options{Tail: 5000}, &out, nil); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(out.String(), "\n"); got != 5000 || !strings.HasPrefix(out.String(), "line 15000 ") {
		t.Errorf("%d lines from %.30q", got, out.String())
	}
}

// A log that its monitor rotates is one log.
func TestOlderFiles(t *testing.T) {
	path := logFile(t, at(5)+" stdout F five\n", at(6)+" stdout F six\n")
	for i, text := range []string{1: at(3) + " stdout F three\n" + at(4) + " stdout F four\n", 2: at(1) + " stdout F one\n" + at(2) + " stdout F two\n"} {
		if i == 0 {
			continue
		}
		if err := os.WriteFile(logdriver.Older(path, i), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	lines := []string{"one\n", "two\n", "three\n", "four\n", "five\n", "six\n"}
	for tail := range 9 {
		want := strings.Join(lines[max(len(lines)-tail, 0):], "")
		if tail == 8 {
			tail = All
		}
		var out bytes.Buffer
		if err := Copy(path, Options{Tail: tail}, &out, nil); err != nil || out.String() != want {
			t.Errorf("tail %d: %q, %v, want %q", tail, out.String(), err, want)
		}
	}
}

// Several rotations while nobody looked lose nothing.
func TestFollowFastRotation(t *testing.T) {
	path := logFile(t, at(1)+" stdout F one\n")
	done := make(chan struct{})
	out := &syncBuffer{written: make(chan struct{}, 100)}
	r := &reader{path: path, o: Options{Tail: All, Done: done}, out: output{stdout: out}}
	if err := r.open(); err != nil {
		t.Fatal(err)
	}
	for i, text := range []string{"two", "three", "four"} {
		for j := i; j >= 0; j-- {
			if err := os.Rename(logdriver.Older(path, j), logdriver.Older(path, j+1)); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(path, []byte(at(2)+" stdout F "+text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(r.catchUp(), r.close()); err != nil {
		t.Fatal(err)
	}
	out.waitFor(t, "one\ntwo\nthree\nfour\n")
}

// The order between the streams is kept: both writers are one buffer here.
func TestOrder(t *testing.T) {
	var both bytes.Buffer
	path := logFile(t, at(1)+" stdout F 1\n", at(1)+" stderr F 2\n", at(1)+" stdout F 3\n", at(1)+" stderr F 4\n")
	if err := Copy(path, Options{Tail: All}, &both, &both); err != nil {
		t.Fatal(err)
	}
	if both.String() != "1\n2\n3\n4\n" {
		t.Errorf("got %q", both.String())
	}
}

// syncBuffer tells when it has been written to.
type syncBuffer struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	written chan struct{}
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	defer func() { b.written <- struct{}{} }()
	return b.buf.Write(p)
}

func (b *syncBuffer) waitFor(t *testing.T, want string) {
	t.Helper()
	for deadline := time.After(time.Minute); ; {
		b.mu.Lock()
		got := b.buf.String()
		b.mu.Unlock()
		if got == want {
			return
		}
		select {
		case <-b.written:
		case <-deadline:
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	done := make(chan struct{})
	out := &syncBuffer{written: make(chan struct{}, 100)}
	result := make(chan error)
	go func() { result <- Copy(path, Options{Tail: All, Done: done}, out, out) }()

	write := func(f *os.File, s string) {
		if _, err := f.WriteString(s); err != nil {
			t.Fatal(err)
		}
	}
	create := func() *os.File {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	f := create()
	write(f, at(1)+" stdout F one\n")
	out.waitFor(t, "one\n")
	write(f, at(2)+" stdout P tw\n"+at(2)+" std")
	out.waitFor(t, "one\ntw")
	write(f, "out F o\n")
	out.waitFor(t, "one\ntwo\n")

	// Rotation: moved away, a last line to the old file, then a new one.
	if err := os.Rename(path, path+".1"); err != nil {
		t.Fatal(err)
	}
	write(f, at(3)+" stdout F three\n")
	f = create()
	write(f, at(4)+" stdout F four\n")
	out.waitFor(t, "one\ntwo\nthree\nfour\n")

	// What is in the file when the container has ended is read to its end.
	write(f, at(5)+" stdout F five\n")
	close(done)
	if err := <-result; err != nil {
		t.Fatal(err)
	}
	out.waitFor(t, "one\ntwo\nthree\nfour\nfive\n")
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(at(1) + " stdout F hello"))
	f.Add([]byte(at(1) + " stderr P:x "))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if l, err := parse(raw); err == nil && raw[0] != '{' && !bytes.HasSuffix(raw, l.text) {
			t.Errorf("text %q is not the end of %q", l.text, raw)
		}
		if n, found, ok := lastLines(raw, 3, true); ok && (n < 0 || n > len(raw) || found > 3) {
			t.Errorf("offset %d of %d, %d lines", n, len(raw), found)
		}
	})
}
