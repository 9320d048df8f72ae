package stdio

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/strake-containers/strake/internal/logdriver"
	"github.com/strake-containers/strake/internal/sys"
)

// TestFlowVictim is no test: it is the program that TestKilled kills. It moves
// what is in the FIFOs of a directory into a log.
func TestFlowVictim(t *testing.T) {
	dir, log := os.Getenv("STRAKE_FLOW_DIR"), os.Getenv("STRAKE_FLOW_LOG")
	if dir == "" {
		t.Skip("TestKilled runs it")
	}
	s, err := Open(t.Context(), Config{Dir: dir, Stdout: log, Stderr: log, Adopt: true})
	if err == nil {
		err = s.Started(nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	fmt.Println("ready")
	_, _ = bufio.NewReader(os.Stdin).ReadString('\n')
	s.Finish()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

// The lines that TestKilled has written: one stream's have a length of their own, with
// pieces; the other's are short.
func longLine(i int) string  { return fmt.Sprintf("%d %0*d\n", i, i%400*100, 0) }
func shortLine(i int) string { return fmt.Sprintf("%d\n", i) }

// Whoever writes the log is killed again and again, between any two
// instructions, and the log is renamed away in between: no byte of either stream
// is lost or doubled.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	var parts []string
	n := killAgainAndAgain(t, dir, "cri://"+log, longLine, shortLine, func(kill int) {
		if kill%3 == 0 { // a rotation that nobody was there to be told of
			part := fmt.Sprintf("%s.moved%d", log, kill)
			if os.Rename(log, part) == nil {
				parts = append(parts, part)
			}
		}
	})
	t.Logf("%d rotations", len(parts))
	text := map[string]*strings.Builder{"stdout": {}, "stderr": {}}
	for _, part := range append(parts, log) {
		for _, line := range content(t, part) {
			stream, rest, _ := strings.Cut(line, " ")
			tag, piece, _ := strings.Cut(rest, " ")
			text[stream].WriteString(piece)
			if tag == "F" {
				text[stream].WriteByte('\n')
			}
		}
	}
	checkLines(t, text["stdout"].String(), longLine, n[0])
	checkLines(t, text["stderr"].String(), shortLine, n[1])
}

// Likewise of one that rotates by itself.
func TestKilledRotating(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "log")
	c := logdriver.Config{Driver: logdriver.JSONFile, MaxSize: 200 << 10, MaxFiles: 1000}
	lines := killAgainAndAgain(t, dir, c.FileURI(log), longLine, shortLine, func(int) {})
	text := map[string]*strings.Builder{"stdout": {}, "stderr": {}}
	n := 0
	for i := 999; i >= 0; i-- {
		data, err := os.ReadFile(logdriver.Older(log, i))
		if errors.Is(err, fs.ErrNotExist) {
			continue // a gap is where a shift was cut short
		}
		if err != nil {
			t.Fatal(err)
		}
		if n++; len(data) > 200<<10 {
			t.Errorf("file %d: %d bytes", i, len(data))
		}
		for line := range strings.Lines(string(data)) {
			r := jsonLine(t, line)
			text[r.Stream].WriteString(r.Log)
		}
	}
	t.Logf("%d files", n)
	checkLines(t, text["stdout"].String(), longLine, lines[0])
	checkLines(t, text["stderr"].String(), shortLine, lines[1])
}

// Of a journal's writer, too, but for the entry that it was sending: that may be there
// twice, which nobody can know.
func TestKilledJournal(t *testing.T) {
	dir := t.TempDir()
	j := newFakeJournal(t)
	text := map[string]*strings.Builder{"6": {}, "3": {}}
	doubled := 0
	collected := make(chan struct{})
	go func() {
		defer close(collected)
		previous := map[string]string{}
		for e := range j.entries {
			stream, line := e["PRIORITY"], e["MESSAGE"]+"\n"
			if previous[stream] == line {
				doubled++
				continue
			}
			previous[stream] = line
			text[stream].WriteString(line)
		}
	}()
	n := killAgainAndAgain(t, dir, j.uri(nil), shortLine, shortLine, func(int) {})
	j.end()
	<-collected
	t.Logf("%d doubled", doubled)
	if doubled > 2*kills {
		t.Errorf("%d entries doubled by %d kills", doubled, kills)
	}
	checkLines(t, text["6"].String(), shortLine, n[0])
	checkLines(t, text["3"].String(), shortLine, n[1])
}

// kills is how often a writer is killed.
const kills = 20

// killAgainAndAgain writes lines to both streams until the writer of their log has been
// killed that often, and returns how many it has written.
func killAgainAndAgain(t *testing.T, dir, log string, stdout, stderr func(int) string, killed func(kill int)) (n [2]int) {
	t.Helper()
	enough := make(chan struct{})
	var writing sync.WaitGroup
	for i, line := range []func(int) string{stdout, stderr} {
		path := filepath.Join(dir, []string{"stdout", "stderr"}[i])
		if err := sys.MakeFIFO(path, 0o600); err != nil {
			t.Fatal(err)
		}
		// Open for reading, too: nothing is lost while nobody else reads.
		fifo, err := openFIFO(path, os.O_RDWR)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = fifo.Close() }()
		writing.Go(func() {
			for {
				select {
				case <-enough:
					return
				default:
				}
				n[i]++
				if _, err := fifo.WriteString(line(n[i])); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	run := func() (victim *exec.Cmd, in io.Writer) {
		victim = exec.Command(os.Args[0], "-test.run", "^TestFlowVictim$")
		victim.Env = append(os.Environ(), "STRAKE_FLOW_DIR="+dir, "STRAKE_FLOW_LOG="+log)
		victim.Stderr = os.Stderr
		in, err := victim.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := victim.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
			t.Fatalf("the victim said %q, %v", line, err)
		}
		return victim, in
	}
	for kill := range kills {
		victim, _ := run()
		<-time.After(time.Duration(rand.IntN(20000)) * time.Microsecond) // any moment will do
		_ = victim.Process.Kill()
		_ = victim.Wait()
		killed(kill)
	}
	victim, in := run()
	close(enough)
	writing.Wait()
	_, _ = in.Write([]byte("\n"))
	if err := victim.Wait(); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d lines", n)
	return n
}

// checkLines checks that text is n lines as they were written.
func checkLines(t *testing.T, text string, want func(int) string, n int) {
	t.Helper()
	i := 0
	for line := range strings.Lines(text) {
		if i++; line != want(i) {
			t.Fatalf("line %d is %.40q, %d long", i, line, len(line))
		}
	}
	if i != n {
		t.Errorf("%d lines of %d", i, n)
	}
}

// A cell says what was taken, whatever moment a monitor, or one that goes on for it,
// was killed at: recovery that is itself cut short is done again.
func TestRecoverAgain(t *testing.T) {
	for _, at := range []string{"nothing sent", "one sent", "all sent", "cutting", "cut", "taken"} {
		t.Run(at, func(t *testing.T) {
			f, err := openFlow(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer f.close()
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if _, err := w.WriteString("one\ntwo\nthree"); err != nil {
				t.Fatal(err)
			}
			c := f.cell(0)
			c.beginUnsized(len("one\ntwo\n"), '\n')
			want := "two\nthree"
			switch at {
			case "nothing sent":
				want = "one\ntwo\nthree"
			case "all sent":
				c.sent(len("one\ntwo\n"), '\n')
				want = "three"
			default:
				c.sent(len("one\n"), '\n')
			}
			switch at {
			case "cutting":
				c[cellActive] = cutting
				c[cellWant] = 'x'
				c[cellGot] = 'x' // whatever: the next one does not believe it
			case "cut":
				c.cut(4, '\n')
			case "taken": // and not noted
				c.cut(4, '\n')
				if err := c.take(r); err != nil {
					t.Fatal(err)
				}
			}
			for range 2 {
				if err := (&journal{}).recover(c, r); err != nil {
					t.Fatal(err)
				}
			}
			w.Close()
			if rest, err := io.ReadAll(r); err != nil || string(rest) != want {
				t.Errorf("%q is left, want %q, %v", rest, want, err)
			}
			if taken := c.get(cellTaken); taken != uint64(len("one\ntwo\nthree")-len(want)) {
				t.Errorf("%d taken", taken)
			}
		})
	}
}
