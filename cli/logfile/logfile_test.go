package logfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
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
		{"tail 99", two, Options{Tail: 99}, "one\ntwo\n\n$ ", "oops\n", ""},
		{"since", two, Options{Tail: All, Since: time.Date(2026, 1, 2, 3, 4, 4, 0, time.UTC)}, "o\n\n$ ", "", ""},
		{"more tags", []string{at(1) + " stdout F:x:y text with  spaces \n"}, Options{Tail: All}, "text with  spaces \n", "", ""},
		{"cut by a crash", []string{at(1) + " stdout F one\n", at(2) + " stdout F tw"}, Options{Tail: All}, "one\ntw", "", ""},
		{"cut in the time", []string{at(1) + " stdout F one\n", "2026-01"}, Options{Tail: All}, "one\n", "", ""},
		{"not a log", []string{"hello\n"}, Options{Tail: All}, "", "", "not in CRI's log format"},
		{"no such stream", []string{at(1) + " stdxxx F a\n"}, Options{Tail: All}, "", "", "not in CRI's log format"},
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
	for deadline := time.After(10 * time.Second); ; {
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
		if l, err := parse(raw); err == nil && !bytes.HasSuffix(raw, l.text) {
			t.Errorf("text %q is not the end of %q", l.text, raw)
		}
		if n, ok := lastLines(raw, 3, true); ok && (n < 0 || n > len(raw)) {
			t.Errorf("offset %d of %d", n, len(raw))
		}
	})
}
